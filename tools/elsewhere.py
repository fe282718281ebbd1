"""Let every tutorial be opened elsewhere: a link to Colab and Kaggle, and a first code cell that installs.

python tools/elsewhere.py [--check]

Both are written from settings.ini (repository and branch) and from the place of the notebook,
into its second and third cell.
The install cell does nothing where the package is there.
Colab has imported pandas before the first cell, and an older one than is needed here:
what was renewed while it was loaded is named, and the session has to be restarted.
"""
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat

root = Path(__file__).resolve().parents[1]
tutorials = root / "nbs" / "tutorials"
LINK, INSTALL = "opened-elsewhere", "install-elsewhere"  # ids of the two cells
NEEDS = {  # what asks for more -> what is installed
    r"running\.tuning\.search": "./vu[tune]",
    r"\bskimage\b": "./vu scikit-image",
}

INSTALLING = '''#| code-fold: true
#| code-summary: "Installs the package where it is missing, as on Colab"
import sys
from importlib.util import find_spec
if find_spec("vision_unlearning") is None:
    !git clone --quiet --depth 1 --branch {branch} {url} vu
    %pip install --quiet --editable {needed}
    sys.path.insert(0, "vu")
    from importlib.metadata import version
    loaded = [name for name in ("numpy", "pandas", "matplotlib") if name in sys.modules]
    old = [name for name in loaded if sys.modules[name].__version__ != version(name)]
    if old: raise ImportError(f"{{', '.join(old)}} was renewed: restart the session, then run all again")'''


def settings() -> tuple[str, str]:
    "(address of the repository, branch), from the one place that knows them."
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]["git_url"], config["DEFAULT"]["branch"]


def link(path: Path) -> str:
    "What a reader follows."
    url, branch = settings()
    place = f"{url.removeprefix('https://github.com/')}/blob/{branch}/{path.relative_to(root).as_posix()}"
    colab = f"https://colab.research.google.com/github/{place}"
    kaggle = f"https://kaggle.com/kernels/welcome?src=https://github.com/{place}"
    return f"[Open in Colab][colab], or [on Kaggle][kaggle].\n\n[colab]: {colab}\n[kaggle]: {kaggle}"


def install(source: str) -> str:
    "The cell that installs what a notebook needs."
    url, branch = settings()
    needed = next((needs for asks, needs in NEEDS.items() if re.search(asks, source)), "./vu")
    return INSTALLING.format(url=url, branch=branch, needed=needed)


def updated(path: Path) -> nbformat.NotebookNode:
    "A notebook with today's two cells behind its title."
    nb = nbformat.read(path, 4)
    own = [cell for cell in nb.cells if cell.id not in (LINK, INSTALL)]
    source = "\n".join(cell.source for cell in own if cell.cell_type == "code")
    opened = nbformat.v4.new_markdown_cell(link(path), id=LINK)
    nb.cells = [own[0], opened, nbformat.v4.new_code_cell(install(source), id=INSTALL), *own[1:]]
    return nb


if __name__ == "__main__":
    old = False
    for path in sorted(tutorials.glob("*.ipynb")):
        made = nbformat.writes(updated(path), 4, indent=1) + "\n"
        if made == path.read_text(encoding="utf-8"): continue
        old = True
        print(path.relative_to(root))
        if "--check" not in sys.argv: path.write_text(made, encoding="utf-8")
    if old and "--check" in sys.argv: sys.exit("links or install cells are out of date: make prepare")
