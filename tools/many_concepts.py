"""Measures nbs/explanations/03_many_concepts: what is forgotten and kept when many concepts are asked for.

    python tools/many_concepts.py [--minutes M]

A point is a method, a way of combining requests, and a number of emoji.
Finished points stand in the record beside the page, where the next call continues, cheap points first;
edits lie in build/many_concepts."""
import argparse
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import concatenate_datasets

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
from vision_unlearning.unlearners.base import get_method, load_edit
from vision_unlearning.unlearners.tuned import tuned_settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RECORD = ROOT/"build"/"many_concepts", ROOT/"nbs"/"explanations"/"many_concepts.json"
TASK, SIZES, PICTURES, STEPS, SEED = "emoji", (1, 2, 5, 10, 20), 20, 8, 0
TRAINED = ("distil", "esd", "spm")
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
EMITTERS = held_out_emitters(TASK)
RECEIVERS = [name for name in NAMES if name not in EMITTERS][::2]
ORDERS = 6  # shuffled orders of a sequence of five, besides the order of the emitters


@dataclass(frozen=True)
class Point:
    "What is measured at once."
    method: str  # backend name
    way: str  # together, longer (n times the training), in turn, sum
    number: int  # of emoji
    order: int = 0  # 0 is that of the emitters, others are shuffled

    @property
    def names(self) -> list[str]:
        names = EMITTERS[:self.number]
        if not self.order: return names
        return [names[i] for i in np.random.default_rng(self.order).permutation(len(names))]


def points() -> list[Point]:
    "All of them, those that teach most for their time first."
    several = SIZES[1:]
    found = [Point("uce", "together", n) for n in SIZES]
    found += [Point("uce", way, n) for way in ("in turn", "sum") for n in several]
    found += [Point(method, "together", n) for n in (1, 5, 20) for method in TRAINED]
    found += [Point(method, way, 5) for method in TRAINED for way in ("sum", "in turn")]
    found += [Point("uce", "in turn", 5, order) for order in range(1, ORDERS + 1)]
    found += [Point(method, way, 2) for method in TRAINED for way in ("sum", "in turn")]
    found += [Point(method, "together", n) for method in TRAINED for n in (2, 10)]
    found += [Point(method, "longer", 5) for method in TRAINED]
    found += [Point(method, way, 10) for method in TRAINED for way in ("sum", "in turn")]
    found += [Point(method, way, 20) for method in TRAINED for way in ("sum", "in turn")]
    found += [Point(method, "longer", 20) for method in TRAINED]
    return found


def settings_of(point: Point) -> dict:
    "The shipped settings; a training together has the length of one alone, a longer one that of all."
    settings = dict(tuned_settings(TASK, point.method))
    if point.way == "together" and "num_train_epochs" in settings:
        settings["num_train_epochs"] = max(1, round(settings["num_train_epochs"]/point.number))
    if point.way == "longer" and "num_train_steps" in settings:
        settings["num_train_steps"] *= point.number
    return settings


