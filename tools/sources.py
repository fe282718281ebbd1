"""Which files of nbs/ are sources, and nbdev for these alone.

python tools/sources.py export|clean|docs

A notebook that is run where it lies keeps its store beside itself, in `assets/`, which git ignores too.
Executed notebooks are in there: no pages, no tests, and not ours to clean.
"""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
# As nbdev takes it: its own rule (hidden folders, and those with an underscore), and stores.
skip_folders = r"^([_.]|assets$)"


def is_source(
    inside: Path,  # relative to nbs/
) -> bool:
    "Whether a file is ours: neither hidden nor made by a run."
    return inside.name[0] not in "_." and not any(re.match(skip_folders, part) for part in inside.parts)


def sources(
    nbs: Path,
    pattern: str = "*.ipynb",
) -> list[Path]:
    "The files of a tree of notebooks that are sources, in order."
    return sorted(p for p in nbs.rglob(pattern) if p.is_file() and is_source(p.relative_to(nbs)))


def export() -> None:
    "nbdev_export of the sources in nbs/ of the working folder."
    from nbdev.doclinks import nbdev_export
    nbdev_export(skip_folder_re=skip_folders)


def clean() -> None:
    "nbdev_clean of the sources in nbs/ of the working folder."
    from nbdev.clean import nbdev_clean
    for path in sources(Path("nbs").resolve()): nbdev_clean(str(path))


def docs() -> None:
    "nbdev_docs of the sources in nbs/ of the working folder."
    from nbdev.quarto import nbdev_docs
    nbdev_docs(n_workers=2, skip_folder_re=skip_folders)


if __name__ == "__main__":
    commands = {"export": export, "clean": clean, "docs": docs}
    if len(sys.argv) != 2 or sys.argv[1] not in commands: sys.exit(f"one of: {', '.join(commands)}")
    commands[sys.argv[1]]()
