"""What nbdev is told about the pages of the docs (settings.ini: renderer, procs, skip_procs)."""
import inspect
import json
import re
from pathlib import Path

from execnb.nbio import mk_cell, write_nb
from fastcore.docments import _fullname
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor, Processor
from nbdev.showdoc import BasicMarkdownRenderer, _ext_link
from pydantic import BaseModel
from typing_extensions import is_typeddict

from vision_unlearning.settings import class_source, field_comments, settings_of, settings_table


def has_keys(cls: type) -> bool:
    "Whether a class is a list of names and types: a typed dictionary, or a named tuple."
    return is_typeddict(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))


def borrows_its_constructor(cls: type) -> bool:
    "Whether Python or another library says how an object is made, as matplotlib does of a figure."
    maker = cls.__init__
    return not (inspect.isfunction(maker) and maker.__module__.startswith("vision_unlearning"))


def keys_table(cls: type) -> str:
    "The keys of such a class as Markdown, with those that it inherits."
    rows = ["| key | type | what it says |", "|---|---|---|"]
    comments = {}
    for base in (*getattr(cls, "__orig_bases__", ()), cls):
        if isinstance(base, type): comments |= field_comments(class_source(base))
    optional = getattr(cls, "__optional_keys__", ())
    for name, kind in cls.__annotations__.items():
        text = getattr(kind, "__forward_arg__", None) or inspect.formatannotation(kind)
        text = re.sub(r"^(typing\.)?NotRequired\[(.*)\]$", r"\2, may be missing", text)
        if name in optional and "may be missing" not in text: text += ", may be missing"
        cells = [cell.replace("|", "\\|") for cell in (f"`{name}`", text, comments.get(name, ""))]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def settle_annotations(symbol) -> None:
    """Types that are defined further down the page stand for their names.
    nbdev runs a page from its top and shows each symbol where it is written."""
    function = symbol.__init__ if inspect.isclass(symbol) else inspect.unwrap(symbol)
    if not inspect.isfunction(function): return
    for name, kind in function.__annotations__.items():
        if not isinstance(kind, str): continue
        try: eval(kind, function.__globals__)
        except NameError: function.__annotations__[name] = type(kind, (), {})


class Renderer(BasicMarkdownRenderer):
    """A class with settings shows them as a table: its constructor would be `UCE(**settings)`.
    Of a constructor that another library wrote nothing is shown: it is explained there, and fastcore cannot
    always read it."""
    def __init__(self, sym, name=None, title_level=3, maxline=110):
        self.plain = inspect.isclass(sym) and (issubclass(sym, BaseModel) or borrows_its_constructor(sym))
        if not self.plain:
            settle_annotations(sym)
            return super().__init__(sym, name, title_level, maxline)
        self.sym, self.nm, self.title_level = sym, name or sym.__name__, title_level
        self.docs, self.fn = sym.__doc__, _fullname(sym)
        self.dm = f"class {self.nm}"  # what is printed where there is no markdown

    def _repr_markdown_(self):
        if not self.plain: return super()._repr_markdown_()
        source = NbdevLookup().code(self.fn)
        link = _ext_link(source, "source", 'style="float:right; font-size:smaller"') if source else ""
        bases = ", ".join(base.__name__ for base in self.sym.__bases__ if base is not object)
        has_settings = issubclass(self.sym, BaseModel) and settings_of(self.sym)
        table = settings_table(self.sym) if has_settings else ""
        if has_keys(self.sym): table = keys_table(self.sym)
        made = f"class {self.nm}({bases})" if bases else f"class {self.nm}"
        head = f"{'#' * self.title_level} {self.nm}"
        promise = f"*{self.docs}*" if self.docs else ""
        return "\n\n".join(["---", link, head, f"```python\n{made}\n```", promise, table])


class name_the_module(Processor):
    "The module that a page is about, below its title: titles are for reading, modules for importing."
    def begin(self):
        cells = json.loads(Path(self.nb.path_).read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        exported = re.search(r"^#\|\s*default_exp\s+(\S+)", text, re.M)
        if exported is None: return
        module = f"vision_unlearning.{exported[1]}".removesuffix(".__init__")
        self.nb.cells.insert(1, mk_cell(f"Module `{module}`", "markdown"))


class name_the_symbols(Processor):
    "Headings in the place of `show_doc`, which imports and runs what a page exports: for a quick look."
    def cell(self, cell):
        shown = re.search(r"^show_doc\(([\w.]+)", cell.source, re.M)
        if not shown or cell.cell_type != "code": return
        cell.cell_type, cell.source = "markdown", f"### {shown[1]}"


def quick(source: Path, target: Path) -> None:
    "What nbdev does with a notebook for the docs, without running anything."
    from nbdev.processors import FilterDefaults, exec_show_docs
    procs = list(FilterDefaults().procs())
    procs[procs.index(exec_show_docs)] = name_the_symbols
    processor = NBProcessor(source, procs=procs)
    processor.process()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_nb(processor.nb, target)


def linked(text: str) -> str:
    "The text with links to symbols; names with an underscore before them have no page."
    return re.sub(r"\[(`[^`]+`)\]\([^)]*#_[^)]*\)", r"\1", NbdevLookup().linkify(text))


def link_prose(cell):
    "nbdev's links, but none inside of code: its own processor puts them into signatures too."
    if cell.cell_type == "markdown": cell.source = linked(cell.source)
    for output in cell.get("outputs", []):
        text = output.get("data", {}).get("text/markdown")
        if not text: continue
        # The rows of a table are settings, and a setting may have the name of a function.
        lines = "".join(text).splitlines()
        pairs = zip(lines, linked("\n".join(lines)).splitlines())
        shown = [plain if plain.startswith("|") else rich for plain, rich in pairs]
        output["data"]["text/markdown"] = "\n".join(shown)
