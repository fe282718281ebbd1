"""Measures nbs/explanations/11_oracle: how far an erased emoji is from one that was never known.

    python tools/drawing_oracle.py [--minutes M]

Every method that has a record of held-out emitters erases what the oracle never saw, one at a time, with the
settings of that record; controls are no edit, and a random edit of the size of UCE's.
Everybody is asked for the emitter and for half of what the oracle did see; the oracle, and the eight methods
that are also asked without words, then learn the emitter again.
Finished points stand in the two records beside the page, where the next call continues.
Edits lie in build/drawing_oracle and may be deleted."""
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from picture_probes import METHODS as PROBED
from points import Asked, fill, minutes_asked, put_row

from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.data.splits import make_split
from vision_unlearning.interference.attacks import edited
from vision_unlearning.interference.confusion import answers_of
from vision_unlearning.interference.generate import generate_array, task_prompts
from vision_unlearning.interference.relearning import Relearning, relearning_curve
from vision_unlearning.metrics.familiar import open_judge
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.conditioning import condition
from vision_unlearning.models.embedded import ORACLES
from vision_unlearning.running.session import plan_sessions, unlearn_session, weights_fingerprint
from vision_unlearning.store import Store
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.base import load_edit
from vision_unlearning.unlearners.diffusion.inputs import encode_dataset
from vision_unlearning.unlearners.diffusion.random_edit import random_edit
from vision_unlearning.unlearners.methods import METHODS
from vision_unlearning.unlearners.tuned import held_out_record

ROOT = Path(__file__).resolve().parents[1]
FOLDER, BESIDE = ROOT/"build"/"drawing_oracle", ROOT/"nbs"/"explanations"
TASK, MODEL, ORACLE, STEPS = "emoji", "emoji-sd", "emoji-sd-oracle", 8
EMITTERS = list(ORACLES[ORACLE])
SEEDS, RECEIVER_SEEDS, SHOWN = list(range(42, 66)), [42, 43], 6
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
RECEIVERS = [name for name in NAMES if name not in EMITTERS][::2]
NO_EDIT, RANDOM, UNKNOWN = "no edit", "random edit", "a word that means nothing"
WORD = "zyx"  # that means nothing
TESTED = [method for method in METHODS if held_out_record(TASK, method)]
DRAWS = [Asked(label) for label in (NO_EDIT, ORACLE, RANDOM, *TESTED)]
AGAIN = Relearning(at=(0, 5, 10, 20))
ROUNDS, BETWEEN = (0, 1), SEEDS[:6]  # generators of the relearning, and the seeds of what is drawn between


