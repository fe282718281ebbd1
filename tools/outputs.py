"""Run notebooks in place, each in its own kernel, and keep the outputs: they are the pages of the docs.

python tools/outputs.py [--slow] [NOTEBOOK ...]     (default: the library's, the index and the tutorials)

Cells that the tests skip (`#| eval: false`, `notest`, `slow`) are not run and keep the outputs they have.
With --slow they run too, and the notebook finds the `assets` folder of the checkout.
"""
import os
import re
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

root = Path(__file__).resolve().parents[1]
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
skip = re.compile(
    rf"^#\|\s*(eval:\s*false|{'|'.join(config['DEFAULT']['tst_flags'].split())})\s*$", re.M | re.I
)


def run(path: Path, slow: bool = False) -> None:
    "Execute one notebook; it is written only when every cell has run."
    notebook = nbformat.read(path, 4)
    kept = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and not slow and skip.search(cell.source):
            kept[cell.id] = cell.metadata.get("tags")
            cell.metadata["tags"] = [*(kept[cell.id] or []), "skip-execution"]
    # A scratch folder: a notebook writes nothing into the tree.
    with tempfile.TemporaryDirectory() as folder:
        if slow:
            (root / "assets").mkdir(exist_ok=True)
            (Path(folder) / "assets").symlink_to(root / "assets")
        NotebookClient(
            notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        # Times of execution change on every run and tell a reader nothing.
        cell.metadata.pop("execution", None)
        # What libraries mutter while a cell runs is no result, and a warning has a path of this machine.
        if "outputs" in cell: cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        if cell.get("id") in kept:
            if kept[cell.id] is None: del cell.metadata["tags"]
            else: cell.metadata["tags"] = kept[cell.id]
    # Version tables of the kernel would change with every Python release; nbdev_clean drops the rest.
    notebook.metadata.pop("language_info", None)
    partial = path.with_suffix(".ipynb.partial")
    nbformat.write(notebook, partial)
    os.replace(partial, path)


if __name__ == "__main__":
    # A kernel that is told of another backend keeps no pictures.
    os.environ.pop("MPLBACKEND", None)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # tqdm warns about missing widgets with the path of its own file, which would end up on a page.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    # Jupyter's kernel shows pictures only where no other backend was asked for.
    os.environ.pop("MPLBACKEND", None)
    # A notebook that ends with nbdev_export() must not export from its scratch folder.
    os.environ["IN_TEST"] = "1"
    nbs = root / "nbs"
    default = [
        *sorted(nbs.glob("[0-9]*/*.ipynb")),
        *nbs.glob("index.ipynb"),
        *sorted(nbs.glob("tutorials/*.ipynb")),
    ]
    failed = []
    slow, named = "--slow" in sys.argv[1:], [Path(a) for a in sys.argv[1:] if a != "--slow"]
    for path in named or default:
        print(path, flush=True)
        try: run(path, slow)
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            failed.append(str(path))
    sys.exit(f"failed, left as they were: {', '.join(failed)}" if failed else 0)
