"""Measures nbs/explanations/06_local_erasure: what edits change inside composed pictures, beside the concept.

    python tools/local_erasure.py [--minutes M]

A point is a way of forgetting and an emoji that it forgets.
Finished points stand in the record beside the page, where the next call continues."""
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from points import fill, minutes_asked

from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.interference.inside import draw_composed, left_half
from vision_unlearning.metrics.classification import JudgeAccuracy
from vision_unlearning.metrics.local import InsideChange, OutsideChange
from vision_unlearning.models import load_pipeline
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.unlearners.base import get_method
from vision_unlearning.unlearners.tuned import tuned_settings

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT/"nbs"/"explanations"/"local_erasure.json"
TASK, STEPS, SEED = "emoji", 8, 0
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
EMITTERS = held_out_emitters(TASK)[:3]
BESIDE = [name for name in NAMES if name not in held_out_emitters(TASK)][::7][:12]
SEEDS = range(42, 42 + len(BESIDE))
ANCHOR = next(name for name in NAMES if name not in BESIDE and name not in held_out_emitters(TASK))
WALKS = dict(num_train_steps=40, num_inference_steps=6, train_batch_size=4, rollout_batch_size=8)


@dataclass(frozen=True)
class Way:
    "How something is forgotten."
    label: str
    method: str | None  # backend name; None leaves the model as it is
    settings: dict
    instead: str = ""  # what is asked for on the left in the place of the emoji; empty: the emoji

WAYS = [
    Way("another name asked", None, {}, instead=ANCHOR),
    Way("UCE", "uce", dict(tuned_settings(TASK, "uce"))),
    Way("GLoCE", "gloce", dict(num_inference_steps=10)),
    Way("SEOT", "seot", dict(optimisation_steps=0)),
    Way("AdaVD", "adavd", dict(centre=.7)),
    Way("ESD", "esd", WALKS | dict(learning_rate=1e-3, retain_weight=1.)),
    Way("Receler", "receler", WALKS | dict(learning_rate=3e-3)),
]


def named(judge, pictures, names) -> list[int]:
    "Whether the judge names each picture as it should be."
    judge.reset()
    judge.update(pictures.contiguous(), names)
    return judge.per_item().int().tolist()


def changes(metric, on, off) -> list[float]:
    "Change of each picture on one side of its left half."
    metric.update(on, off, left_half(off))
    return [round(float(change), 3) for change in metric.per_item()]


def measure(pipe, judge, way: Way, emitter: str) -> dict:
    "One point, as a line of the record."
    start, edit = time.process_time(), None
    if way.method is not None:
        kept = [name for name in NAMES if name != emitter]
        method = get_method(way.method)(**way.settings)
        edit = method.unlearn(pipe, emitter, kept, generator=torch.Generator().manual_seed(SEED))
    made = time.process_time()
    left, starts = [emitter]*len(BESIDE), [f"{emitter} | {name}" for name in BESIDE]
    how = dict(starts=starts, num_inference_steps=STEPS, guidance_scale=3.)
    def drawn(names): return draw_composed(pipe, names, BESIDE, list(SEEDS), **how)
    off = drawn(left)
    with edit.on(pipe) if edit is not None else nullcontext():
        on = drawn([way.instead or emitter]*len(BESIDE))
    half = off.shape[-1]//2
    return dict(
        emitter=emitter,
        **asdict(way),
        beside=BESIDE,
        before_left=named(judge, off[..., :half], left),
        before_right=named(judge, off[..., half:], BESIDE),
        left=named(judge, on[..., :half], left),
        right=named(judge, on[..., half:], BESIDE),
        outside=changes(OutsideChange(), on, off),
        inside=changes(InsideChange(), on, off),
        unlearning_seconds=round(made - start, 1),
        seconds=round(time.process_time() - start, 1),
    )


def main():
    pipe, judge = load_pipeline("emoji-sd"), JudgeAccuracy(TASK, emoji_entities(TASK))
    about = dict(task=TASK, num_inference_steps=STEPS, seeds=list(SEEDS))
    ask = dict(about=about, minutes=minutes_asked(__doc__))
    for line in fill(RECORD, EMITTERS, WAYS, partial(measure, pipe, judge), **ask):
        print(line["emitter"], line["label"], sum(line["left"]), sum(line["right"]), line["seconds"])


if __name__ == "__main__": main()
