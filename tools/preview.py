"""The docs as plain HTML in _docs/, for those without the quarto program: nbdev's processing, then nbconvert.

python tools/preview.py [--workers N] [--quick] [FOLDER]     (default: _docs)

Sidebar, navigation bar and the order of pages are those of _quarto.yml; only the theme looks different.
With --quick nothing is run and no code is coloured: pages then name their symbols and do not describe them.
"""
import argparse
import html
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown import markdown2html
from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter
from pygments.formatters import HtmlFormatter
from sources import skip_folders, sources

root = Path(__file__).resolve().parents[1]
processed = root / "_proc"
site = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))["website"]
about = yaml.safe_load((root / "nbs" / "nbdev.yml").read_text(encoding="utf-8"))["website"]

template = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{base}preview.css"><link rel="stylesheet" href="{base}styles.css">
<script>window.MathJax = {{tex: {{inlineMath: [["$", "$"]]}}}}</script>
<script async src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml.js"></script></head><body>
<header><a class="brand" href="{base}index.html">{site}</a>{navbar}</header>
<div class="page"><nav class="sidebar"><details {open}><summary>Contents</summary>{sidebar}</details></nav>
<main>{body}<nav class="turn">{turn}</nav></main></div>
<script>if (innerWidth < 900) document.querySelector(".sidebar details").open = false</script></body></html>
"""
style = """
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: #212529; }
header { background: #2780e3; padding: .6rem 1rem; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
header a { color: #fff; text-decoration: none; } header .brand { font-weight: 600; }
.page { display: flex; gap: 2rem; max-width: 1280px; margin: 0 auto; padding: 1rem; }
.sidebar { flex: 0 0 15rem; font-size: .9rem; }
.sidebar ul { list-style: none; padding-left: .8rem; margin: .2rem 0; }
.sidebar > details > summary { font-weight: 600; } .sidebar a.here { font-weight: 700; }
main { flex: 1; min-width: 0; } a { color: #1668b8; }
main h1, main h2, main h3 { line-height: 1.25; }
pre { background: #f6f8fa; padding: .6rem .8rem; border-radius: 4px; font-size: .85rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
.output_text pre, .output_stream pre { background: none; white-space: pre; overflow-x: auto; padding: 0; }
.output_area { margin: 0 0 1rem .5rem; padding-left: .75rem; border-left: 2px solid #dee2e6; }
img { max-width: 100%; height: auto; }
table { display: block; max-width: 100%; overflow-x: auto; border-collapse: collapse; font-size: .9rem; }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #dee2e6; text-align: left; vertical-align: top; }
blockquote { margin-left: 0; padding-left: 1rem; border-left: 3px solid #2780e3; color: #495057; }
.turn { display: flex; justify-content: space-between; margin-top: 3rem; padding-top: 1rem;
        border-top: 1px solid #dee2e6; }
@media (max-width: 899px) { .page { display: block; } }
"""


def process_quickly() -> None:
    "As `process`, without running what a page exports."
    import docs
    for source in sources(root / "nbs", "*"):
        inside = source.relative_to(root / "nbs")
        if source.suffix == ".ipynb": docs.quick(source, processed / inside)
        if source.suffix in {".qmd", ".png", ".html"}:
            (processed / inside).parent.mkdir(parents=True, exist_ok=True)
            (processed / inside).write_bytes(source.read_bytes())


def process(workers: int) -> None:
    "nbdev's own processing, from nbs/ into _proc/."
    # Without quarto on PATH nbdev tries to install it, with sudo: an empty stand-in keeps it from that.
    with tempfile.TemporaryDirectory() as folder:
        stand_in = Path(folder) / "quarto"
        stand_in.write_text("#!/bin/sh\nexit 0\n")
        stand_in.chmod(0o755)
        path = os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])
        tools = os.pathsep.join([str(root / "tools"), str(root)])
        # A page that was made before shows what the library was then.
        shutil.rmtree(root / "_proc", ignore_errors=True)
        options = f"n_workers={workers}, skip_folder_re={skip_folders!r}"
        command = f"from nbdev.quarto import nbdev_proc_nbs; nbdev_proc_nbs({options})"
        environment = {"HF_HUB_OFFLINE": "1", **os.environ, "PATH": path, "PYTHONPATH": tools}
        subprocess.run([sys.executable, "-c", command], cwd=root, check=True, env=environment)


def address(source: str) -> str:
    "The page of a notebook or a qmd file, as nbdev and quarto name it: 25_uce.ipynb is uce.html."
    folder, name = posixpath.split(source)
    stem = re.sub(r"^\d+[a-z]*_", "", posixpath.splitext(name)[0])
    return posixpath.join(folder, f"{stem}.html")


def front_matter(text: str) -> tuple[dict, str]:
    "The fields at the head of a page, and the rest of it."
    found = re.match(r"---\n(.*?)\n---\n*(.*)", text, re.S)
    return (yaml.safe_load(found[1]), found[2]) if found else ({}, text)


def head(fields: dict) -> str: return f"# {fields.get('title', '')}\n\n> {fields.get('description', '')}"


def option(source: str, name: str) -> str | None:
    "The value of a directive of a cell, `#| fig-alt: \"a fox\"`."
    found = re.search(rf"^#\|\s*{name}:\s*(.*)$", source, re.M | re.I)
    return yaml.safe_load(found[1]) if found else None


def plain(notebook):
    "What quarto would do with a page's front matter and directives."
    for cell in notebook.cells:
        if cell.cell_type == "raw":
            cell.cell_type = "markdown"
            cell.source = head(front_matter(cell.source)[0])
        if cell.cell_type != "code": continue
        alt, hidden = option(cell.source, "fig-alt"), option(cell.source, "echo") is False
        for output in cell.outputs:
            if alt and "image/png" in output.get("data", {}): output.metadata["image/png"] = {"alt": alt}
        cell.source = "" if hidden else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    return notebook


def listing(page: Path) -> str:
    "The table that quarto makes of a folder: titles and promises."
    rows = ["| page | what |", "|---|---|"]
    for path in sorted(page.parent.glob("*.ipynb")):
        fields, _ = front_matter(read_page(path).cells[0].source)
        rows.append(f"| [{fields['title']}]({path.name}) | {fields.get('description', '')} |")
    return "\n".join(rows)


def as_written(text: str | bytes) -> str: return text.decode() if isinstance(text, bytes) else text


def uncoloured(source: str, **about) -> str:
    return f'<div class="highlight"><pre>{html.escape(source)}</pre></div>'


class PageExporter(HTMLExporter):
    """From notebooks to pages.
    Code that pygments has escaped is not parsed and cleaned a second time, nor is the page, to which
    nbconvert would add what only its own style uses."""
    def __init__(self, coloured: bool):
        super().__init__(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True,
                         exclude_anchor_links=True)
        colour = Highlight2HTML(pygments_lexer="ipython3", parent=self) if coloured else uncoloured
        self.register_filter("clean_html", as_written)
        self.register_filter("highlight_code", colour)
        self.register_filter("filter_data_type", WidgetsDataTypeFilter({}, parent=self))

    def from_notebook_node(self, notebook, resources=None, **options):
        return super(HTMLExporter, self).from_notebook_node(notebook, resources, **options)


def read_page(path: Path):
    "A notebook that nbdev has just written, which need not be validated."
    return nbformat.v4.reads(path.read_text(encoding="utf-8"))


def body_of(source: Path, exporter: PageExporter) -> str:
    "The inside of a page."
    if source.suffix == ".ipynb": text, _ = exporter.from_notebook_node(plain(read_page(source)))
    else:
        fields, rest = front_matter(source.read_text(encoding="utf-8"))
        text = markdown2html(f"{head(fields)}\n\n{rest}\n\n{listing(source) if 'listing' in fields else ''}")
    # What is left of cells whose code is not shown.
    text = re.sub(r'<div class="[^"]*highlight[^"]*"><pre><span></span>\s*</pre></div>', "", text)
    # Attributes in braces and ::: fences are quarto's markdown; here they would be shown as text.
    text = re.sub(r"\{target=(?:\"|&quot;|“)_blank.*?\}", "", text)
    return re.sub(r"(<p>)?:::+ *(\{[^}]*\})?(</p>)?", "", text)


def heading(found: re.Match) -> str:
    "A heading with the anchor that pandoc gives it."
    text = html.unescape(re.sub(r'<a class="anchor-link".*?</a>|<[^>]+>', "", found[3])).strip()
    name = re.sub(r"[^\w\s.-]", "", text.lower())
    anchor = re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", name)) or "section"
    inside = re.sub(r'<a class="anchor-link".*?</a>', "", found[3])
    return f'<h{found[1]} id="{anchor}">{inside}</h{found[1]}>'


def relink(text: str, page: str, pages: dict[str, str]) -> str:
    "Links to notebooks and to the published site become links to the pages here."
    def target(found):
        link, mark, anchor = html.unescape(found[2]).partition("#")
        if link.startswith(about["site-url"]): wanted = link.removeprefix(about["site-url"]).strip("/")
        elif re.match(r"[a-z]+:", link) or not link: return found[0]
        else:
            wanted = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            wanted = pages.get(wanted, wanted)
        return f'{found[1]}"{posixpath.relpath(wanted, posixpath.dirname(page) or ".")}{mark}{anchor}"'
    return re.sub(r'(<a [^>]*?href=)"([^"]*)"', target, text)


def menu(items: list, depth: int = 0) -> str:
    "The sidebar: links to sources, which `relink` turns into links to pages."
    lines = []
    for item in items:
        if isinstance(item, str): lines.append(f'<li><a href="/{item}">{titles.get(item, item)}</a></li>')
        else:
            inner = f'<li><a href="/{item["href"]}">all of it</a></li>' + menu(item["contents"], depth + 1)
            lines.append(f'<li><details><summary>{item["section"]}</summary><ul>{inner}</ul></details></li>')
    return "".join(lines)


def flat(items: list) -> list[str]:
    "The sources of the sidebar in reading order."
    found = []
    for item in items: found += [item] if isinstance(item, str) else [item["href"], *flat(item["contents"])]
    return found


titles = {}


def build(target: Path, coloured: bool = True) -> list[Path]:
    "Every processed page into `target`."
    # What an earlier processing left of a run is passed over too.
    texts = [p for p in sources(processed, "*") if p.suffix in {".ipynb", ".qmd"}]
    names = [p.relative_to(processed).as_posix() for p in texts]
    pages = {name: address(name) for name in names}
    for name, source in zip(names, texts):
        first = read_page(source).cells[0].source if source.suffix == ".ipynb" else source.read_text()
        titles[name] = front_matter(first)[0].get("title", name)
    order = [name for name in flat(site["sidebar"]["contents"]) if name in pages]
    contents, links = f"<ul>{menu(site['sidebar']['contents'])}</ul>", []
    for entry in site["navbar"]["left"] + site["navbar"]["right"]:
        for item in entry.get("menu", [entry]):
            text = f"{entry['text']} {item['text']}" if "menu" in entry else item["text"]
            link = item["href"] if ":" in item["href"] else f"/{item['href']}"
            links.append(f'<a href="{link}">{text}</a>')
    exporter = PageExporter(coloured)
    done = []
    for name, source in zip(names, texts):
        page = pages[name]
        base = posixpath.relpath(".", posixpath.dirname(page) or ".") + "/"
        turn = ""
        if name in order:
            i = order.index(name)
            before, after = order[i - 1] if i else None, order[i + 1] if i + 1 < len(order) else None
            turn = f'<a href="/{before}">&larr; {titles[before]}</a>' if before else "<span></span>"
            turn += f'<a href="/{after}">{titles[after]} &rarr;</a>' if after else ""
        frame = {"navbar": "".join(links), "sidebar": contents, "turn": turn}
        frame = {part: text.replace('href="/', f'href="{base}') for part, text in frame.items()}
        frame = {part: relink(text, page, pages) for part, text in frame.items()}
        here = f'href="{posixpath.relpath(page, posixpath.dirname(page) or ".")}"'
        frame["sidebar"] = frame["sidebar"].replace(f"<a {here}>", f'<a class="here" {here}>')
        text = re.sub(r"<h([1-6])()[^>]*>(.*?)</h\1>", heading, body_of(source, exporter), flags=re.S)
        text = template.format(title=html.escape(titles[name]), site=about["title"], base=base, open="open",
                               body=relink(text, page, pages), **frame)
        path = target / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        done.append(path)
    (target / "styles.css").write_text((root / "nbs" / "styles.css").read_text())
    (target / "preview.css").write_text(style + HtmlFormatter().get_style_defs(".highlight"))
    for copied in [*sources(processed, "*.png"), *sources(processed, "*.html")]:
        copy = target / copied.relative_to(processed)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(copied.read_bytes())
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=root / "_docs")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            processed = Path(folder)
            process_quickly()
            sys.exit(print(f"{len(build(arguments.folder, coloured=False))} pages in {arguments.folder}"))
    process(arguments.workers)
    print(f"{len(build(arguments.folder))} pages in {arguments.folder}")
