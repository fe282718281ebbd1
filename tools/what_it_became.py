"""Measures nbs/tutorials/20_what_it_became: what the emitters and some receivers are taken for after an edit.

    python tools/what_it_became.py [--minutes M]

Every method that has a record of held-out emitters makes its edits with the settings of that record.
Sessions and finished lines lie in build/what_it_became, where the next call continues: one emitter for all
methods, then the next, so that whatever is there compares the same emitters.
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
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.metrics.familiar import open_judge
from vision_unlearning.metrics.speed import processor
from vision_unlearning.models import load_pipeline
from vision_unlearning.running.session import plan_sessions, unlearn_session, weights_fingerprint
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.store import Store, write_json
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.base import load_edit
from vision_unlearning.unlearners.methods import METHODS
from vision_unlearning.unlearners.tuned import held_out_record

ROOT = Path(__file__).resolve().parents[1]
FOLDER, BESIDE = ROOT/"build"/"what_it_became", ROOT/"nbs"/"tutorials"/"what_it_became"
TASK, MODEL, SEEDS, STEPS = "emoji", "emoji-sd", (42, 43, 44), 8
EMITTERS = held_out_emitters(TASK)
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
RECEIVERS = [name for name in NAMES if name not in EMITTERS][::8]
TESTED = [method for method in METHODS if held_out_record(TASK, method)]


class Looker:
    "Draws with whatever edit is on, and asks the judge."
    def __init__(self):
        self.pipe, self.judge = load_pipeline(MODEL), open_judge(TASK)
        self.weights, self.store = weights_fingerprint(MODEL), Store(FOLDER)

    def taken_for(self, asked: list[str], seeds: list[int]) -> tuple[np.ndarray, list]:
        "The pictures, and of each the name that the judge must choose and its distance to what was taught."
        prompts = [get_prompt(TASK, name) for name in asked]
        pictures = generate_array(self.pipe, seeds, prompts, num_inference_steps=STEPS, batch_size=25)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
        sure = self.judge.judge.entity_probabilities(pixels, TASK, self.judge.entities).argmax(1)
        apart = self.judge.knows.distance(pixels)
        said = [[NAMES[int(i)], round(float(d), 5)] for i, d in zip(sure, apart)]
        return pictures, said

    def look(self, emitters: list[str]) -> tuple[dict, list[np.ndarray]]:
        "What emitters and receivers are taken for, and a strip of pictures for each emitter."
        asked = [name for name in emitters for _ in SEEDS]
        pictures, said = self.taken_for(asked + RECEIVERS, [*SEEDS*len(emitters), *[SEEDS[0]]*len(RECEIVERS)])
        each, count = len(SEEDS), len(asked)
        of_emitters = {name: said[i*each:(i + 1)*each] for i, name in enumerate(emitters)}
        receivers = dict(zip(RECEIVERS, said[count:]))
        strips = [np.concatenate(pictures[i:i + each], axis=1) for i in range(0, count, each)]
        return dict(emitters=of_emitters, receivers=receivers), strips

    def measure(self, method: str, emitter: str) -> tuple[dict, np.ndarray]:
        "One line of the record, and the emitter's strip."
        settings = held_out_record(TASK, method)["settings"]
        session, = plan_sessions(self.store, TASK, method, [emitter], overrides=settings)
        record = unlearn_session(self.store, session, self.pipe, self.weights)
        with load_edit(self.store.model(session)).on(self.pipe): found, (strip,) = self.look([emitter])
        seconds = round(record["stages"]["unlearn"]["seconds"], 2)
        line = dict(method=method, emitter=emitter, seconds=seconds)
        return line | dict(said=found["emitters"][emitter], receivers=found["receivers"]), strip


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def strip_path(method: str, emitter: str) -> Path:
    return FOLDER/"pictures"/f"{method}-{emitter.replace(' ', '_')}.png"


def write_beside(lines: list[dict], before: dict):
    "The record, of the emitters that every method has that was begun, and a sheet with a row a method."
    done = {(line["method"], line["emitter"]) for line in lines}
    begun = [method for method in TESTED if (method, EMITTERS[0]) in done]
    whole = [name for name in EMITTERS if begun and all((method, name) in done for method in begun)]
    about = dict(task=TASK, model=MODEL, seeds=list(SEEDS), num_inference_steps=STEPS, emitters=whole)
    about |= dict(receivers=RECEIVERS, methods=begun, cpu=processor(), versions=versions())
    chosen = [line for line in lines if line["emitter"] in whole and line["method"] in begun]
    write_json(BESIDE/"all_methods.json", about | dict(before=before, after=chosen))
    if not whole: return
    rows = [[Image.open(strip_path(method, name)) for name in whole] for method in ("none", *begun)]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    Image.fromarray(sheet).save(BESIDE/"all_methods.webp", lossless=True, method=6)


def main(minutes: float):
    "Measure until the time is up."
    end = time.monotonic() + 60*minutes
    (FOLDER/"pictures").mkdir(parents=True, exist_ok=True)
    path, before_path = FOLDER/"lines.jsonl", FOLDER/"before.json"
    lines, looker = read_lines(path), Looker()
    if not before_path.exists():
        before, strips = looker.look(EMITTERS)
        for name, strip in zip(EMITTERS, strips):
            Image.fromarray(strip).save(strip_path("none", name))
        write_json(before_path, before)
    done = {(line["method"], line["emitter"]) for line in lines}
    todo = [(method, name) for name in EMITTERS for method in TESTED if (method, name) not in done]
    for method, emitter in todo:
        if time.monotonic() > end: break
        line, strip = looker.measure(method, emitter)
        Image.fromarray(strip).save(strip_path(method, emitter))
        with path.open("a") as file: file.write(json.dumps(line) + "\n")
        lines.append(line)
        print(method, emitter, f"{line['seconds']} s:", line["said"], flush=True)
    write_beside(lines, json.loads(before_path.read_text()))
    print(len(lines), "of", len(TESTED)*len(EMITTERS), "sessions")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1e6)
    main(parser.parse_args().minutes)