class Bench:
    "The networks, made when the first point is measured."
    def __init__(self): self.made = {}

    @cached_property
    def judge(self): return open_judge(TASK)

    def pipe(self, name: str):
        if name not in self.made: self.made[name] = load_pipeline(name)
        return self.made[name]

    def whose(self, way: Asked, emitter: str):
        "The pipeline of a way, and the edit that is put on it."
        if way.label == ORACLE: return self.pipe(ORACLE), None
        if way.label in (NO_EDIT, UNKNOWN): return self.pipe(MODEL), None
        pipe, store = self.pipe(MODEL), Store(FOLDER)
        method = "uce" if way.label == RANDOM else way.label
        session, = plan_sessions(store, TASK, method, [emitter])
        unlearn_session(store, session, pipe, weights_fingerprint(MODEL))
        edit = load_edit(store.model(session))
        return pipe, random_edit(edit, pipe) if way.label == RANDOM else edit

    def pictures(self, pipe, edit, names: list[str], seeds: list[int]) -> np.ndarray:
        "(N,H,W,3) uint8, each name with each seed."
        prompts = [prompt for prompt in task_prompts(TASK, [{"name": n} for n in names]) for _ in seeds]
        with edited(pipe, edit):
            return generate_array(pipe, seeds*len(names), prompts, num_inference_steps=STEPS, batch_size=25)

    @cached_property
    def unedited(self) -> np.ndarray:
        "What the receivers look like without an edit."
        return self.pictures(self.pipe(MODEL), None, RECEIVERS, RECEIVER_SEEDS)

    @cached_property
    def never_taught(self) -> np.ndarray:
        "What the oracle makes of the receivers."
        return self.pictures(self.pipe(ORACLE), None, RECEIVERS, RECEIVER_SEEDS)

    def receivers(self, way: Asked, pipe, edit) -> np.ndarray:
        "What the receivers look like; who is no edit draws them once for all emitters."
        if way.label == NO_EDIT: return self.unedited
        if way.label == ORACLE: return self.never_taught
        return self.pictures(pipe, edit, RECEIVERS, RECEIVER_SEEDS)

    def said(self, pictures: np.ndarray, names: list[str], seeds: list[int]) -> dict[str, list[str]]:
        "What pictures of names are taken for, a name a seed."
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
        found = answers_of(self.judge, images, [name for name in names for _ in seeds])
        return {name: found[i*len(seeds):(i + 1)*len(seeds)] for i, name in enumerate(names)}

    def draw(self, way: Asked, emitter: str) -> dict:
        "One point: answers to the emitter's prompt and to those of the receivers."
        pipe, edit = self.whose(way, emitter)
        own = self.pictures(pipe, edit, [emitter], SEEDS)
        sheet = BESIDE/f"oracle_{EMITTERS.index(emitter) + 1}.webp"
        put_row(sheet, [each.label for each in DRAWS], way.label, np.concatenate(own[:SHOWN], axis=1))
        others = self.receivers(way, pipe, edit)
        moved = np.square(others.astype(float) - self.unedited).mean((1, 2, 3))**.5
        answers = self.said(own, [emitter], SEEDS) | self.said(others, RECEIVERS, RECEIVER_SEEDS)
        named = np.mean([a == emitter for a in answers[emitter]])
        print(emitter, way.label, f"named {named:.2f}, moved {moved.mean():.1f}", flush=True)
        of_each = moved.reshape(len(RECEIVERS), len(RECEIVER_SEEDS)).mean(1).round(2).tolist()
        return dict(label=way.label, emitter=emitter, answers=answers, moved=of_each)

    def relearn(self, way: Asked, emitter: str) -> dict:
        """One point: how often the emitter is seen after some updates on its drawings, beside other drawings;
        no curve of an edit on calls, which lets no gradient through."""
        pipe, edit = self.whose(way, emitter)
        if edit is not None and edit.acts_on == "calls":
            return dict(label=way.label, emitter=emitter, curves=[])
        forget, retain = make_split(TASK, emitter, per_entity=1)
        data, kept = encode_dataset(pipe, forget), encode_dataset(pipe, retain)
        prompt = get_prompt(TASK, WORD if way.label == UNKNOWN else emitter)
        if way.label == UNKNOWN: data = replace(data, embeddings=condition(pipe, [prompt]*len(data)))
        def seen():
            drawn = generate_array(pipe, BETWEEN, [prompt]*len(BETWEEN), num_inference_steps=STEPS)
            said = self.said(drawn, [emitter], BETWEEN)[emitter]
            return {"seen": sum(name == emitter for name in said)}
        curves = []
        for seed in ROUNDS:
            dice = torch.Generator().manual_seed(seed)
            rows = relearning_curve(pipe, data, seen, AGAIN, retain=kept, edit=edit, generator=dice)
            curves.append([row["seen"] for row in rows])
        print(emitter, way.label, curves, flush=True)
        return dict(label=way.label, emitter=emitter, curves=curves)


def main():
    minutes, bench = minutes_asked(__doc__), Bench()
    FOLDER.mkdir(parents=True, exist_ok=True)
    about = dict(task=TASK, model=MODEL, oracle=ORACLE, emitters=EMITTERS, num_inference_steps=STEPS)
    drawn = about | dict(seeds=SEEDS, receivers=RECEIVERS, receiver_seeds=RECEIVER_SEEDS)
    fill(BESIDE/"oracle_drawn.json", EMITTERS, DRAWS, bench.draw, drawn, minutes)
    again = [Asked(label) for label in (ORACLE, UNKNOWN, *PROBED)]
    relearned = about | dict(relearning=AGAIN.model_dump(), rounds=ROUNDS, seeds=BETWEEN, word=WORD)
    fill(BESIDE/"oracle_relearned.json", EMITTERS, again, bench.relearn, relearned, minutes)


if __name__ == "__main__": main()
