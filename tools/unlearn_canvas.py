"""Measures nbs/explanations/04_unlearn_canvas: UA, IRA and CRA of methods on the embedded grid.

    python tools/unlearn_canvas.py [--minutes M]

Sessions lie in build/unlearn_canvas, a store of the benchmark, where the next call continues:
one theme a side first, cheap methods before dear ones.
Every call writes what there is to the record beside the page."""
import argparse
import time
from dataclasses import asdict
from pathlib import Path

from vision_unlearning.core import versions
from vision_unlearning.metrics.speed import processor
from vision_unlearning.running.canvas import (
    canvas_rows,
    canvas_store,
    plan_canvas,
    run_canvas,
)
from vision_unlearning.running.canvas_page import stored_run
from vision_unlearning.store import write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RECORD = ROOT/"build"/"unlearn_canvas", ROOT/"nbs"/"explanations"/"unlearn_canvas.json"
METHODS = "prompt_filter sld uce rece concept_ablation munba esd spm distil salun".split()
ROUNDS = [["twemoji", "fish"], ["emojione mono", "tree"]]  # a style and an object each
OBJECTS = "architecture bee fish frog octopus sea tree".split()  # every third one
HOW = dict(objects=OBJECTS, seeds=[188], num_inference_steps=4, fid=False)


def write_record():
    "The table of what is complete, beside the page."
    store, run = canvas_store(FOLDER), plan_canvas("emoji_canvas", METHODS, **HOW)
    sessions = stored_run(store, run.grid.task)[1]
    sessions.sort(key=lambda pair: METHODS.index(pair[1].method))
    rows = canvas_rows(store, run.grid.task, sessions)
    about = dict(grid=asdict(run.grid), themes=sum(ROUNDS, []), settings_of=run.grid.settings_of)
    settings = {method: run.settings(method) for method in METHODS}
    write_json(
        RECORD, dict(about, settings=settings, cpu=processor(), versions=versions(), rows=rows_of(rows))
    )


def rows_of(rows) -> list[dict]:
    "Rows as plain data, numbers with as many places as they have."
    found = []
    for row in rows:
        line = asdict(row)
        line["scores"] = {
            s: {k: round(v, 4) for k, v in score.items()} for s, score in line["scores"].items()
        }
        found.append(line)
    return found


def main(minutes: float):
    "Measure until the time is up."
    end = time.monotonic() + 60*minutes
    for themes in ROUNDS:
        for method in METHODS:
            if time.monotonic() > end: break
            begun = time.process_time()
            run = plan_canvas("emoji_canvas", [method], themes, **HOW)
            for row in run_canvas(run, FOLDER, progress=False):
                if row.method == "none": continue
                values = {score: round(value["value"], 2) for score, value in row.scores.items()}
                print(method, row.themes, values, f"{time.process_time() - begun:.0f} s", flush=True)
            write_record()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1e6)
    main(parser.parse_args().minutes)
