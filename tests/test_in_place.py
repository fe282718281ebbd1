"""With --in-place: every notebook runs where it lies, as in JupyterLab, and once more over what it left.

The checkout is copied first. What a notebook writes must be what git ignores, since nothing else is kept out
of the tests of the tree, of the wheel and of the site."""
import shutil
import subprocess
from pathlib import Path

import pytest
from test_notebooks import as_parameters, code_cells, nbs, new_shell, root, run_cells


def files(folder: Path) -> set[str]:
    "Every file below a folder."
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name for name in found if not name.startswith(".git/")}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    "A copy of the files that git knows, a repository of its own."
    folder = tmp_path_factory.mktemp("in_place")/"checkout"
    known = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
    for name in known.stdout.splitlines():
        if not (root/name).is_file(): continue
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/name, folder/name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def ignored(checkout: Path, names: list[str]) -> set[str]:
    "Those of the names that git would not list."
    how = dict(cwd=checkout, input="\n".join(names), capture_output=True, text=True)
    return set(subprocess.run(["git", "check-ignore", "--stdin"], **how).stdout.splitlines())


@pytest.mark.global_rng
@pytest.mark.parametrize("name", as_parameters())
def test_in_place(name, checkout, tmp_path, monkeypatch):
    cells, _ = code_cells(nbs/name, tmp_path/"out")
    before = files(checkout)
    monkeypatch.chdir((checkout/"nbs"/name).parent)
    monkeypatch.setenv("IN_TEST", "1")
    with new_shell() as shell: run_cells(shell, name, cells)
    left = sorted(files(checkout) - before)
    assert set(left) == ignored(checkout, left), "files that git would list"
    if not left: return
    with new_shell() as shell: run_cells(shell, f"{name}, a second time", cells)
    for path in left: (checkout/path).unlink(missing_ok=True)
