"""Write the methods and metrics that `import vision_unlearning as vu` offers into its stub, __init__.pyi.

python tools/face.py [--check]
"""
import ast
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))
from vision_unlearning.unlearners.methods import CLASSIFIERS, DIFFUSION, find_methods  # noqa: E402

package = root / "vision_unlearning"
stub = package / "__init__.pyi"
begin, end = "# begin: written by tools/face.py\n", "# end\n"


def line(module: str, cls: str) -> str:
    "One import of the stub."
    return f"from {module.removeprefix(package.name)} import {cls}\n"


def methods(wing: str) -> list[str]:
    "The methods of a wing, module after module."
    return sorted(line(found.module, found.cls) for found in find_methods(wing).values())


def metrics() -> list[str]:
    "The public classes that build on `Metric`, and that no other class builds on."
    bases, lines = {}, []
    for path in sorted((package / "metrics").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.bases:
                bases[node.name] = [ast.unparse(base) for base in node.bases]
                lines.append((node.name, line(f"{package.name}.metrics.{path.stem}", node.name)))
    def is_metric(name): return name.endswith("Metric") or any(map(is_metric, bases.get(name, [])))
    below = {base for names in bases.values() for base in names}
    return [text for name, text in lines if is_metric(name) and name not in below and name[0] != "_"]


def face() -> str:
    "The generated lines."
    return "".join([
        "# Methods for text-to-image models\n", *methods(DIFFUSION),
        "\n# Methods for classifiers\n", *methods(CLASSIFIERS),
        "\n# Metrics\n", *metrics(),
    ])


def updated(text: str) -> str:
    "The text of the stub with today's methods and metrics between the two marks."
    head, rest = text.split(begin)
    return head + begin + face() + end + rest.split(end, 1)[1]


if __name__ == "__main__":
    old = stub.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv: sys.exit("the face lacks methods or metrics: make face" if new != old else 0)
    if new != old: stub.write_text(new, encoding="utf-8")
