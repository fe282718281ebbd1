"""Write the sidebar of the docs into _quarto.yml: one section a band, from the notebooks that are there.

python tools/sidebar.py [--check]
"""
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
config = root / "_quarto.yml"
begin, end = "      # begin: written by tools/sidebar.py\n", "      # end\n"
sections = [  # (title, which files of nbs/)
    ("Tutorials", "tutorials/*.ipynb"),
    ("Explanations", "explanations/*.ipynb"),
    ("Base", "0_base/*.ipynb"),
    ("Models", "0_models/*.ipynb"),
    ("Data", "1_data/*.ipynb"),
    ("Exploration", "2_explore/*.ipynb"),
    ("Unlearners", "3_unlearners/*.ipynb"),
    ("Unlearners of diffusion models", "3a_diffusion/*.ipynb"),
    ("Unlearners of classifiers", "3b_classifiers/*.ipynb"),
    ("Metrics", "4_metrics/*.ipynb"),
    ("Interference", "5_interference/*.ipynb"),
    ("Result templates", "6_results/*.ipynb"),
    ("I-CARE", "7_icare/*.ipynb"),
    ("Classifiers and their oracle", "7a_oracle/*.ipynb"),
    ("Running", "8_running/*.ipynb"),
    ("Tuning", "8a_tuning/*.ipynb"),
    ("Pipelines", "pipelines/*.ipynb"),
    ("How the embedded models were made", "training/*.ipynb"),
]


def sidebar(nbs: Path) -> str:
    "The lines of the sidebar's contents."
    lines = ["      - index.ipynb\n"] if (nbs / "index.ipynb").exists() else []
    for title, pattern in sections:
        files = sorted(p.relative_to(nbs).as_posix() for p in nbs.glob(pattern) if p.name[0] not in "_.")
        if files:
            lines += [
                f'      - section: "{title}"\n',
                "        contents:\n",
                *(f"          - {f}\n" for f in files),
            ]
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
