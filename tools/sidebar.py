"""Write the sidebar of the docs into _quarto.yml: one section a folder, from the notebooks that are there.

python tools/sidebar.py [--check]

The title of a section is that of the folder's index.qmd.
"""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
config = root / "_quarto.yml"
begin, end = "      # begin: written by tools/sidebar.py\n", "      # end\n"
# For readers first, then the house from the ground up, then what is not exported.
order = """
tutorials explanations
0_base 0_models 1_data 2_explore 3_unlearners 3a_diffusion 3b_classifiers 4_metrics 5_interference 6_results
7_icare 7a_oracle 7b_canvas 7c_hub 8_running 8a_tuning 9_commands
pipelines training
""".split()


def title(page: Path) -> str:
    "The title in the front matter of a page."
    return re.search(r'^title: *"(.*)"$', page.read_text(encoding="utf-8"), re.M)[1]


def sidebar(nbs: Path) -> str:
    "The lines of the sidebar's contents."
    lines = ["      - index.ipynb\n", "      - api.qmd\n"]
    for folder in [nbs / name for name in order if (nbs / name).exists()]:
        files = sorted(p.relative_to(nbs).as_posix() for p in folder.glob("*.ipynb") if p.name[0] not in "_.")
        name, page = title(folder / "index.qmd"), f"{folder.name}/index.qmd"
        lines += [f'      - section: "{name}"\n', f"        href: {page}\n", "        contents:\n"]
        lines += [f"          - {f}\n" for f in files]
    return "".join(lines)


def updated(text: str) -> str:
    "The text of _quarto.yml with today's notebooks between the two marks."
    head, rest = text.split(begin)
    return head + begin + sidebar(root / "nbs") + end + rest.split(end, 1)[1]


if __name__ == "__main__":
    old = config.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv: sys.exit("the sidebar is out of date: make sidebar" if new != old else 0)
    if new != old: config.write_text(new, encoding="utf-8")
