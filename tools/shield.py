"""Measures nbs/explanations/07_shield: harm to what was not listed, by who was chosen to be preserved.

    python tools/shield.py [--minutes M]

A point is an emitter, a half of the other emoji as vocabulary, a method, a chooser, and how many names it may
choose; the other half is listed nowhere, and drawn.
What there is stands in the record beside the page, where the next call continues,
points that teach most first; it is written after every point.
Methods that train take one half of the vocabulary each, the first and the second in turn."""
import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from vision_unlearning.core import versions
from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.data.splits import make_split
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.metrics.classification import JudgeAccuracy
from vision_unlearning.metrics.speed import processor
from vision_unlearning.models import load_pipeline
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.store import write_json
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.base import get_method
from vision_unlearning.unlearners.diffusion.foretold import foretell, read_names
from vision_unlearning.unlearners.diffusion.protecting import GrowingList, choose_names
from vision_unlearning.unlearners.diffusion.uce import UCE
from vision_unlearning.unlearners.tuned import tuned_settings

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT/"nbs"/"explanations"/"shield.json"
TASK, STEPS, SEED, EMITTER_PICTURES = "emoji", 6, 42, 4
STRENGTHS = (1., 3., 10.)  # erase_scale; the first at which the emitter is named in none of its pictures
TRAINED = ("distil", "spm", "esd", "concept_ablation")
SCALES = (1., 1.5, 2.25)  # the same for what was trained: times the change of the weights
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
EMITTERS = held_out_emitters(TASK)
OTHERS = [name for name in NAMES if name not in EMITTERS]
HALVES = [OTHERS[::2], OTHERS[1::2]]
CHOSEN = ("nearest", "worst_first", "coverage")


@dataclass(frozen=True)
class Point:
    "What is measured at once."
    emitter: str
    half: int  # of `HALVES`, the vocabulary; the other one is not listed
    method: str  # backend name
    chooser: str  # of `CHOOSERS`; or "none", "all", "null_space": all, and the edit is in their null space
    k: int  # names that are preserved
    seed: int = 0  # of a random choice


@dataclass(frozen=True, eq=False)
class Applied:
    "An edit at one strength."
    strength: float  # of `STRENGTHS` or `SCALES`
    edit: object  # an `Edit`
    scale: float  # at which it is applied
    told_by: UCE  # the closed form that foretells it: itself, or UCE in its place


def trained_points(method: str) -> list[Point]:
    "Of a method that trains: by lot and worst first, half after half."
    return [Point(emitter, i % 2, method, chooser, 20) for i, emitter in enumerate(EMITTERS)
            for chooser in ("random", "worst_first")]


def cells(stage: int) -> list[dict]:
    "What is measured of one emitter and half, in the order of what it teaches."
    if stage == 0: return [dict(method="uce", chooser=chooser, k=20) for chooser in ("random", "worst_first")]
    if stage == 1:
        found = [dict(chooser=chooser, k=20) for chooser in ("nearest", "coverage")]
        found += [dict(chooser=chooser, k=40) for chooser in ("null_space", "all")]
        return [dict(method="uce", **cell) for cell in found]
    if stage == 2:
        found = [dict(chooser="none", k=0), dict(chooser="k_center", k=20)]
        found += [dict(chooser="random", k=20, seed=seed) for seed in (1, 2)]
        return [dict(method="uce", **cell) for cell in found]
    if stage == 3:
        return [dict(method="rece", chooser=chooser, k=20) for chooser in ("random", "worst_first")]
    return [dict(method="uce", chooser=chooser, k=k) for k in (10, 5) for chooser in ("random", *CHOSEN)]


def points() -> list[Point]:
    """All of them: the question of the page for all emitters in their order, then the other comparisons
    of its family, then the rest, five by five."""
    groups = [EMITTERS[i:i + 5] for i in range(0, len(EMITTERS), 5)]
    order = [(0, group) for group in groups] + [(1, group) for group in groups]
    order += [(stage, group) for group in groups for stage in (3, 4, 2)]
    closed = [Point(emitter, half, **cell) for stage, group in order for emitter in group
              for half in (0, 1) for cell in cells(stage)]
    return closed + [point for method in TRAINED for point in trained_points(method)]


