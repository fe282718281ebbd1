"""README.md from nbs/index.ipynb, so that the front page of the repository and of the docs are one text.

python tools/readme.py [--check]

Markdown is kept, code becomes a fenced block, outputs follow it.
Links are written for the notebook's folder and rewritten for the root; one that leads nowhere is an error.
The index page of a folder becomes the folder itself, which GitHub lists.
Pictures among the outputs are saved in nbs/images, with the description that their cell gives.
"""
import base64
import json
import os
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
link = re.compile(r"(\]\(|(?:src|href)=\")([^)\"\s]+)")
directive = re.compile(r"^#\|\s*(.+)$", re.M)
suffixes = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/svg+xml": "svg"}


def relink(text: str, notebook: Path) -> str:
    "Relative links of the notebook, seen from the root; code blocks are left alone."
    def target(m):
        path, mark, anchor = m[2].partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:", m[2]) or m[2][0] in "#/": return m[0]
        file = notebook.parent / path
        if not file.exists(): raise ValueError(f"{notebook.name}: the link {m[2]!r} leads nowhere")
        if file.name == "index.qmd": file = file.parent
        return m[1] + Path(os.path.relpath(file, root)).as_posix() + mark + anchor
    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)
    return "".join(p if p.startswith("```") else link.sub(target, p) for p in parts)


def fence(text: str, language: str = "") -> str: return f"```{language}\n{text.strip(chr(10))}\n```"


def render_output(out: dict, name: str, images: dict, folder: Path, alt: str) -> str:
    "One output as markdown; a picture is put into `images` under its path and linked."
    if out["output_type"] == "stream": return fence("".join(out["text"])) if out["name"] == "stdout" else ""
    data = {
        k: v if isinstance(v, str) else "".join(v)
        for k, v in out.get("data", {}).items()
        if not isinstance(v, dict)
    }
    for mime, suffix in suffixes.items():
        if mime not in data: continue
        path = folder / f"{name}.{suffix}"
        images[path] = data[mime].encode() if suffix == "svg" else base64.b64decode(data[mime])
        return f"![{alt}]({path.relative_to(root).as_posix()})"
    if "text/markdown" in data: return data["text/markdown"].strip()
    # GitHub shows plain HTML tables; scripts and styles of other reprs it would show as text.
    if "<table" in data.get("text/html", ""):
        return re.sub(r"<style.*?</style>\s*", "", data["text/html"], flags=re.S).strip()
    return fence(data["text/plain"]) if "text/plain" in data else ""


def render(notebook: Path) -> tuple[str, dict]:
    "(text of README.md, {path: bytes} of the pictures among the outputs)"
    folder = notebook.parent / "images"
    images = {}
    parts = [f"<!-- Made from nbs/{notebook.name} by `make readme`: edit that. -->"]
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        flags = {re.sub(r"\s+", " ", f.strip().lower()) for f in directive.findall(source)}
        if "hide" in flags or "include: false" in flags: continue
        if cell["cell_type"] == "markdown": parts.append(relink(source, notebook))
        if cell["cell_type"] != "code": continue
        code = directive.sub("", source).strip("\n")
        if code and "echo: false" not in flags: parts.append(fence(code, "python"))
        if "output: false" in flags: continue
        alt = re.search(r'^#\|\s*fig-alt:\s*"(.*)"$', source, re.M)
        parts += [
            render_output(o, f"{notebook.stem}_{cell['id']}_{i}", images, folder, alt[1] if alt else "")
            for i, o in enumerate(cell["outputs"])
        ]
    return "\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n", images


def stale(text: str, images: dict) -> list[Path]:
    "Files that differ from what the notebook says."
    wanted = {root / "README.md": text.encode(), **images}
    return [p for p, content in wanted.items() if not p.exists() or p.read_bytes() != content]


if __name__ == "__main__":
    index = root / "nbs" / "index.ipynb"
    if not index.exists(): sys.exit(print("no nbs/index.ipynb: no README.md"))
    text, images = render(index)
    old = stale(text, images)
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(p.name for p in old)}: make readme" if old else 0)
    for p in old:
        p.parent.mkdir(exist_ok=True)
        p.write_bytes(text.encode() if p.name == "README.md" else images[p])
