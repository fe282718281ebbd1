"""Measures nbs/explanations/04_unlearn_canvas: UA, IRA and CRA of methods on the embedded grid.

    python tools/unlearn_canvas.py [--minutes M] [--harder]

Sessions lie in build/unlearn_canvas, a store of the benchmark, where the next call continues:
one theme a side first, cheap methods before dear ones.
Every call writes what there is to the record beside the page.
With --harder a crossing alone, six requests in turn, and searched tokens are measured instead."""
import argparse
import time
from dataclasses import asdict
from pathlib import Path

from vision_unlearning.canvas.grid import cell_table, find_theme
from vision_unlearning.canvas.harder import attack_theme, forget_in_turn, sequence_scores
from vision_unlearning.canvas.scores import grid_answers
from vision_unlearning.core import versions
from vision_unlearning.interference.attacks import TokenSearch
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.metrics.base import as_images
from vision_unlearning.metrics.speed import processor
from vision_unlearning.models import load_judge, load_pipeline
from vision_unlearning.running.canvas import (
    canvas_rows,
    canvas_store,
    plan_canvas,
    run_canvas,
)
from vision_unlearning.running.canvas_page import stored_canvas
from vision_unlearning.store import read_json, write_json
from vision_unlearning.unlearners.base import get_method, load_edit

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RECORD = ROOT/"build"/"unlearn_canvas", ROOT/"nbs"/"explanations"/"unlearn_canvas.json"
METHODS = "prompt_filter sld uce rece munba concept_ablation esd spm".split()
ROUNDS = [["twemoji", "fish"], ["emojione mono", "tree"]]  # a style and an object each
OBJECTS = "architecture bee fish frog octopus sea tree".split()  # every third one
# a part of the steps that were tuned for emoji
SHORTER = dict(
    concept_ablation=dict(num_train_steps=24),
    esd=dict(num_train_steps=24, retain_rollouts=40),
    spm=dict(num_train_steps=24),
)
HOW = dict(objects=OBJECTS, seeds=[188], num_inference_steps=4, fid=False)

# the harder settings
PAIR, REQUESTS = "twemoji + fish", "twemoji fish tree noto bee frog".split()
QUICK = "prompt_filter uce rece".split()  # methods that answer in seconds
CROSSED, SEARCH = ["noto", "emojione"], TokenSearch(num_tokens=3, num_steps=40, learning_rate=.4)


def write_record():
    "The table of what is complete, beside the page."
    store, run = canvas_store(FOLDER), plan_canvas("emoji_canvas", METHODS, overrides=SHORTER, **HOW)
    sessions = stored_canvas(store, run.grid.task)[1]
    sessions.sort(key=lambda pair: METHODS.index(pair[1].method))
    rows = canvas_rows(store, run.grid.task, sessions)
    about = dict(grid=asdict(run.grid), themes=sum(ROUNDS, []), settings_of=run.grid.settings_of)
    settings = {method: run.settings(method) for method in METHODS}
    parts = {
        name: read_json(path) for name in ("sequence", "attack") if (path := FOLDER / f"{name}.json").exists()
    }
    made = dict(cpu=processor(), versions=versions())
    write_json(RECORD, dict(about, settings=settings, **made, rows=rows_of(rows), **parts))


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


def look_at(pipe, grid, judge, gone) -> dict:
    "The grid once, and what is gone and left."
    cells = cell_table(grid)
    how = dict(
        num_inference_steps=grid.num_inference_steps, guidance_scale=grid.guidance_scale, batch_size=20
    )
    pictures = generate_array(pipe, cells["seed"].tolist(), cells["prompt"].tolist(), **how)
    return sequence_scores(grid_answers(grid, as_images(pictures), judge), gone)


def measure_sequence(pipe, judge, run) -> dict:
    "Six requests in turn, by UCE."
    grid, method = run.grid, get_method("uce")(**run.settings("uce"))
    themes = [find_theme(grid, name) for name in REQUESTS]
    found = forget_in_turn(pipe, method, grid, themes, lambda gone: look_at(pipe, grid, judge, gone))
    return dict(method="uce", requests=REQUESTS, before=look_at(pipe, grid, judge, []), after=found)


def measure_attack(pipe, judge, run) -> dict:
    "Tokens searched for a fish, without an edit and with three."
    theme, store, rows = find_theme(run.grid, "fish"), canvas_store(FOLDER), {}
    edits = {
        s.method: load_edit(store.model(s)) for t, s in stored_canvas(store, run.grid.task)[1] if t == theme
    }
    # a filter that replaces the sentence has nothing to search through
    for method in ("none", "uce", "rece"):
        found = attack_theme(pipe, edits.get(method), run.grid, theme, judge, CROSSED, SEARCH)
        rows[method] = asdict(found)
        print(method, found, flush=True)
    return dict(crossed=CROSSED, search=SEARCH.model_dump(mode="json"), rows=rows)


def harder():
    "The harder settings, those that are missing."
    run = plan_canvas("emoji_canvas", QUICK, [PAIR], **HOW)
    run_canvas(run, FOLDER, progress=False)
    pipe, judge = load_pipeline("emoji-sd"), load_judge()
    for name, measure in (("attack", measure_attack), ("sequence", measure_sequence)):
        if (FOLDER/f"{name}.json").exists(): continue
        write_json(FOLDER/f"{name}.json", found := measure(pipe, judge, run))
        print(name, found, flush=True)
    write_record()


def main(minutes: float):
    "Measure until the time is up."
    end = time.monotonic() + 60*minutes
    for themes in ROUNDS:
        for method in METHODS:
            if time.monotonic() > end: break
            begun = time.process_time()
            shorter = {method: SHORTER[method]} if method in SHORTER else {}
            run = plan_canvas("emoji_canvas", [method], themes, overrides=shorter, **HOW)
            for row in run_canvas(run, FOLDER, progress=False):
                if row.method == "none": continue
                values = {score: round(value["value"], 2) for score, value in row.scores.items()}
                print(method, row.themes, values, f"{time.process_time() - begun:.0f} s", flush=True)
            write_record()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--harder", action="store_true")
    asked = parser.parse_args()
    if asked.harder: harder()
    else: main(asked.minutes)
