"""Computes what nbs/explanations/10_foretelling compares with the harm that was measured.

    python tools/foretelling.py [--models emoji-sd,emoji-mmdit]

For each model, from the unedited model alone: how much each of the twenty held-out emitters influences every
entity, and how well the gradients of their losses align.
What was measured after unlearning stands in nbs/tutorials/two_architectures.json and is not read here.
What the record beside the page has of a model is replaced when that model is asked for."""
import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vision_unlearning.core import versions
from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.metrics.speed import processor
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.conditioning import predict
from vision_unlearning.models.families import denoiser
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.store import write_json
from vision_unlearning.tasks import PROMPT_TEMPLATE
from vision_unlearning.unlearners.diffusion.influence import influence, walk, walk_names
from vision_unlearning.unlearners.diffusion.weights import select_parameters
from vision_unlearning.unlearners.trainable import trainable_weights

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT/"nbs"/"explanations"/"foretelling.json"
TASK, LAYERS, STEPS, GUIDANCE = "emoji", "xattn_kv", 4, 3.
NAMES = [entity["name"] for entity in emoji_entities(TASK)]
EMITTERS = held_out_emitters(TASK)


def dice(seed): return torch.Generator().manual_seed(seed)


def unit_gradient(pipe, name: str) -> torch.Tensor:
    "Direction in which the loss of erasing a name grows."
    network = denoiser(pipe)
    points = walk(pipe, [name], dice(1 + NAMES.index(name)), PROMPT_TEMPLATE, STEPS, GUIDANCE, 1.)
    ask = partial(predict, network)
    with torch.enable_grad(), trainable_weights(network, select_parameters(network, LAYERS)) as (weights, _):
        said = ask(points.inputs, points.times, points.embeddings)
        loss = (said - points.targets).square().mean()
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    return flat/flat.norm()


def measure(model: str) -> dict:
    "Everything about one model."
    start, pipe = time.process_time(), load_pipeline(model)
    walked = walk_names(pipe, NAMES, generator=dice(0), num_inference_steps=STEPS)
    walking = time.process_time() - start
    told = {}
    for name in EMITTERS:
        how = dict(generator=dice(1 + NAMES.index(name)), target_modules=LAYERS)
        told[name] = [float(f"{x:.4g}") for x in influence(pipe, name, walked, **how)]
    asking = time.process_time() - start - walking
    gradients = torch.stack([unit_gradient(pipe, name) for name in NAMES])
    places = [NAMES.index(name) for name in EMITTERS]
    cosines = (gradients[places] @ gradients.T).double().numpy()
    aligning = time.process_time() - start - walking - asking
    seconds = dict(walking=walking, influence=asking, alignment=aligning)
    return dict(
        influence=told,
        alignment=dict(zip(EMITTERS, np.round(cosines, 4).tolist())),
        cpu_seconds={name: round(value, 1) for name, value in seconds.items()},
    )


def main(models: list[str]):
    "Measure models and write them beside what is there."
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    found = record.get("models", {})
    for model in models:
        found[model] = measure(model)
        about = dict(task=TASK, emitters=EMITTERS, entities=NAMES, layers=LAYERS, num_inference_steps=STEPS)
        about |= dict(guidance_scale=GUIDANCE, cpu=processor(), versions=versions())
        write_json(RECORD, about | dict(models=found))
        print(model, found[model]["cpu_seconds"], flush=True)


if __name__ == "__main__":
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--models", default="emoji-sd,emoji-mmdit")
    main(parser.parse_args().models.split(","))
