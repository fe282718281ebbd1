"""Measures nbs/tutorials/21_forgotten: whether an erased emoji comes back by probes that are not text.

    python tools/picture_probes.py [--minutes M]

Every method is asked with the settings of its record of held-out emitters; its edits lie in
build/what_it_became, where tools/what_it_became.py makes them too. The controls are asked the same with the
same pictures: no edit, no edit and a word that means nothing, a random edit of the size of UCE's.
Finished lines lie in build/picture_probes, where the next call continues: one emitter for all, then the next.
Every call writes what there is to the record and the sheet of pictures beside the page."""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vision_unlearning.core import versions
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
from vision_unlearning.metrics.speed import processor
from vision_unlearning.models import load_pipeline
from vision_unlearning.running.erase import own_pictures
from vision_unlearning.running.session import plan_sessions, unlearn_session, weights_fingerprint
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.store import Store, write_json
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.base import load_edit
from vision_unlearning.unlearners.diffusion.random_edit import random_edit
from vision_unlearning.unlearners.tuned import held_out_record

ROOT = Path(__file__).resolve().parents[1]
EDITS, FOLDER = ROOT/"build"/"what_it_became", ROOT/"build"/"picture_probes"
BESIDE = ROOT/"nbs"/"tutorials"/"picture_probes"
TASK, MODEL, STEPS, SEEDS = "emoji", "emoji-sd", 8, (42, 43, 44, 45, 46, 47)
EMITTERS = held_out_emitters(TASK)[:3]
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
METHODS = ("uce", "esd", "sld", "distil", "rece", "salun", "spm", "concept_ablation")
NO_EDIT, NONSENSE, RANDOM = "no edit", "no edit, a word that means nothing", "random edit"
WORD = "zyx"  # that means nothing
PROBES = (Completion(), Inpainting(), AddedNoise(scales=(.2, .4)), LatentGuidance())
INVERSION = dict(num_steps=10, learning_rate=.4)


class Looker:
    "Asks one pipeline, with whatever edit is on."
    def __init__(self):
        self.pipe, self.judge = load_pipeline(MODEL), open_judge(TASK)
        self.weights, self.store = weights_fingerprint(MODEL), Store(EDITS)
        self.how, self.given = dict(num_inference_steps=STEPS), {}

    def prepared(self, emitter: str):
        """Pictures of the emitter and of sixteen others, drawn by the unedited model, and what each probe
        makes."""
        if emitter not in self.given:
            free = [name for name in NAMES if name != emitter]
            others = [free[i] for i in np.random.default_rng(0).permutation(len(free))[:16]]
            drawn = [
                own_pictures(self.pipe, names, per, **self.how)
                for names, per in (([emitter], 6), (others, 1))
            ]
            given = encode_given(self.pipe, *drawn)
            self.given[emitter] = given, [probe.prepare(self.pipe, given) for probe in PROBES]
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

    def inverted(self, edit, given, emitter: str, condition: str) -> np.ndarray | None:
        """Pictures under a word that was searched; None where an edit acts on calls and lets no gradient
        through."""
        if edit is not None and edit.acts_on == "calls": return None
        steps = 0 if condition == NONSENSE else INVERSION["num_steps"]
        settings = TokenSearch(num_steps=steps, learning_rate=INVERSION["learning_rate"], start=WORD)
        how = dict(edit=edit, generator=torch.Generator().manual_seed(0))
        found = search_tokens(self.pipe, given.concept, settings, **how)
        with edited(self.pipe, edit), found.on(self.pipe):
            return generate_array(self.pipe, list(SEEDS), [found.prompt]*len(SEEDS), **self.how)[None]

    def measure(self, condition: str, emitter: str) -> tuple[dict, np.ndarray]:
        "What was seen under its prompt and each probe, and a strip of first pictures."
        (given, made), edit = self.prepared(emitter), self.edit(condition, emitter)
        prompt = get_prompt(TASK, WORD if condition == NONSENSE else emitter)
        with edited(self.pipe, edit):
            drawn = {"prompt": generate_array(self.pipe, list(SEEDS), [prompt]*len(SEEDS), **self.how)[None]}
            for probe, own in zip(PROBES, made):
                drawn[probe.name] = probe_pictures(
                    self.pipe, probe, given, own, prompt, list(SEEDS), **self.how
                )
        inverted = self.inverted(edit, given, emitter, condition)
        if inverted is not None: drawn["inversion"] = inverted
        found = {name: self.seen(images, emitter) for name, images in drawn.items()}
        blank = np.full_like(drawn["prompt"][0, 0], 255)
        names = ("prompt", *(probe.name for probe in PROBES), "inversion")
        strip = np.concatenate([drawn[n][-1, 0] if n in drawn else blank for n in names], axis=1)
        return dict(condition=condition, emitter=emitter, seen=found), strip


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def strip_path(condition: str, emitter: str) -> Path:
    return FOLDER/f"{condition}-{emitter}.png".replace(" ", "_").replace(",", "")


def write_beside(lines: list[dict]):
    "The record of the emitters that every condition has, and a sheet of the first emitter."
    done = {(line["condition"], line["emitter"]) for line in lines}
    begun = [c for c in (NO_EDIT, NONSENSE, RANDOM, *METHODS) if (c, EMITTERS[0]) in done]
    whole = [name for name in EMITTERS if begun and all((c, name) in done for c in begun)]
    if not whole: return
    about = dict(
        task=TASK, model=MODEL, seeds=list(SEEDS), num_inference_steps=STEPS, emitters=whole, word=WORD
    )
    about |= dict(
        conditions=begun, probes={probe.name: probe.model_dump() for probe in PROBES}, inversion=INVERSION
    )
    chosen = [line for line in lines if line["emitter"] in whole]
    write_json(BESIDE/"record.json", about | dict(cpu=processor(), versions=versions(), lines=chosen))
    rows = [np.asarray(Image.open(strip_path(c, whole[0]))) for c in begun]
    Image.fromarray(np.concatenate(rows)).save(BESIDE/"first.webp", lossless=True, method=6)


def main(minutes: float):
    "Measure until the time is up."
    end = time.monotonic() + 60*minutes
    FOLDER.mkdir(parents=True, exist_ok=True)
    BESIDE.mkdir(parents=True, exist_ok=True)
    path, looker = FOLDER/"lines.jsonl", Looker()
    lines = read_lines(path)
    done = {(line["condition"], line["emitter"]) for line in lines}
    conditions = (NO_EDIT, NONSENSE, RANDOM, *METHODS)
    todo = [(c, name) for name in EMITTERS for c in conditions if (c, name) not in done]
    for condition, emitter in todo:
        if time.monotonic() > end: break
        line, strip = looker.measure(condition, emitter)
        Image.fromarray(strip).save(strip_path(condition, emitter))
        with path.open("a") as file: file.write(json.dumps(line) + "\n")
        lines.append(line)
        print(emitter, condition, {name: sum(seen) for name, seen in line["seen"].items()}, flush=True)
    write_beside(lines)
    print(len(lines), "of", len(conditions)*len(EMITTERS), "lines")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1e6)
    main(parser.parse_args().minutes)
