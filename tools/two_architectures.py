"""Measures nbs/tutorials/22_two_architectures: the same methods, the same emitters, a UNet and a transformer.

    python tools/two_architectures.py search|test [--model MODEL] [--methods uce,esd] [--minutes M]

`search` gives every method on `emoji-mmdit` the budget that it had on `emoji-sd`: five trials
with the same seed on the same four emitters, and then the largest strength that leaves the receivers alone.
What it finds ships as the tuned settings of that model.
`test` unlearns the twenty held-out emitters with the shipped settings of a model, and writes its record.
Everything lies in build/two_architectures, where the next call continues;
`test` writes what there is to the record and the sheet of pictures beside the page,
and keeps what they have of sessions that are no longer in the folder."""
import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vision_unlearning.core import versions
from vision_unlearning.explore.attention import attention_fingerprints
from vision_unlearning.interference.generate import read_images
from vision_unlearning.metrics.speed import processor
from vision_unlearning.models import load_pipeline
from vision_unlearning.running.session import chosen_sessions, known_entities, read_scores
from vision_unlearning.running.tuning.held_out import held_out, held_out_emitters
from vision_unlearning.running.tuning.objective import JudgeObjective
from vision_unlearning.running.tuning.search import tune, tuned_from
from vision_unlearning.running.tuning.strength import strength, with_strength
from vision_unlearning.store import Store, write_json
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.tuned import held_out_record, tuning_record

ROOT = Path(__file__).resolve().parents[1]
FOLDER, BESIDE = ROOT/"build"/"two_architectures", ROOT/"nbs"/"tutorials"
RECORD, SHEET = BESIDE/"two_architectures.json", BESIDE/"two_architectures.webp"
SHIPPED = ROOT/"vision_unlearning"/"embedded"
TASK, UNET, TRANSFORMER, TRIALS, STEPS = "emoji", "emoji-sd", "emoji-mmdit", 5, 8
METHODS = ("uce", "esd", "distil", "spm", "erase_anything")
BATCH = 25  # pictures at once
SHOWN = 4  # emitters of the sheet of pictures
TEXT_SIDE = "xattn"  # the set of parameters that the transformer's text goes through
# of a method that no search on the UNet has fixed: steps of training and of a trajectory, as ESD's and SPM's
SHORT = dict(num_train_steps=64, num_inference_steps=8)
PAIRS = ("rmse", "clip_diff", "judge_prob_diff")  # pair metrics that the page compares


def fixed_for(method: str) -> dict:
    "What a search does not vary: as on the UNet, where the method was searched there; layers by their set."
    record = tuning_record(TASK, method)
    fixed = dict(record["fixed"] if record else SHORT)
    if "target_modules" in fixed: fixed["target_modules"] = TEXT_SIDE
    return fixed


def search(method: str, seconds: float):
    "Search the settings of a method on the transformer, and ship them."
    record = tuning_record(TASK, method)
    # the space of the search that the UNet's settings come from, where there was one
    space = record["space"] if record else None
    objective = JudgeObjective(TASK, model=TRANSFORMER, num_inference_steps=STEPS, batch_size=BATCH)
    asked = dict(objective=objective, space=space, fixed=fixed_for(method), seconds=seconds)
    found = tune(method, TASK, TRIALS, FOLDER/"search", **asked)
    if len(found["trials"]) < TRIALS: return
    closed_form = method == "uce"  # whose own settings say how strong it is
    if closed_form: found |= {"settings": tuned_from(found)}
    else: found = with_strength(found, strength(found, objective, FOLDER/"strength"))
    write_json(SHIPPED/"tuned"/TRANSFORMER/f"{TASK}_{method}.json", found)


def test(method: str, model: str, emitters: list[str]):
    "Test a method on a model with what ships for it."
    store = Store(FOLDER/model)
    record = held_out(
        method, TASK, store, emitters, num_inference_steps=STEPS, model="" if model == UNET else model
    )
    if model != UNET and len(emitters) == len(held_out_emitters(TASK)):
        write_json(SHIPPED/"held_out"/model/f"{TASK}_{method}.json", record)


