"""The pages that a stranger enters by: no dead link, no picture without words, no path that is gone."""
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from sources import sources

root = Path(__file__).resolve().parents[1]
nbs = root / "nbs"


class Page(HTMLParser):
    "Links, anchors and pictures of a page."
    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.silent = [], set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found: self.anchors.add(found["id"])
        if tag == "a" and found.get("href"): self.links.append(found["href"])
        if tag == "img":
            if not found.get("src", "").startswith("data:"): self.links.append(found.get("src", ""))
            self.silent += (found.get("alt") or "No description")[:14] == "No description"


def made_site(
    folder: Path,  # an empty one
) -> dict[Path, Page]:
    "Every page of the docs, made without running what they export; VU_DOCS names a folder made with it."
    if made := os.environ.get("VU_DOCS"): folder = Path(made)
    else:
        command = [sys.executable, root / "tools" / "preview.py", "--quick", folder]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return read_site(folder.resolve())


SIDEBAR = re.compile(r'<nav class="sidebar">.*?</nav>', re.S)


def read_site(folder: Path) -> dict[Path, Page]:
    "Every page; the contents beside it, the same for all pages of a folder, are read once."
    site, seen = {}, set()
    for path in sorted(folder.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        site[path] = Page(SIDEBAR.sub("", text) if path.parent in seen else text)
        seen.add(path.parent)
    return site


def dead_links(site: dict[Path, Page]) -> set[str]:
    "Links that lead to no file, or to no anchor of a page."
    dead = set()
    for path, page in site.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link): continue
            file, _, anchor = link.partition("#")
            target = Path(os.path.normpath(path.parent / unquote(file))) if file else path
            if target not in site and not target.is_file(): dead.add(f"{path.name}: {link}")
            elif anchor and target in site and unquote(anchor) not in site[target].anchors:
                dead.add(f"{path.name}: {link} (no such anchor)")
    return dead


# One test, since each worker would make a site of its own.
@pytest.mark.long(20)
def test_site(tmp_path):
    "No dead link, no picture without words, a page for every notebook."
    site = made_site(tmp_path)
    dead = dead_links(site)
    assert not dead, "\n".join(sorted(dead)[:40])
    silent = [path.name for path, page in site.items() if page.silent]
    assert not silent, silent
    assert len(site) >= len(sources(nbs))


markdown = sorted([*root.glob("*.md"), *(root / ".github").rglob("*.md")])


@pytest.mark.parametrize("page", markdown, ids=lambda p: p.name)
def test_paths_and_commands_of_markdown_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w./-])((?:nbs|tests|tools|licenses|vision_unlearning)/[\w./-]*[\w/])", text)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not re.match(r"[a-z]+:", link)]
    gone = [name for name in {*named, *links}
            if not (root / name).exists() and not (page.parent / name).exists() and "my_" not in name]
    assert not gone, f"{page.name} names what is not there: {sorted(gone)}"
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.M))
    unknown = {t for t in re.findall(r"(?:`|^|\" )make ([a-z][a-z-]*)", text, re.M) if t not in targets}
    assert not unknown, f"{page.name}: no such target of make: {unknown}"


def test_k_expressions_of_markdown_select_something():
    texts = [page.read_text(encoding="utf-8") for page in markdown]
    said = {k for text in texts for k in re.findall(r"-k ['\"]?([\w/ ]+?)['\"`]", text)}
    tests = [p.read_text(encoding="utf-8") for p in root.glob("tests/*.py")]
    names = [p.relative_to(nbs).as_posix() for p in sources(nbs)]
    names += [p.stem for p in root.glob("tests/*.py")]
    names += re.findall(r"^def (test_\w+)", "\n".join(tests), re.M)
    idle = [k for k in said if not any(word in name for word in k.split(" or ") for name in names)]
    assert not idle, f"selects nothing: {idle}"