class Maker:
    "Makes edits, and keeps them in the folder."
    def __init__(self, pipe): self.pipe = pipe

    def make(self, point: Point, forget: list[str], gone: list[str], folder: Path):
        "The edit that forgets some names beside those that are gone already."
        if not folder.exists():
            method = get_method(point.method)(**settings_of(point))
            sides = self.sides(method, forget, gone)
            start = time.perf_counter()
            edit = method.unlearn(self.pipe, *sides, generator=torch.Generator().manual_seed(SEED))
            edit.info["seconds"] = time.perf_counter() - start
            edit.save_pretrained(folder)
        return load_edit(folder)

    def sides(self, method, forget, gone):
        "What to forget and what to retain, as names or as pictures."
        kept = [name for name in NAMES if name not in (*forget, *gone)]
        if method.reads == "names": return forget, kept
        splits = [make_split(TASK, name) for name in forget]
        wanted = {get_prompt(TASK, name) for name in kept}
        retain = splits[0][1]
        rows = [i for i, text in enumerate(retain["text"]) if text in wanted]
        return concatenate_datasets([split[0] for split in splits]), retain.select(rows)

    def attach(self, point: Point, stack: ExitStack) -> float:
        "Switch on what a point asks for until the stack closes; seconds of unlearning."
        names, base = point.names, FOLDER/"edits"
        alone = base/f"{point.method}-alone-{EMITTERS[0].replace(' ', '_')}"
        if point.way in ("together", "longer"):
            folder = alone if len(names) == 1 else base/f"{point.method}-{point.way}-{len(names)}"
            edits = [self.make(point, names, [], folder)]
            stack.enter_context(edits[0].on(self.pipe))
            return edits[0].info["seconds"]
        if point.way == "sum":
            folders = [base/f"{point.method}-alone-{name.replace(' ', '_')}" for name in names]
            edits = [self.make(point, [name], [], folder) for name, folder in zip(names, folders)]
            for edit in edits: stack.enter_context(edit.on(self.pipe))
            return sum(edit.info["seconds"] for edit in edits)
        seconds = 0.
        for place, name in enumerate(names):
            folder = base/f"{point.method}-in_turn-{point.order}-{place}"
            first = alone if not place and name == EMITTERS[0] else folder
            edit = self.make(point, [name], names[:place], first)
            stack.enter_context(edit.on(self.pipe))
            seconds += edit.info["seconds"]
        return seconds


def look(pipe, judge, names: list[str], each: int) -> dict[str, list[int]]:
    "Whether the judge names each picture, name by name."
    asked = [name for name in names for _ in range(each)]
    seeds = [42 + i for _ in names for i in range(each)]
    prompts = [get_prompt(TASK, name) for name in asked]
    pictures = generate_array(pipe, seeds, prompts, num_inference_steps=STEPS, batch_size=20)
    judge.reset()
    judge.update(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), asked)
    right = judge.per_item().int().view(len(names), each).tolist()
    return dict(zip(names, right))


def measure(pipe, judge, maker, point: Point) -> dict:
    "One point, as a line of the record."
    with ExitStack() as stack:
        seconds = maker.attach(point, stack)
        emitters = look(pipe, judge, sorted(point.names), PICTURES//point.number)
        receivers = look(pipe, judge, RECEIVERS, 1)
    return dict(**asdict(point), seconds=round(seconds, 2), emitters=emitters, receivers=receivers)


def write_record(lines: list[dict], before: dict):
    "Everything that is known so far, beside the page."
    methods = dict.fromkeys(line["method"] for line in lines)
    write_json(
        RECORD,
        dict(
            task=TASK,
            settings={method: tuned_settings(TASK, method) for method in methods},
            sizes=list(SIZES),
            emitters=EMITTERS,
            receivers=RECEIVERS,
            first_seed=42,
            training_seed=SEED,
            num_inference_steps=STEPS,
            cpu=processor(),
            versions=versions(),
            before=before,
            points=lines,
        ),
    )


def main(minutes: float):
    "Measure until the time is up."
    end = time.monotonic() + 60*minutes
    FOLDER.mkdir(parents=True, exist_ok=True)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else dict(points=[], before=None)
    lines, before = record["points"], record["before"]
    done = {Point(line["method"], line["way"], line["number"], line["order"]) for line in lines}
    todo = [point for point in points() if point not in done]
    if todo:
        pipe = load_pipeline("emoji-sd")
        judge, maker = JudgeAccuracy(TASK, emoji_entities(TASK)), Maker(pipe)
    if not before:
        emitters = {str(n): look(pipe, judge, sorted(EMITTERS[:n]), PICTURES//n) for n in SIZES}
        before = dict(emitters=emitters, receivers=look(pipe, judge, RECEIVERS, 1))
    for point in todo:
        if time.monotonic() > end: break
        line = measure(pipe, judge, maker, point)
        lines.append(line)
        write_record(lines, before)
        named, kept = (sum(map(sum, line[side].values())) for side in ("emitters", "receivers"))
        print(point, f"{line['seconds']} s, {named} of {PICTURES} named, {kept} receivers", flush=True)
    print(len(lines), "of", len(points()), "points")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1e6)
    main(parser.parse_args().minutes)
