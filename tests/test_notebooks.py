"""Run every notebook top to bottom on a CPU, in this process: imports are shared, names and files are not."""
import builtins
import gc
import json
import os
import re
import sys
import traceback
from configparser import ConfigParser
from contextlib import contextmanager, nullcontext
from pathlib import Path

import nbformat
import pytest
from kills import in_this_process
from sources import sources

root = Path(__file__).resolve().parents[1]
nbs = root / "nbs"
# Pipelines need papermill and a store: tests/test_pipelines.py runs them.
notebooks = sorted(p.relative_to(nbs).as_posix() for p in sources(nbs) if p.parts[-2] != "pipelines")
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
forced = os.environ.get("VU_TEST_FLAGS", "").split()
flags = [f for f in config["DEFAULT"]["tst_flags"].split() if f not in forced]
skipped_cell = re.compile(rf"^#\|\s*(eval:\s*false{''.join('|' + f for f in flags)})\s*$", re.M | re.I)
front_matter_skip = re.compile(r"^(?:- )?skip_exec:\s*true\s*$", re.M | re.I)

# How long they take on one core, as `make seconds` found it; those that take long begin first.
SECONDS = Path(__file__).with_name("seconds.json")
seconds = json.loads(SECONDS.read_text())
LONG = {name: taken for name, taken in seconds.items() if taken >= 10}


def as_parameters():
    "The notebooks; `--quick` runs the first of each band that does not take long."
    seen = set()
    for name in notebooks:
        marks, band = [], name.rpartition("/")[0]
        if name in LONG: marks.append(pytest.mark.long(LONG[name]))
        elif band in seen: marks.append(pytest.mark.more_notebooks)
        else: seen.add(band)
        yield pytest.param(name, marks=marks)


def tree() -> set:
    "Every file of the checkout except what git ignores by name and what tools leave behind."
    skip = {".git", ".venv", "assets", "_proc", "_docs", "build", "dist", "__pycache__"}
    found = set()
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in skip and not f.endswith((".egg-info", "_cache"))]
        found.update(os.path.relpath(os.path.join(folder, f), root) for f in files)
    return found


def code_cells(path: Path, out: Path) -> tuple[list, list]:
    "(cells to run as (number, source), names of the flags that kept others from running)"
    cells, skips, training = [], [], path.parent.name == "training"
    for number, cell in enumerate(nbformat.read(path, 4).cells):
        if cell.cell_type != "code": continue
        if flag := skipped_cell.search(cell.source): skips.append(flag[1])
        else: cells.append((number, cell.source))
        # The convention of nbs/training: its parameters cell says `scale = "full"`, and `out` is where
        # weights go.
        if training and "parameters" in cell.metadata.get("tags", []):
            cells.append((number, f'from pathlib import Path\nscale, out = "smoke", Path({str(out)!r})'))
    return cells, skips


@contextmanager
def new_shell():
    "An IPython shell of its own; what a shell changes in the process is put back."
    from execnb.shell import CaptureShell

    saved = (
        sys.modules["__main__"],
        sys.displayhook,
        sys.excepthook,
        sys.path[:],
        dict(os.environ),
        vars(builtins).copy(),
    )
    shell = CaptureShell(mpl_format="png")
    yield shell
    shell.reset(new_session=False)
    sys.modules["__main__"], sys.displayhook, sys.excepthook, sys.path[:], environment, names = saved
    os.environ.clear()
    os.environ.update(environment)
    for name in set(vars(builtins)) - set(names): delattr(builtins, name)
    if matplotlib := sys.modules.get("matplotlib"): matplotlib.rcdefaults()
    gc.collect()
    # What survives is imported modules, 700,000 objects in the end: nobody need look through them again.
    gc.freeze()


@pytest.fixture
def shell():
    with new_shell() as shell: yield shell


def run_cells(shell, name, cells):
    "Run the cells of a notebook; the first that fails ends the test with its traceback."
    for number, source in cells:
        result = shell.run_cell(source)
        if result.exception is None: continue
        # Without IPython's own frame at the top.
        error = result.exception.with_traceback(result.exception.__traceback__.tb_next)
        shown = "".join(traceback.format_exception(error))
        pytest.fail(f"nbs/{name}, cell {number}:\n\n{source}\n\n{shown}", pytrace=False)


# Whose lesson is the kernel that a stage's notebook runs in; for all others the stages run here.
KERNELS = {"8_running/14_notebooks.ipynb"}


@pytest.fixture
def stages_here(name):
    with nullcontext() if name in KERNELS else in_this_process(): yield


def test_there_are_notebooks(): assert len(notebooks) > 100 and set(seconds) | KERNELS <= set(notebooks)


# The lessons of a notebook may draw from the global generator; the library they call may not, and tests/ says
# so.
@pytest.mark.global_rng
@pytest.mark.parametrize("name", as_parameters())
def test_notebook(name, shell, stages_here, tmp_path, monkeypatch):
    path = nbs / name
    if front_matter_skip.search("\n".join(c.source for c in nbformat.read(path, 4).cells[:2])):
        pytest.skip("front matter says skip_exec: true")
    cells, skips = code_cells(path, tmp_path / "out")
    if not cells and skips: pytest.skip(f"every code cell is marked {' or '.join(sorted(set(skips)))}")
    before = tree()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    # nbdev's own sign for notebooks under test: nbdev_export() in one does nothing.
    monkeypatch.setenv("IN_TEST", "1")
    run_cells(shell, name, cells)
    left = sorted(tree() - before)
    assert not left, f"nbs/{name} left files in the tree: {left}"
