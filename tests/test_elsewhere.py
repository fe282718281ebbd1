"""Tutorials open in Colab and on Kaggle: each links to its own path, and installs what is missing first."""
import builtins
import importlib.util
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

root = Path(__file__).resolve().parents[1]
tutorials = sorted((root / "nbs" / "tutorials").glob("*.ipynb"))
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
url, branch = config["DEFAULT"]["git_url"], config["DEFAULT"]["branch"]


def cells(path): return nbformat.read(path, 4).cells


def test_links_and_install_cells_are_todays():
    subprocess.run([sys.executable, root / "tools" / "elsewhere.py", "--check"], check=True)


@pytest.mark.parametrize("path", tutorials, ids=lambda path: path.stem)
def test_the_link_leads_to_the_page_itself(path):
    links = dict(re.findall(r"^\[(\w+)\]: (\S+)$", cells(path)[1].source, re.M))
    place = f"{url}/blob/{branch}/nbs/tutorials/{path.name}"
    github = place.removeprefix("https://github.com")
    assert links["colab"] == f"https://colab.research.google.com/github{github}"
    assert links["kaggle"] == f"https://kaggle.com/kernels/welcome?src={place}"


@pytest.mark.parametrize("path", tutorials, ids=lambda path: path.stem)
def test_the_first_code_cell_installs_only_where_the_package_is_missing(path, monkeypatch):
    first = next(cell.source for cell in cells(path) if cell.cell_type == "code")
    said = []
    shell = SimpleNamespace(
        system=said.append, run_line_magic=lambda name, line, **more: said.append(f"%{name} {line}")
    )
    monkeypatch.setattr(sys, "path", sys.path[:])
    program = compile(TransformerManager().transform_cell(first), path.name, "exec")
    exec(program, {"get_ipython": lambda: shell, "__builtins__": builtins})
    assert not said
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(program, {"get_ipython": lambda: shell, "__builtins__": builtins})
    clone, install = said
    assert clone.startswith("git clone") and clone.endswith(f" --branch {branch} {url} vu")
    extra = re.search(r" --editable \./vu(?:\[(\w+)\])?(?: scikit-image)?$", install)[1]
    assert extra is None or f"{extra}_requirements" in config["DEFAULT"]
    assert sys.path[0] == "vu"


def test_what_was_loaded_before_it_was_renewed_is_named(monkeypatch):
    "A first cell of Colab finds an older pandas in memory."
    first = next(cell.source for cell in cells(tutorials[0]) if cell.cell_type == "code")
    shell = SimpleNamespace(system=print, run_line_magic=lambda name, line, **more: None)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(__version__="2.2.2"))
    program = compile(TransformerManager().transform_cell(first), "first", "exec")
    with pytest.raises(ImportError, match="pandas was renewed: restart the session"):
        exec(program, {"get_ipython": lambda: shell, "__builtins__": builtins})
