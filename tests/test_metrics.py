"""Metrics against implementations that share nothing with them, and what reads badly as a lesson."""
import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from skimage import data
from torchmetrics.functional.image import structural_similarity_index_measure

from vision_unlearning.metrics.base import as_images
from vision_unlearning.metrics.classification import JudgeAccuracy
from vision_unlearning.metrics.image_image import RMSE, SSIM
from vision_unlearning.metrics.image_text import ClipScore
from vision_unlearning.metrics.quality import BRISQUE, _regressor, brisque_features, luma
from vision_unlearning.models import ClipEncoder, Judge, embedded_path


def pictures(n=5, height=40, width=53, seed=0):
    "Smooth random pictures: neither flat nor pure noise."
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(n, height, width, 3)), (0, 2, 2, 0))
    return torch.from_numpy(
        (127 + 300 * smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    ).permute(0, 3, 1, 2)


def scored(metric, *batch):
    metric.update(*batch)
    return metric.per_item()


@pytest.fixture(scope="module")
def clip():
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    tokenizer = CLIPTokenizer.from_pretrained(embedded_path("emoji-sd") / "tokenizer")
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ClipEncoder(
            CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)), tokenizer, 32
        )


# Image and image

def test_ssim_is_that_of_torchmetrics_inside_the_border():
    a, b = pictures(seed=1), pictures(seed=2)
    _, full = structural_similarity_index_measure(
        a.double(), b.double(), data_range=255.0, reduction="none", return_full_image=True
    )
    # its own mean has a mirrored border
    assert torch.allclose(scored(SSIM(), a, b), full[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-9)


@pytest.mark.parametrize("metric", [RMSE, SSIM])
@pytest.mark.parametrize("legacy", [False, True])
def test_comparisons_are_symmetric_and_know_identity(metric, legacy):
    a, b = pictures(seed=1), pictures(seed=2)
    assert torch.allclose(scored(metric(legacy), a, b), scored(metric(legacy), b, a), atol=1e-12)
    assert torch.allclose(
        scored(metric(legacy), a, a), torch.full((5,), float(metric is SSIM), dtype=torch.float64), atol=1e-12
    )


def test_published_rmse_is_the_reference_formula():
    a, b = pictures(seed=1), pictures(seed=2)
    per_band = ((a.double() - b.double()) / 4095).pow(2).mean((2, 3)).sqrt()
    assert torch.allclose(scored(RMSE(legacy=True), a, b), per_band.mean(1), atol=1e-12)
    grey = a[:, :1].expand(-1, 3, -1, -1)  # equal bands: the two definitions differ by the scale alone
    assert torch.allclose(
        scored(RMSE(), grey, grey.flip(3)), 4095 * scored(RMSE(legacy=True), grey, grey.flip(3)), atol=1e-9
    )


# Image and text

def test_clip_score_is_the_cosine_of_the_model_itself(clip):
    images = pictures(4, 32, 32)
    prompts = ["An image of fox", "An image of crab", "An image of fox", "An image of key"]
    inputs = clip.tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=clip.tokenizer.model_max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        out = clip.model(input_ids=inputs.input_ids, pixel_values=images.float() / 127.5 - 1)
    cosine = (out.logits_per_image / clip.model.logit_scale.exp()).diag().double()
    assert torch.allclose(scored(ClipScore(clip), images, prompts), 100 * cosine.clamp(min=0), atol=1e-3)
    assert torch.allclose(
        scored(ClipScore(clip, batch_size=1), images, prompts),
        scored(ClipScore(clip), images, prompts),
        atol=1e-3,
    )


# Quality

def slow_brisque(picture):
    "The paper, one picture and one loop at a time, in numpy: features and score."
    grid = np.arange(0.2, 10.0005, 0.001)
    table = special.gamma(2 / grid) ** 2 / (special.gamma(1 / grid) * special.gamma(3 / grid))
    y, x = np.mgrid[-3:4, -3:4]
    window = np.exp(-(x ** 2 + y ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    grey = np.round(picture.astype(float) @ [0.299, 0.587, 0.114])
    features = []
    for _ in range(2):
        mean = ndimage.convolve(grey, window, mode="constant")
        values = (grey - mean) / (
            np.sqrt(np.abs(ndimage.convolve(grey**2, window, mode="constant") - mean**2)) + 1
        )
        variance = np.mean(values ** 2)
        features += [grid[np.argmin(np.abs(1 / table - variance / np.mean(np.abs(values)) ** 2))], variance]
        for step in [(0, 1), (1, 0), (1, 1), (-1, 1)]:
            p = values * np.roll(values, step, (0, 1))
            left, right = np.sqrt(np.mean(p[p < 0] ** 2)), np.sqrt(np.mean(p[p > 0] ** 2))
            g = left / right
            ratio = np.mean(np.abs(p)) ** 2 / np.mean(p ** 2) * (g ** 3 + 1) * (g + 1) / (g ** 2 + 1) ** 2
            a = grid[np.argmin(np.abs(table - ratio))]
            features += [
                a,
                (right - left) * special.gamma(2 / a) / np.sqrt(special.gamma(1 / a) * special.gamma(3 / a)),
                left**2,
                right**2,
            ]
        for axis in (0, 1):
            padded = np.pad(grey, [(8, 8) if i == axis else (0, 0) for i in (0, 1)], mode="symmetric")
            rows = []
            for i in range((grey.shape[axis] + 1) // 2):
                t = np.abs(np.arange(-4, 4) + 0.5) / 2
                w = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
                rows.append(
                    np.tensordot(
                        w / w.sum(), np.take(padded, np.arange(2 * i + 5, 2 * i + 13), axis), (0, axis)
                    )
                )
            grey = np.stack(rows, axis)
    svm = {k: v.numpy() for k, v in _regressor("cpu").items()}
    scaled = 2 * (np.array(features) - svm["minimum"]) / (svm["maximum"] - svm["minimum"]) - 1
    bumps = [
        c * np.exp(-svm["gamma"][0] * np.sum((scaled - v) ** 2))
        for c, v in zip(svm["coefficients"], svm["support_vectors"])
    ]
    return np.array(features), np.sum(bumps) - svm["rho"][0]


@pytest.mark.parametrize(
    "picture", [data.coffee()[50:151, 60:193], data.coffee()[100:164, 200:264]], ids=["odd", "64x64"]
)
def test_brisque_is_that_of_a_slow_numpy_program(picture):
    features, score = slow_brisque(picture)
    images = as_images(picture[None])
    assert np.allclose(brisque_features(luma(images))[0].numpy(), features, atol=1e-9)
    assert float(scored(BRISQUE(), images)[0]) == pytest.approx(score, abs=1e-6)


def test_brisque_of_a_flat_drawing_does_not_depend_on_rounding():
    from vision_unlearning.data.emoji import emoji_drawings
    grey = luma(as_images(emoji_drawings("emoji")[0][:4]))
    trembling = grey * (1 + 1e-15 * torch.from_numpy(np.random.default_rng(0).choice([-1, 1], grey.shape)))
    assert torch.allclose(brisque_features(grey), brisque_features(trembling), atol=1e-3)


def test_the_regressor_is_the_published_one():
    svm = _regressor("cpu")
    assert svm["support_vectors"].shape == (770, 36) and svm["coefficients"].abs().max() == 1024
    assert abs(float(svm["coefficients"].sum())) < 0.1  # a dual solution: both sides weigh the same
    assert float(svm["rho"]) == -155.845 and float(svm["gamma"]) == 0.05


# Classification

def test_judge_accuracy_with_the_real_judge_class():
    names = ["nurse", "pilot"]
    people = [
        dict(name=f"{g} {o}", occupation=o, gender=g, tone=t, index=i)
        for i, (o, g, t) in enumerate((o, g, "light") for o in names for g in ("woman", "man"))
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge(
            {"occupation": names, "gender": ["man", "woman"], "tone": ["light", "dark"]},
            widths=(8, 8, 16, 16),
        ).eval()
    images, wanted = pictures(6, 64, 64), [people[i % 4]["name"] for i in range(6)]
    metric = JudgeAccuracy("emoji_people", people, judge, batch_size=4)
    metric.update(images, wanted)
    heads = judge.probabilities(images)
    joint = torch.stack(
        [
            heads["occupation"][:, names.index(e["occupation"])]
            * heads["gender"][:, ["man", "woman"].index(e["gender"])]
            for e in people
        ],
        1,
    )
    joint = joint / joint.sum(1, keepdim=True)  # one tone only: its factor cancels
    assert metric.answers() == [people[i]["name"] for i in joint.argmax(1)]
    assert torch.allclose(
        metric.probabilities(), joint[torch.arange(6), torch.arange(6) % 4].double(), atol=1e-5
    )
    assert metric.per_item().tolist() == [float(a == w) for a, w in zip(metric.answers(), wanted)]


# All of them

def updates(clip):
    a, b = pictures(7, 64, 64, seed=1), pictures(7, 64, 64, seed=2)
    entities = [{"name": n, "index": i} for i, n in enumerate(["fox", "key"])]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge({"emoji": ["fox", "key"]}, widths=(8, 8, 16, 16)).eval()
    return {
        "rmse": (lambda n: RMSE(batch_size=n), (a, b)),
        "ssim": (lambda n: SSIM(batch_size=n), (a, b)),
        "brisque": (lambda n: BRISQUE(n), (a,)),
        "clip": (lambda n: ClipScore(clip, n), (a, ["An image of fox"] * 7)),
        "judge": (lambda n: JudgeAccuracy("emoji", entities, judge, n), (a, ["fox"] * 7)),
    }


@pytest.mark.parametrize("name", ["rmse", "ssim", "brisque", "clip", "judge"])
def test_batches_resets_and_copies(clip, name):
    make, batch = updates(clip)[name]
    metric = make(100)
    whole = scored(metric, *batch)
    for size in (1, 3): assert torch.allclose(scored(make(size), *batch), whole, atol=1e-4)
    assert metric.name == name and isinstance(metric.higher_is_better, bool)
    assert torch.isclose(metric.compute(), whole.mean())
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(twin.per_item(), whole)
    metric.reset()
    assert len(metric.per_item()) == 0
    assert torch.equal(scored(metric, *batch), whole)


def test_nothing_is_added_by_a_refused_batch():
    metric = RMSE()
    with pytest.raises(ValueError, match="5 images but 3 references"): metric.update(pictures(), pictures(3))
    assert len(metric.per_item()) == 0
