"""Measures nbs/explanations/08_listed: the held-out test with half of the receivers unlisted, crossed over.

    python tools/listed.py [--minutes M] [--methods uce,rece]

A point is a method, a half of the receivers that its retain data hold, and an emitter.
What the record beside the page has is not measured again; every call writes what there is to it.
The store lies in build/listed and may be deleted."""
import argparse
import json
import time
from pathlib import Path

import torch

from vision_unlearning.core import versions
from vision_unlearning.data.retained import HALVES
from vision_unlearning.interference.generate import generate_off, task_prompts
from vision_unlearning.metrics.speed import processor
from vision_unlearning.models import load_pipeline
from vision_unlearning.running.session import (
    generate_session,
    load_evaluators,
    plan_sessions,
    read_scores,
    score_images,
    task_entities,
    unlearn_session,
    weights_fingerprint,
)
from vision_unlearning.running.testbeds import prepare_task
from vision_unlearning.running.tuning.held_out import held_out_emitters, held_out_row
from vision_unlearning.store import Store, write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RECORD = ROOT/"build"/"listed", ROOT/"nbs"/"explanations"/"listed.json"
TASK, MODEL, STEPS, SEEDS = "emoji", "emoji-sd", 8, [42]
# Closed forms first, then what trains. SLD and the prompt filter have no list and are not asked here.
METHODS = (
    "uce",
    "rece",
    "distil",
    "distil_module",
    "distil_weight",
    "munba",
    "lora_negation",
    "esd",
    "spm",
    "salun",
    "erasediff",
    "concept_ablation",
)
METRICS = ["judge_diff", "judge_prob_diff", "clip_diff", "rmse"]


class Bench:
    "The networks and the store, made when the first point is measured."
    def __init__(self):
        self.store, self.pipe = Store(FOLDER), load_pipeline(MODEL)
        self.weights, self.eyes = weights_fingerprint(MODEL), load_evaluators(TASK)
        prepare_task(self.store, TASK, {}, "full", False)
        self.entities = task_entities(self.store, TASK)
        self.kind = {e["name"]: e["domain"] for e in self.entities}
        self.drawing = dict(num_inference_steps=STEPS, batch_size=25)
        prompts = task_prompts(TASK, self.entities)
        generate_off(self.pipe, self.store, TASK, prompts, SEEDS, model=MODEL, **self.drawing)

    def measure(self, method: str, half: str, emitter: str) -> dict:
        "One point, as a line of the record."
        start = time.process_time()
        session, = plan_sessions(self.store, TASK, method, [emitter], retain=half)
        unlearn_session(self.store, session, self.pipe, self.weights)
        generate_session(self.store, session, self.pipe, SEEDS, **self.drawing)
        score_images(self.store, session, SEEDS, metrics=METRICS, **self.eyes)
        scores = read_scores(self.store, session)
        row = held_out_row(self.store, session, self.kind)
        moved = scores[scores["metric"] == "rmse"].groupby("listed")["value"].mean()
        named = scores[scores["metric"] == "judge_diff"]
        lost = named[(named["on"] < named["off"]) & (named["receiver"] != emitter)]
        return dict(
            method=method,
            half=half,
            **row,
            listed_moved=round(float(moved[True]), 3),
            unlisted_moved=round(float(moved[False]), 3),
            lost={r: bool(listed) for r, listed in zip(lost["receiver"], lost["listed"])},
            cpu_seconds=round(time.process_time() - start, 1),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--emitters", type=int, default=20)
    asked = parser.parse_args()
    end, bench = time.time() + 60*asked.minutes, None
    known = json.loads(RECORD.read_text(encoding="utf-8"))["points"] if RECORD.exists() else []
    points = {(p["method"], p["half"], p["emitter"]): p for p in known}
    for method in asked.methods.split(","):
        for emitter in held_out_emitters(TASK)[:asked.emitters]:
            for half in HALVES:
                if (method, half, emitter) in points or time.time() > end: continue
                bench = bench or Bench()
                points[method, half, emitter] = line = bench.measure(method, half, emitter)
                about = dict(task=TASK, model=MODEL, num_inference_steps=STEPS, seeds=SEEDS)
                about |= dict(threads=torch.get_num_threads(), versions=versions(), machine=processor())
                order = sorted(points.values(), key=lambda p: METHODS.index(p["method"]))
                write_json(RECORD, about | dict(points=order))
                sides = [(line[f"{s}_after"], line[f"{s}_before"]) for s in ("listed", "unlisted")]
                print(method, half, emitter, line["after"], *sides, line["cpu_seconds"], flush=True)


if __name__ == "__main__": main()
