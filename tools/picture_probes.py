"""Measures nbs/tutorials/21_forgotten: whether an erased emoji comes back by probes that are not text.

    python tools/picture_probes.py [--minutes M]

Every method is asked with the settings of its record of held-out emitters; its edits lie in
build/what_it_became, where tools/what_it_became.py makes them too. The controls are asked the same with the
same pictures: no edit, no edit and a word that means nothing, a random edit of the size of UCE's,
and the oracle, which was never taught the first two emitters.
Finished points stand in the record beside the page, where the next call continues: one emitter for all, then
the next. The pictures are those of the first emitter."""
from pathlib import Path

import numpy as np
import torch
from points import Asked, fill, minutes_asked, put_row

from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.interference.attacks import TokenSearch, edited, search_tokens
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.interference.picture_probes import (
    AddedNoise,
    Completion,
    Inpainting,
    LatentGuidance,
    encode_given,
    probe_pictures,
)
from vision_unlearning.metrics.familiar import open_judge
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.embedded import ORACLES
from vision_unlearning.running.erase import own_pictures
from vision_unlearning.running.session import plan_sessions, unlearn_session, weights_fingerprint
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.store import Store
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.base import load_edit
from vision_unlearning.unlearners.diffusion.random_edit import random_edit
from vision_unlearning.unlearners.tuned import held_out_record

ROOT = Path(__file__).resolve().parents[1]
EDITS, BESIDE = ROOT/"build"/"what_it_became", ROOT/"nbs"/"tutorials"/"picture_probes"
SHEET = BESIDE/"first.webp"  # a row a condition
TASK, MODEL, STEPS, SEEDS = "emoji", "emoji-sd", 8, (42, 43, 44, 45, 46, 47)
ORACLE = "emoji-sd-oracle"
EMITTERS = held_out_emitters(TASK)[:2]  # which the oracle never saw
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
METHODS = ("uce", "esd", "sld", "distil", "rece", "salun", "spm", "concept_ablation")
NO_EDIT, NONSENSE, RANDOM = "no edit", "no edit, a word that means nothing", "random edit"
NEVER = "oracle"
WORD = "zyx"  # that means nothing
PROBES = (Completion(), Inpainting(), AddedNoise(scales=(.2, .4)), LatentGuidance())
INVERSION = dict(num_steps=10, learning_rate=.4)
assert set(EMITTERS) == set(ORACLES[ORACLE])
WAYS = [Asked(label) for label in (NO_EDIT, NONSENSE, RANDOM, NEVER, *METHODS)]


class Looker:
    "Asks one pipeline, with whatever edit is on."
    def __init__(self):
        self.pipe, self.judge = load_pipeline(MODEL), open_judge(TASK)
        self.oracle = load_pipeline(ORACLE)
        self.weights, self.store = weights_fingerprint(MODEL), Store(EDITS)
        self.how, self.given = dict(num_inference_steps=STEPS), {}

    def prepared(self, emitter: str):
        """Pictures of the emitter and of sixteen others, drawn by the unedited model, as both models take
        them, and what each probe makes."""
        if emitter not in self.given:
            free = [name for name in NAMES if name != emitter]
            others = [free[i] for i in np.random.default_rng(0).permutation(len(free))[:16]]
            drawn = [
                own_pictures(self.pipe, names, per, **self.how)
                for names, per in (([emitter], 6), (others, 1))
            ]
            given, known = encode_given(self.pipe, *drawn), encode_given(self.oracle, *drawn)
            self.given[emitter] = given, known, [probe.prepare(self.pipe, given) for probe in PROBES]
        return self.given[emitter]

    def seen(self, images: np.ndarray, emitter: str) -> list[int]:
        "Whether each of (V,N,H,W,3) pictures shows the emitter in its best variant."
        found = []
        for row in images:
            self.judge.reset()
            self.judge.update(torch.from_numpy(row).permute(0, 3, 1, 2).contiguous(), [emitter]*len(row))
            found.append(self.judge.per_item().numpy())
        return np.max(found, axis=0).astype(int).tolist()

    def edit(self, condition: str, emitter: str):
        "The edit of a condition; None for the model as it is."
        if condition in (NO_EDIT, NONSENSE): return None
        method = "uce" if condition == RANDOM else condition
        settings = held_out_record(TASK, method)["settings"]
        session, = plan_sessions(self.store, TASK, method, [emitter], overrides=settings)
        unlearn_session(self.store, session, self.pipe, self.weights)
        made = load_edit(self.store.model(session))
        return random_edit(made, self.pipe) if condition == RANDOM else made

    def inverted(self, pipe, edit, given, emitter: str, condition: str) -> np.ndarray | None:
        """Pictures under a word that was searched; None where an edit acts on calls and lets no gradient
        through."""
        if edit is not None and edit.acts_on == "calls": return None
        steps = 0 if condition == NONSENSE else INVERSION["num_steps"]
        settings = TokenSearch(num_steps=steps, learning_rate=INVERSION["learning_rate"], start=WORD)
        how = dict(edit=edit, generator=torch.Generator().manual_seed(0))
        found = search_tokens(pipe, given.concept, settings, **how)
        with edited(pipe, edit), found.on(pipe):
            return generate_array(pipe, list(SEEDS), [found.prompt]*len(SEEDS), **self.how)[None]

    def measure(self, way: Asked, emitter: str) -> dict:
        "One point: what was seen under its prompt and each probe."
        condition = way.label
        given, known, made = self.prepared(emitter)
        if condition == NEVER: pipe, edit, given = self.oracle, None, known
        else: pipe, edit = self.pipe, self.edit(condition, emitter)
        prompt = get_prompt(TASK, WORD if condition == NONSENSE else emitter)
        with edited(pipe, edit):
            drawn = {"prompt": generate_array(pipe, list(SEEDS), [prompt]*len(SEEDS), **self.how)[None]}
            for probe, own in zip(PROBES, made):
                drawn[probe.name] = probe_pictures(pipe, probe, given, own, prompt, list(SEEDS), **self.how)
        inverted = self.inverted(pipe, edit, given, emitter, condition)
        if inverted is not None: drawn["inversion"] = inverted
        found = {name: self.seen(images, emitter) for name, images in drawn.items()}
        print(emitter, condition, {name: sum(seen) for name, seen in found.items()}, flush=True)
        if emitter == EMITTERS[0]:
            put_row(SHEET, [each.label for each in WAYS], condition, first_pictures(drawn))
        return dict(label=condition, emitter=emitter, seen=found)


def first_pictures(drawn: dict[str, np.ndarray]) -> np.ndarray:
    "What was drawn first in each way, side by side."
    blank = np.full_like(drawn["prompt"][0, 0], 255)
    names = ("prompt", *(probe.name for probe in PROBES), "inversion")
    return np.concatenate([drawn[n][-1, 0] if n in drawn else blank for n in names], axis=1)


def main():
    BESIDE.mkdir(parents=True, exist_ok=True)
    probes = {probe.name: probe.model_dump() for probe in PROBES}
    about = dict(task=TASK, model=MODEL, oracle=ORACLE, word=WORD, probes=probes, inversion=INVERSION)
    about |= dict(seeds=list(SEEDS), num_inference_steps=STEPS)
    measure = Looker().measure
    points = fill(BESIDE/"record.json", EMITTERS, WAYS, measure, about, minutes_asked(__doc__))
    print(len(points), "of", len(EMITTERS)*len(WAYS), "points")


if __name__ == "__main__": main()