class Bench:
    "The model, the judge, and what everybody looked like before."
    def __init__(self):
        self.pipe, self.judge = load_pipeline("emoji-sd"), JudgeAccuracy(TASK, emoji_entities(TASK))
        self.read = [read_names(self.pipe, half) for half in HALVES]
        self.before = [self.draw(half) for half in HALVES]

    def draw(self, names, each=1):
        "Pictures of names, (N,H,W,3) uint8; with several of each the seeds go on."
        asked = [name for name in names for _ in range(each)]
        seeds = [SEED + i for _ in names for i in range(each)]
        prompts = [get_prompt(TASK, name) for name in asked]
        return generate_array(self.pipe, seeds, prompts, num_inference_steps=STEPS, batch_size=44)

    def named(self, pictures, names) -> str:
        "A 1 for each picture that the judge names as it should be, else a 0."
        self.judge.reset()
        self.judge.update(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), names)
        return "".join(str(int(right)) for right in self.judge.per_item())

    def chosen(self, method, point: Point) -> list[str]:
        "Whom a point preserves."
        vocabulary = HALVES[point.half]
        if point.chooser == "none": return []
        if point.chooser in ("all", "null_space"): return vocabulary
        closed = method if isinstance(method, UCE) else UCE()
        growing = GrowingList(self.pipe, closed, point.emitter, None, self.read[point.half])
        lots = 1000*EMITTERS.index(point.emitter) + point.seed  # others for every emitter
        generator = torch.Generator().manual_seed(lots)
        return choose_names(growing, point.chooser, point.k, generator=generator).names

    def closed(self, point: Point, kept: list[str]):
        "Edits of a closed form, weak to strong."
        own = dict(preservation="null_space") if point.chooser == "null_space" else {}
        for strength in STRENGTHS:
            method = get_method(point.method)(erase_scale=strength, **own)
            yield Applied(strength, method.unlearn(self.pipe, point.emitter, kept), 1., method)

    def trained(self, point: Point, kept: list[str]):
        "One training, applied more and more strongly."
        method = get_method(point.method)(**tuned_settings(TASK, point.method))
        sides = [point.emitter], kept
        if method.reads == "pictures": sides = self.pictures(point.emitter, kept)
        generator = torch.Generator().manual_seed(EMITTERS.index(point.emitter))
        edit = method.unlearn(self.pipe, *sides, generator=generator)
        for scale in SCALES: yield Applied(scale, edit, scale, UCE())

    def pictures(self, emitter: str, kept: list[str]):
        "Drawings of the emitter, and of those whom a method is to keep."
        forget, retain = make_split(TASK, emitter)
        wanted = {get_prompt(TASK, name) for name in kept}
        return forget, retain.select([i for i, text in enumerate(retain["text"]) if text in wanted])

    def measure(self, point: Point) -> dict:
        "One point, as a line of the record."
        start = time.process_time()
        method = get_method(point.method)()
        kept = self.chosen(method, point)
        unlisted, off = HALVES[1 - point.half], self.before[1 - point.half]
        edits = self.closed if isinstance(method, UCE) else self.trained
        for one in edits(point, kept):
            with one.edit.on(self.pipe, one.scale): emitter = self.draw([point.emitter], EMITTER_PICTURES)
            left = self.named(emitter, [point.emitter]*EMITTER_PICTURES).count("1")
            if not left: break
        with one.edit.on(self.pipe, one.scale): on = self.draw(unlisted)
        foretold = foretell(self.pipe, one.told_by, point.emitter, kept, self.read[1 - point.half])
        change = np.abs(on.astype(float) - off).mean((1, 2, 3))
        return dict(
            **asdict(point),
            kept=[HALVES[point.half].index(name) for name in kept] if point.k < len(HALVES[0]) else "all",
            erase_scale=one.strength,
            emitter_named=left,
            foretold=[round(float(number), 3) for number in foretold],
            change=[round(float(number), 1) for number in change],
            named=self.named(on, unlisted),
            seconds=round(time.process_time() - start, 1),
        )


def point_of(line: dict) -> Point: return Point(**{name: line[name] for name in Point.__annotations__})


def before_of(bench: Bench) -> dict:
    "What the judge says without an edit."
    found = {name: bench.named(bench.draw([name], EMITTER_PICTURES), [name]*EMITTER_PICTURES).count("1")
             for name in EMITTERS}
    named = [bench.named(pictures, half) for pictures, half in zip(bench.before, HALVES)]
    return dict(emitters=found, halves=named)


def write_record(lines: list[dict], before: dict):
    "Everything that is known so far, beside the page."
    order = {point: place for place, point in enumerate(points())}
    write_json(
        RECORD,
        dict(
            task=TASK,
            emitters=EMITTERS,
            halves=HALVES,
            first_seed=SEED,
            num_inference_steps=STEPS,
            emitter_pictures=EMITTER_PICTURES,
            strengths=list(STRENGTHS),
            scales=list(SCALES),
            cpu=processor(),
            versions=versions(),
            before=before,
            points=sorted(lines, key=lambda line: order[point_of(line)]),
        ),
    )


def main(minutes: float, methods: list[str]):
    "Measure until the time is up; of some methods, or of all."
    end = time.monotonic() + 60*minutes
    nothing = dict(points=[], before=None)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else nothing
    lines = record["points"]
    done = {point_of(line) for line in lines}
    todo = [point for point in points() if point not in done and (not methods or point.method in methods)]
    if not todo: return print("nothing is left to measure")
    bench = Bench()
    before = record["before"] or before_of(bench)
    for point in todo:
        if time.monotonic() > end: break
        line = bench.measure(point)
        lines.append(line)
        write_record(lines, before)
        print(point, line["emitter_named"], line["erase_scale"], line["named"].count("1"), line["seconds"],
              flush=True)
    print(len(lines), "of", len(points()), "points")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--methods", default="", help="some of them, with commas; none given is all")
    asked = parser.parse_args()
    main(asked.minutes, [name for name in asked.methods.split(",") if name])