def pairs(model: str, found: dict) -> dict:
    "Of each method the pair metrics of complete sessions, emitter by receiver, beside those found before."
    names, store = [e["name"] for e in known_entities(TASK)], Store(FOLDER/model)
    for session in chosen_sessions(store, TASK, model=model):
        mean = read_scores(store, session).groupby(["metric", "receiver"])["value"].mean()
        rows = {m: [round(float(v), 5) for v in mean[m].reindex(names)] for m in PAIRS}
        found.setdefault(session.method, {})[session.entity] = rows
    return found


def attention(model: str) -> list[list[float]]:
    "Cosines between the attention fingerprints of all entities, of the model without an edit."
    prompts = [get_prompt(TASK, entity["name"]) for entity in known_entities(TASK)]
    vectors = attention_fingerprints(load_pipeline(model), prompts, [42], STEPS, batch_size=BATCH)
    return (vectors @ vectors.T).round(5).tolist()


def strips(model: str, emitters: list[str]) -> dict[str, np.ndarray]:
    "What is drawn for the emitters without an edit, and of each method with the edit that forgets them."
    store, white = Store(FOLDER/model), np.full((64, 64, 3), 255, np.uint8)
    if not store.baseline(TASK).is_dir(): return {}
    def look(folder, state, name):
        picture, = read_images(folder, state, [42], [get_prompt(TASK, name)])
        return picture.permute(1, 2, 0).numpy()
    found = {"none": [look(store.baseline(TASK), "off", name) for name in emitters]}
    for session in chosen_sessions(store, TASK, model=model):
        if session.entity not in emitters: continue
        row = found.setdefault(session.method, [white]*len(emitters))
        row[emitters.index(session.entity)] = look(store.generated(session), "on", session.entity)
    return {method: np.concatenate(row, axis=1) for method, row in found.items()}


def write_sheet(emitters: list[str], before: list[str]) -> list[str]:
    "A row without an edit and one a method, the UNet on the left; a sheet that would lose rows stays."
    sides = [strips(model, emitters) for model in (UNET, TRANSFORMER)]
    rows = [m for m in ("none", *METHODS) if any(m in side for side in sides)]
    if len(rows) < len(before): return before
    white = np.full((64, 64*len(emitters), 3), 255, np.uint8)
    whole = [np.concatenate([side.get(m, white) for side in sides], axis=1) for m in rows]
    Image.fromarray(np.concatenate(whole)).save(SHEET, lossless=True, method=6)
    return rows


def write_record():
    "Everything that is known so far, beside the page."
    records = {
        model: {m: r for m in METHODS if (r := held_out_record(TASK, m, "" if model == UNET else model))}
        for model in (UNET, TRANSFORMER)
    }
    drawn = held_out_emitters(TASK)[:SHOWN]
    nothing = dict(pairs={}, attention={}, sheet=dict(rows=[]))
    old = json.loads(RECORD.read_text()) if RECORD.exists() else nothing
    write_json(
        RECORD,
        dict(
            task=TASK,
            emitters=held_out_emitters(TASK),
            entities=[e["name"] for e in known_entities(TASK)],
            num_inference_steps=STEPS,
            trials=TRIALS,
            sheet=dict(rows=write_sheet(drawn, old["sheet"]["rows"]), emitters=drawn),
            records=records,
            attention={m: old["attention"].get(m) or attention(m) for m in (UNET, TRANSFORMER)},
            pairs={model: pairs(model, old["pairs"].get(model, {})) for model in (UNET, TRANSFORMER)},
            cpu=processor(),
            versions=versions(),
        ),
    )


def main(what: str, model: str, methods: list[str], minutes: float):
    "Search or test until the time is up."
    end = time.monotonic() + 60*minutes
    if what == "search":
        for method in methods:
            left = end - time.monotonic()
            if left > 0: search(method, left)
        return
    emitters = held_out_emitters(TASK)
    for n in (5, 10, 20):  # a few emitters of every method before all of one
        for method in methods:
            if time.monotonic() > end: break
            test(method, model, emitters[:n])
    write_record()


if __name__ == "__main__":
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("what", choices=("search", "test"))
    parser.add_argument("--model", default=TRANSFORMER)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    asked = parser.parse_args()
    main(asked.what, asked.model, asked.methods.split(","), asked.minutes)
