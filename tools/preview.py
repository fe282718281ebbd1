"""The docs as plain HTML in _docs/, for those without the quarto program: nbdev's processing, then nbconvert.

python tools/preview.py [FOLDER]     (default: _docs)
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

root = Path(__file__).resolve().parents[1]
target = Path(sys.argv[1] if len(sys.argv) > 1 else root / "_docs")

# Without quarto on PATH nbdev tries to install it, with sudo: an empty stand-in keeps it from that.
with tempfile.TemporaryDirectory() as folder:
    stand_in = Path(folder) / "quarto"
    stand_in.write_text("#!/bin/sh\nexit 0\n")
    stand_in.chmod(0o755)
    path = os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        [sys.executable, "-c", "from nbdev.quarto import nbdev_proc_nbs; nbdev_proc_nbs()"],
        cwd=root,
        check=True,
        env={"HF_HUB_OFFLINE": "1", **os.environ, "PATH": path},
    )



def plain(notebook):
    "What quarto would do with a page's front matter and directives."
    for cell in notebook.cells:
        if cell.cell_type == "raw":
            fields = dict(re.findall(r"^(title|description): *(.*)$", cell.source, re.M))
            cell.cell_type = "markdown"
            cell.source = f"# {fields.get('title', '')}\n\n> {fields.get('description', '')}"
        if cell.cell_type != "code": continue
        hidden = re.search(r"^#\|\s*echo:\s*false", cell.source, re.M | re.I)
        cell.source = "" if hidden else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    return notebook


exporter, pages = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True), []
for source in sorted((root / "_proc").rglob("*.ipynb")):
    html, _ = exporter.from_notebook_node(plain(nbformat.read(source, 4)))
    # Attributes in braces and ::: fences are quarto's markdown; here they would be shown as text.
    html = re.sub(r"\{target=(?:\"|&quot;|“)_blank.*?\}", "", html)
    html = re.sub(r"(<p>)?:::+ *(\{[^}]*\})?(</p>)?", "", html)
    name = re.sub(r"^\d+[a-z]*_", "", source.stem) + ".html"
    page = target / source.relative_to(root / "_proc").parent / name
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")
    pages.append(page)

if not (target / "index.html").exists():
    items = "".join(
        f'<li><a href="{p.relative_to(target).as_posix()}">{p.relative_to(target).with_suffix("")}</a></li>\n'
        for p in pages
    )
    (target / "contents.html").write_text(f"<ul>\n{items}</ul>\n", encoding="utf-8")
print(f"{len(pages)} pages in {target}")
