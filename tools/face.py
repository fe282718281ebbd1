"""Write the methods and metrics that `import vision_unlearning as vu` offers into its stub, __init__.pyi.

python tools/face.py [--check]
"""
import ast
import sys
from collections.abc import Callable
from pathlib import Path

root = Path(__file__).resolve().parents[1]
package = root / "vision_unlearning"
stub = package / "__init__.pyi"
begin, end = "# begin: written by tools/face.py\n", "# end\n"


def own_name(node: ast.ClassDef) -> str | None:
    'How a class is called: "uce" in `name: ClassVar[str] = "uce"`, "rmse" in `name, bounds = "rmse", ...`'
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign): pairs = [(statement.target, statement.value)]
        elif not isinstance(statement, ast.Assign): continue
        elif isinstance(statement.targets[0], ast.Tuple):
            pairs = list(zip(statement.targets[0].elts, statement.value.elts))
        else: pairs = [(statement.targets[0], statement.value)]
        for target, value in pairs:
            if getattr(target, "id", None) == "name" and isinstance(value, ast.Constant): return value.value
    return None


def classes_of(module: Path) -> list[ast.ClassDef]:
    "The public classes of a module that build on another class."
    found = [n for n in ast.parse(module.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)]
    return sorted((n for n in found if n.bases and n.name[0] != "_"), key=lambda n: n.name)


def lines_of(folder: str, wanted: Callable[[ast.ClassDef], bool]) -> list[str]:
    "One import a class, in the order of the modules."
    lines = []
    for module in sorted((package / folder).glob("*.py")):
        where = ".".join(module.relative_to(package).with_suffix("").parts)
        lines += [f"from .{where} import {c.name}\n" for c in classes_of(module) if wanted(c)]
    return lines


def face() -> str:
    "The generated lines; names of methods are in small letters, and metrics are those that none builds on."
    is_method = lambda c: (own_name(c) or "").islower()
    metrics = [c for module in sorted((package / "metrics").glob("*.py")) for c in classes_of(module)]
    bases = {ast.unparse(b) for c in metrics for b in c.bases}
    is_metric = lambda c: c.name not in bases and bases_of(c, metrics) & {"Metric", "torchmetrics.Metric"}
    return "".join([
        "# Methods for text-to-image models\n", *lines_of("unlearners/diffusion", is_method),
        "\n# Methods for classifiers\n", *lines_of("unlearners/classifiers", is_method),
        "\n# Metrics\n", *lines_of("metrics", is_metric),
    ])


def bases_of(cls: ast.ClassDef, classes: list[ast.ClassDef]) -> set[str]:
    "All classes that a class builds on, as far as they are among `classes`, and the next one above."
    known = {c.name: c for c in classes}
    found, left = set(), [cls]
    while left:
        names = {ast.unparse(b) for b in left.pop().bases} - found
        found |= names
        left += [known[n] for n in names if n in known]
    return found


def updated(text: str) -> str:
    "The text of the stub with today's methods and metrics between the two marks."
    head, rest = text.split(begin)
    return head + begin + face() + end + rest.split(end, 1)[1]


if __name__ == "__main__":
    old = stub.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv: sys.exit("the face lacks methods or metrics: make face" if new != old else 0)
    if new != old: stub.write_text(new, encoding="utf-8")
