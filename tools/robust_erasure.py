"""Measures nbs/explanations/05_robust_erasure: what a search of tokens brings back, and what was kept.

    python tools/robust_erasure.py [--minutes M]

A point is a method and an emoji that it forgets.
Finished points stand in the record beside the page, where the next call continues."""
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from points import fill, minutes_asked

from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.data.splits import make_split
from vision_unlearning.interference.attacks import TokenSearch, search_tokens
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.metrics.classification import JudgeAccuracy
from vision_unlearning.models import load_pipeline
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.base import get_method
from vision_unlearning.unlearners.tuned import tuned_settings

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT/"nbs"/"explanations"/"robust_erasure.json"
TASK, STEPS, SEED = "emoji", 8, 0
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
EMITTERS = held_out_emitters(TASK)[:3]
RECEIVERS = [name for name in NAMES if name not in held_out_emitters(TASK)][::4]
SEEDS = tuple(range(42, 50))
SEARCH = TokenSearch(num_tokens=3, num_steps=60)
# What the three that walk have in common: as many steps of as many points, and the same ways.
WALKS = dict(num_train_steps=40, num_inference_steps=6, train_batch_size=4, rollout_batch_size=8)
TRAINED = WALKS | dict(learning_rate=1e-3, retain_weight=1.)


@dataclass(frozen=True)
class Way:
    "How something is forgotten."
    label: str
    method: str | None  # backend name; None leaves the model as it is
    settings: dict

WAYS = [
    Way("no edit", None, {}),
    Way("UCE", "uce", dict(tuned_settings(TASK, "uce"))),
    Way("ESD", "esd", TRAINED),
    Way("AdvUnlearn", "advunlearn", WALKS | dict(learning_rate=2e-3)),
    Way("STEREO", "stereo", TRAINED | dict(num_rounds=2, search_steps=30, num_tokens=3)),
    Way("SAFREE", "safree", dict(safe_steps=100.)),
    Way("AdaVD", "adavd", dict(centre=.7)),
    Way("ESD, three times as long", "esd", TRAINED | dict(num_train_steps=3*TRAINED["num_train_steps"])),
    Way("Receler", "receler", WALKS | dict(learning_rate=3e-3)),
    Way("SEOT", "seot", dict(optimisation_steps=2)),
    Way("GLoCE", "gloce", dict(num_inference_steps=10)),
]


def named(pipe, judge, prompts: list[str], names: list[str], seeds) -> list[int]:
    "Whether the judge names each picture as it should be."
    pictures = generate_array(pipe, list(seeds), prompts, num_inference_steps=STEPS, batch_size=25)
    judge.reset()
    judge.update(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), names)
    return judge.per_item().int().tolist()


def measure(pipe, judge, way: Way, emitter: str) -> dict:
    "One point, as a line of the record."
    start, edit = time.process_time(), None
    if way.method is not None:
        kept = [name for name in NAMES if name != emitter]
        method = get_method(way.method)(**way.settings)
        edit = method.unlearn(pipe, emitter, kept, generator=torch.Generator().manual_seed(SEED))
    made = time.process_time()
    pictures = make_split(TASK, emitter)[0]
    found = search_tokens(pipe, pictures, SEARCH, edit=edit, generator=torch.Generator().manual_seed(1))
    with edit.on(pipe) if edit is not None else nullcontext():
        asked = [get_prompt(TASK, emitter)]*len(SEEDS)
        plain = named(pipe, judge, asked, [emitter]*len(SEEDS), SEEDS)
        with found.on(pipe):
            attacked = named(pipe, judge, [found.prompt]*len(SEEDS), [emitter]*len(SEEDS), SEEDS)
        prompts = [get_prompt(TASK, name) for name in RECEIVERS]
        receivers = named(pipe, judge, prompts, RECEIVERS, [42]*len(RECEIVERS))
    return dict(
        emitter=emitter,
        **asdict(way),
        plain=plain,
        attacked=attacked,
        receivers=receivers,
        search=[round(sum(found.losses[:10])/10, 4), round(sum(found.losses[-10:])/10, 4)],
        unlearning_seconds=round(made - start, 1),
        seconds=round(time.process_time() - start, 1),
    )


def main():
    pipe, judge = load_pipeline("emoji-sd"), JudgeAccuracy(TASK, emoji_entities(TASK))
    about = dict(task=TASK, num_inference_steps=STEPS, seeds=SEEDS, search=SEARCH.model_dump(mode="json"))
    ask = dict(about=about | dict(receivers=RECEIVERS), minutes=minutes_asked(__doc__))
    for line in fill(RECORD, EMITTERS, WAYS, partial(measure, pipe, judge), **ask):
        counts = (sum(line[k]) for k in ("plain", "attacked", "receivers"))
        print(line["emitter"], line["label"], *counts, line["seconds"])


if __name__ == "__main__": main()
