"""Search and strength of diffusion methods, with judges and objectives whose answers are known."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.explore.neighbours import near_neighbours
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.running.tuning.objective import JudgeObjective
from vision_unlearning.running.tuning.strength import strength
from vision_unlearning.unlearners.diffusion.uce import UCE

NAMES = [e["name"] for e in emoji_entities("emoji")]


class Memory:
    """Takes every picture for what was asked for when it was first drawn, up to one grey level, and any other
    for the first entity."""
    def __init__(self, order):
        self.order = order
        self.seen = None

    def entity_probabilities(self, images, task, entities):
        if self.seen is None: self.seen = images.int()
        same = ((images.int()[:, None] - self.seen).abs().flatten(2).amax(2) <= 1).tolist()
        answers = [next((i for hit, i in zip(row, self.order) if hit), 0) for row in same]
        return torch.nn.functional.one_hot(torch.tensor(answers), len(entities)).float()


@pytest.fixture(scope="module")
def asked():
    "(objective, the receivers that it must have chosen): two near ones and two of the rest, drawn by seed 0."
    tiny = tiny_pipeline()
    near = [name for name, _ in near_neighbours(tiny, "fox", NAMES, 2)]
    rest = [name for name in NAMES if name not in ("fox", *near)]
    drawn = sorted(np.random.default_rng(0).permutation(len(rest))[:2])
    wanted = [*near, *(rest[i] for i in drawn)]
    judge = Memory([NAMES.index(name) for name in ["fox", "fox", *wanted]])
    drawing = dict(num_inference_steps=2, guidance_scale=10.)
    return JudgeObjective("emoji", ["fox"], 4, pipe=tiny, judge=judge, **drawing), wanted


def test_receivers_and_what_is_recognised_before(asked):
    objective, wanted = asked
    assert objective.receivers == {"fox": wanted}
    assert set(objective.before["fox"].values()) == {1.}
    with pytest.raises(ValueError, match="did you mean 'fox'"): JudgeObjective("emoji", ["foxx"])


def test_almost_no_edit_scores_nothing_and_a_strong_one_forgets(asked):
    objective = asked[0]
    nothing = {"forgetting": 0., "retained": 1., "forgetting accuracy": 0., "retained accuracy": 1.}
    assert objective(UCE(erase_scale=1e-12)) == nothing
    edits = [("fox", objective.forget(UCE(erase_scale=10.), "fox"))]
    assert [objective.measure(edits, scale)["forgetting"] for scale in (1e-12, 1.)] == [0., 1.]
    assert objective(UCE(erase_scale=10.)) == objective.measure(edits)


# An edit of strength s leaves exp(-2s) of the emitter and takes s^2/100 of the others

class Toy(SimpleNamespace):
    emitters = ["fox", "wolf"]
    description = dict(name="toy")

    def forget(self, unlearner, emitter):
        self.trained.append((unlearner.name, emitter))
        return emitter

    def measure(self, edits, scale):
        return dict(forgetting=1 - math.exp(-2 * scale), retained=1 - scale ** 2 / 100)


RECORD = dict(
    task="emoji",
    method="esd",
    fixed=dict(num_train_steps=64),
    best=dict(score=.9, settings=dict(learning_rate=1e-3)),
)


@pytest.mark.parametrize(
    "floor, walked, kept",
    [
        (.97, [1., 1.25, 1.5, 2.], 1.5),
        (.98, [1., 1.25, 1.5], 1.25),
        (.993, [1., .9, .8], .8),
        (.999, [1., .9, .8, .7], 1.),  # no length helps
    ],
)
def test_the_walk_ends_at_the_floor(floor, walked, kept, tmp_path):
    found = strength(RECORD, Toy(trained=[]), tmp_path, floor=floor)
    assert [row["scale"] for row in found["trials"]] == walked and found["edit_scale"] == kept


def test_a_method_is_trained_once_for_each_emitter(tmp_path):
    toy = Toy(trained=[])
    found = strength(RECORD, toy, tmp_path, floor=.97)
    assert toy.trained == [("esd", "fox"), ("esd", "wolf")]
    assert strength(RECORD, toy, tmp_path, floor=.97)["seconds"] == found["seconds"]
    assert len(toy.trained) == 2


def test_what_has_no_strength(tmp_path):
    untrained = {**RECORD, "method": "uce", "fixed": {}, "best": dict(score=1., settings={})}
    with pytest.raises(ValueError, match="is not trained"): strength(untrained, Toy(trained=[]), tmp_path)
    with pytest.raises(ValueError, match="1 among them"):
        strength(RECORD, Toy(trained=[]), tmp_path, scales=(1.5, 2.))
