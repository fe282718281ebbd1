"The oracle of emoji-sd: what it never saw, what it was taught, and that anybody can load it."
import json

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.metrics.familiar import open_judge
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.embedded import ORACLES, embedded_path
from vision_unlearning.oracle.drawing import (
    answer_distance,
    drawn_answers,
    oracle_distances,
    swapped_distances,
)
from vision_unlearning.running.session import weights_fingerprint
from vision_unlearning.running.tuning.held_out import held_out_emitters
from vision_unlearning.unlearners.diffusion.uce import UCE

ORACLE, = ORACLES
TAUGHT = ["fox", "castle", "carrot", "panda", "wolf", "taxi"]


@pytest.fixture(scope="module")
def judge(): return open_judge()


@pytest.fixture(scope="module")
def oracle(): return load_pipeline(ORACLE)


def test_what_it_never_saw_are_held_out_emitters(judge):
    "So that every record of a held-out test speaks of them too."
    assert set(ORACLES[ORACLE]) <= set(held_out_emitters("emoji")) <= {e["name"] for e in judge.entities}


def test_it_draws_what_it_was_taught_and_not_what_it_never_saw(oracle, judge):
    "Judged like any other model."
    taught = drawn_answers(oracle, TAUGHT, [42, 43], judge, num_inference_steps=8)
    assert (taught["asked"] == taught["answer"]).mean() > .8
    never = drawn_answers(oracle, ["jack o lantern"], [42, 43, 44], judge, num_inference_steps=8)
    assert not (never["asked"] == never["answer"]).any()


def test_a_horse_it_knows_from_elsewhere(oracle, judge):
    "emoji_canvas has a horse, whose drawings were not left out: so it has one to draw."
    assert "horse" in {e["name"] for e in emoji_entities("emoji_canvas")}
    found = drawn_answers(oracle, ["horse face"], [42, 43], judge, num_inference_steps=8)
    assert (found["answer"] == "horse face").all()


def test_it_is_a_model_of_its_own(oracle):
    "Its tower and its words are not those of emoji-sd, and its autoencoder is."
    sd = load_pipeline("emoji-sd")
    assert weights_fingerprint(ORACLE) != weights_fingerprint("emoji-sd")
    def weights(module): return torch.cat([p.flatten() for p in module.parameters()])
    assert torch.equal(weights(oracle.vae), weights(sd.vae))
    assert not torch.equal(weights(oracle.unet), weights(sd.unet))
    assert not torch.equal(weights(oracle.text_encoder), weights(sd.text_encoder))
    assert oracle.tokenizer.get_vocab() != sd.tokenizer.get_vocab()


def test_anybody_can_load_it():
    "It is a folder of diffusers, says nothing of the machine it was made on, and has its card."
    folder = embedded_path(ORACLE)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert pipe.unet.config.sample_size == 16
    for path in folder.rglob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text(encoding="utf-8")), path
    card = (folder/"README.md").read_text(encoding="utf-8")
    assert all(name in card for name in ORACLES[ORACLE])


def test_the_model_comes_back_as_it_was(oracle, judge):
    "Weights and dice."
    before, dice = {n: p.clone() for n, p in oracle.unet.named_parameters()}, torch.get_rng_state()
    edit = UCE().unlearn(oracle, "fox", ["wolf", "castle"])
    torch.set_rng_state(dice)
    drawn_answers(oracle, ["fox"], [42], judge, edit, num_inference_steps=2)
    assert torch.equal(torch.get_rng_state(), dice)
    assert all(torch.equal(before[n], p) for n, p in oracle.unet.named_parameters())


def test_an_oracle_that_was_asked_less_is_refused():
    "A distance is of the same seeds."
    rows = [("fox", 42, "fox"), ("fox", 43, "wolf")]
    asked = pd.DataFrame(rows, columns=["asked", "seed", "answer"])
    assert oracle_distances(asked, asked).to_dict() == {"fox": answer_distance(*[["fox", "wolf"]]*2)}
    with pytest.raises(ValueError, match="not asked for 'fox' with every seed"):
        oracle_distances(asked, asked[:1])


def test_swaps_of_who_drew_what():
    "The same dice give the same null, and what differs always is farther than what swaps give."
    def null(): return swapped_distances(["a"]*6, ["b"]*6, 50, generator=torch.Generator().manual_seed(1))
    assert (null() == null()).all() and len(null()) == 50
    assert answer_distance(["a"]*6, ["b"]*6) == 1 >= null().max()
