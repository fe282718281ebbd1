"""Distances of distributions, detectors and identity: against implementations that share nothing with them,
and what reads badly as a lesson."""
import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from vision_unlearning.metrics.concepts import ConceptAccuracy, unlearning_accuracy
from vision_unlearning.metrics.cost import COST_UNITS, cost_table
from vision_unlearning.metrics.detectors import NSFW, HubClassifier, HubNetwork, PaintingStyle
from vision_unlearning.metrics.distribution import CMMD, FID, KID, InceptionEncoder, frechet_distance
from vision_unlearning.metrics.embedding import EmbeddingSimilarity
from vision_unlearning.metrics.identity import FaceIdentity
from vision_unlearning.metrics.image_image import RMSE
from vision_unlearning.metrics.nudity import NudeNet
from vision_unlearning.models import quiet_loading


class Patches(torch.nn.Module):
    "Twelve mean colours of a picture, as a network would answer."
    num_features = 12
    def forward(self, images): return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def pictures(n, seed, spread=60.):
    noise = np.random.default_rng(seed).normal(128 + 5 * seed, spread, (n, 3, 8, 8))
    return torch.from_numpy(noise.clip(0, 255).astype(np.uint8))


def filled(metric, real, generated, parts=1):
    for side, images in ((True, real), (False, generated)):
        for part in images.split(-(-len(images) // parts)): metric.update(part, side)
    return metric


real, generated = pictures(60, 1), pictures(45, 2)
distances = {
    "fid": lambda: FID(InceptionEncoder(network=Patches())),
    "kid": lambda: KID(InceptionEncoder(network=Patches()), 40, 5),
    "cmmd": lambda: CMMD(InceptionEncoder(network=Patches())),
}
each = pytest.mark.parametrize("name", distances)


def test_fid_is_that_of_torchmetrics():
    theirs = FrechetInceptionDistance(feature=Patches())
    filled(theirs, real, generated)
    # theirs answers in float32
    assert float(filled(distances["fid"](), real, generated).compute()) == pytest.approx(
        float(theirs.compute()), rel=1e-4
    )


@pytest.mark.global_rng
def test_kid_is_that_of_torchmetrics_when_the_subset_is_everything():
    theirs, images = KernelInceptionDistance(feature=Patches(), subsets=1, subset_size=45), real[:45]
    filled(theirs, images, generated)
    assert float(
        filled(KID(InceptionEncoder(network=Patches()), 45, 1), images, generated).compute()
    ) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


@each
def test_distances_do_not_depend_on_batches_copies_or_ranks(name):
    whole = filled(distances[name](), real, generated)
    value = float(whole.compute())
    assert float(filled(distances[name](), real, generated, parts=7).compute()) == pytest.approx(
        value, rel=1e-9
    )
    assert (
        float(copy.deepcopy(whole).compute()) == value
        and float(pickle.loads(pickle.dumps(whole)).compute()) == value
    )
    first = filled(distances[name](), real[:20], generated[:30])
    second = filled(distances[name](), real[20:], generated[30:])
    first.merge_state(second)
    assert first.counts() == (60, 45)
    if name != "kid":
        # subsets depend on the order of arrival
        assert float(first.compute()) == pytest.approx(value, rel=1e-9)
    assert (
        len(set(first.result()) & {"name", "value", "n_real", "n_generated", "dimension"}) == 5
        and first.result()["name"] == f"{name}_patches"
    )
    whole.reset()
    with pytest.raises(ValueError, match="0 real and 0 generated"): whole.result()


@pytest.mark.parametrize("make", [lambda: FID("none"), lambda: KID("none"), RMSE])
def test_a_process_without_pictures_is_named(make):
    "Before anything else is gathered, and in each process alike."
    metric = make()
    sent = lambda mine, group: [torch.zeros_like(mine), torch.ones_like(mine)]
    with pytest.raises(ValueError, match="process 0 of 2 has no .*pictures.*; give each process some"):
        metric._sync_dist(sent)


def test_fid_of_far_means_keeps_its_digits():
    x = np.random.default_rng(0).normal(size=(500, 6)) + 1e4  # sums of squares of 1e8 a feature
    metric = FID(Patches_at(1e4))
    metric.update_features(torch.from_numpy(x), True)
    metric.update_features(torch.from_numpy(x + 1), False)
    moments = lambda v: (torch.from_numpy(v.mean(0)), torch.from_numpy(np.cov(v.T)))
    assert metric.result()["value"] == pytest.approx(frechet_distance(*moments(x), *moments(x + 1)), rel=1e-6)


class Patches_at:
    def __init__(self, level): self.name = f"level {level:.0f}"


def test_a_classifier_of_several_labels_answers_label_by_label(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
    with quiet_loading(), torch.random.fork_rng():
        torch.manual_seed(0)
        made = ViTForImageClassification(
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                image_size=16,
                patch_size=8,
                num_labels=3,
                problem_type="multi_label_classification",
                initializer_range=1.0,
            )
        )
        made.save_pretrained(tmp_path / "several")
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "several")
        network = HubNetwork(str(tmp_path / "several"))
    p = network.probabilities(pictures(5, 3))
    pixels = (
        torch.nn.functional.interpolate(
            pictures(5, 3).float(), (16, 16), mode="bilinear", align_corners=False
        )
        / 255
        - 0.5
    ) / 0.5
    with torch.no_grad():
        # PIL rounds to bytes
        assert (torch.sigmoid(made.eval()(pixel_values=pixels).logits).double() - p).abs().max() < .02
    assert network.several and not torch.allclose(p.sum(1), torch.ones(5, dtype=torch.float64))
    network.revision = "0123456789abcdef"
    assert HubClassifier(network).name == "classifier_several_01234567"
    assert network.probabilities(pictures(0, 0)).shape == (0, 3)


def test_every_metric_says_its_direction_and_bounds():
    for metric in (
        FID,
        KID,
        CMMD,
        EmbeddingSimilarity,
        HubClassifier,
        PaintingStyle,
        NSFW,
        NudeNet,
        FaceIdentity,
        ConceptAccuracy,
    ):
        low, high = metric.bounds
        assert metric.higher_is_better in (True, False, None) and (
            low is None or high is None or low < high
        ), metric
    assert not FID.higher_is_better and EmbeddingSimilarity.higher_is_better


def test_accuracies_do_not_depend_on_the_order_of_pictures_or_on_how_many_a_concept_has():
    rng = np.random.default_rng(0)
    style, thing = rng.integers(0, 4, 400), rng.integers(0, 5, 400)
    see = lambda truth, k: np.where(rng.random(400) < .7, truth, rng.integers(0, k, 400))
    sheet = pd.DataFrame(
        {"style": style, "object": thing, "style_seen": see(style, 4), "object_seen": see(thing, 5)}
    ).astype(str)
    found = unlearning_accuracy(sheet, "2", "style", "object")["value"]
    assert np.allclose(
        unlearning_accuracy(sheet.sample(frac=1, random_state=1), "2", "style", "object")["value"].astype(
            float
        ),
        found.astype(float),
    )
    slow = lambda domain, keep: np.mean(
        [
            (part[domain] == part[f"{domain}_seen"]).mean()
            for c in sorted(set(sheet[domain]))
            if keep(c)
            for part in [sheet[sheet[domain] == c]]
        ]
    )
    assert (
        found["UA"] == pytest.approx(1 - slow("style", lambda c: c == "2"))
        and found["IRA"] == pytest.approx(slow("style", lambda c: c != "2"))
        and found["CRA"] == pytest.approx(slow("object", lambda c: True))
    )


def test_costs_of_records_have_units():
    assert set(cost_table([]).columns) - {"method", "entity", "memory"} <= set(COST_UNITS)
