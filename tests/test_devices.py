"""Every stage computes where it is told: a pretended device gets all the work, and gives the same numbers."""
import json
import re
from functools import partial
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pandas as pd
import pytest
import torch
from pretend import NAME, PretendDevice, share_there, work_done

from vision_unlearning import metrics
from vision_unlearning.core import UnknownNameError, computing_on, usable_device
from vision_unlearning.data.splits import make_split
from vision_unlearning.explore.attention import attention_fingerprints
from vision_unlearning.explore.neighbours import near_neighbours
from vision_unlearning.explore.similarity import similarity_matrix
from vision_unlearning.interference.generate import generate_off, task_prompts
from vision_unlearning.interference.pair import Scorers, score_session
from vision_unlearning.interference.pair_metrics import PAIR_METRICS
from vision_unlearning.metrics.base import Metric
from vision_unlearning.metrics.classification import JudgeAccuracy
from vision_unlearning.metrics.concepts import ConceptAccuracy
from vision_unlearning.metrics.distribution import FID, KID
from vision_unlearning.metrics.embedding import EmbeddingSimilarity
from vision_unlearning.metrics.fidelity import MSSSIM, PSNR, SRE, UIQ, SpectralAngle
from vision_unlearning.metrics.identity import FaceIdentity
from vision_unlearning.metrics.image_image import RMSE, SSIM
from vision_unlearning.metrics.image_text import ClipScore
from vision_unlearning.metrics.local import InsideChange, OutsideChange
from vision_unlearning.metrics.perceptual import LPIPS
from vision_unlearning.metrics.quality import BRISQUE
from vision_unlearning.metrics.structure import FSIM, ISSM
from vision_unlearning.models import load_clip, load_judge, load_pipeline
from vision_unlearning.models.encoders import load_image_encoder
from vision_unlearning.running.answers import write_answers
from vision_unlearning.running.check import evaluating_clip, recognise
from vision_unlearning.running.cli import main
from vision_unlearning.running.session import (
    embed_images,
    finished,
    generate_session,
    load_evaluators,
    plan_sessions,
    score_images,
    unlearn_session,
    weights_fingerprint,
)
from vision_unlearning.running.stages import check_parameters, pipeline_path
from vision_unlearning.running.testbeds import prepare_task
from vision_unlearning.store import Store, write_json
from vision_unlearning.unlearners.base import get_method

pytestmark = pytest.mark.long

COMPUTING = ("explore", "unlearn", "generate", "interference", "results", "answers")
STEPS = dict(num_inference_steps=1)


def emptied(folder):
    "A store of the emoji with two entities, and the session of the first."
    store = Store(folder)
    write_json(store.metadata("emoji"), prepare_task(store, "emoji")[:2])
    return store, plan_sessions(store, "emoji", "uce", [0], "tiny")[0]


def all_stages(folder, device):
    "Scores of a session that was unlearned, drawn and scored on a device; and its work, stage by stage."
    store, session = emptied(folder)
    pipe = load_pipeline("tiny", device)
    prompts = task_prompts("emoji", json.loads(store.metadata("emoji").read_text()))
    unlearn_session(store, session, pipe, weights_fingerprint("tiny"))
    work = {"unlearn": work_done()}
    PretendDevice.counts.clear()
    generate_off(pipe, store, "emoji", prompts, [42], model="tiny", **STEPS)
    generate_session(store, session, pipe, [42], **STEPS)
    work["generate"] = work_done()
    PretendDevice.counts.clear()
    evaluators = load_evaluators("emoji", "tiny", "", device)
    scores = score_images(store, session, [42], device=device, **evaluators)
    encoder = load_image_encoder("emoji", device=device)
    more = score_session(store, session, [42], ["dino_diff"], encoder=encoder, device=device, **evaluators)
    embed_images(store, "emoji", None, [42], encoder)
    work["interference"] = work_done()
    return [*scores["value"], *more["value"]], work


@pytest.mark.global_rng  # networks are built before their weights are read
def test_every_stage_works_on_the_device(tmp_path):
    wanted, _ = all_stages(tmp_path/"cpu", "cpu")
    with PretendDevice(): found, work = all_stages(tmp_path/"there", NAME)
    np.testing.assert_allclose(found, wanted, atol=.02)  # a grey level here and there
    assert all(counts[NAME] > 0 for counts in work.values())
    # the closed form of UCE is solved in float64, which not every device has
    assert work["generate"].keys() == work["interference"].keys() == {NAME}


def test_explore_and_the_audit_work_on_the_device():
    with PretendDevice():
        pipe = load_pipeline("tiny", NAME)
        attention_fingerprints(pipe, ["An image of fox"], [1], num_inference_steps=1)
        near_neighbours(pipe, "fox", ["wolf", "key"], 1)
        load_clip("emoji-clip", device=NAME).encode_texts(["fox"])
        assert work_done().keys() == {NAME}


def test_training_works_on_the_device():
    forget, retain = make_split("emoji", "fox")
    method = get_method("erasediff")(num_train_epochs=1, inner_steps=1)
    with PretendDevice():
        pipe = load_pipeline("tiny", NAME)
        sides = forget.select(range(2)), retain.select(range(2))
        edit = method.unlearn(pipe, *sides, generator=torch.Generator().manual_seed(0))
        assert work_done().keys() == {NAME} and pipe.unet.device.type == NAME
    assert {tensor.device.type for tensor in edit.tensors.values()} == {"cpu"}


@pytest.mark.global_rng  # networks are built before their weights are read
def test_networks_go_where_their_metric_goes():
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    with PretendDevice():
        for metric in (LPIPS("judge"), EmbeddingSimilarity(load_clip())):
            metric.to(NAME).update(images, images)
            assert work_done().keys() == {NAME}, metric
            PretendDevice.counts.clear()


def on_both(make, *batch):
    "What a metric says on the CPU, and on a device without numbers of 64 bits."
    here = make()
    here.update(*batch)
    with PretendDevice():
        there = make().to(NAME)
        there.update(*batch)
        return here.per_item(), there.per_item()


def small_networks():
    from vision_unlearning.metrics.classification import JudgeAccuracy
    from vision_unlearning.metrics.image_text import TextSimilarity
    entities = [{"name": "fox"}, {"name": "key"}]
    return {"judge": lambda: JudgeAccuracy("emoji", entities), "texts": lambda: TextSimilarity(load_clip())}


PAIRS = [RMSE, SSIM, PSNR, SRE, SpectralAngle, UIQ, lambda: MSSSIM(scales=3), FSIM, ISSM]


@pytest.mark.parametrize("metric", PAIRS)
def test_a_device_without_64_bits_measures_the_same(metric):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 2, 3, 48, 48), dtype=np.uint8))
    here, there = on_both(metric, *pixels)
    assert there.dtype == torch.float64 and torch.equal(here, there)


@pytest.mark.global_rng  # networks are built before their weights are read
def test_64_bits_of_pictures_names_and_sets():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 3, 64, 64), dtype=np.uint8))
    assert torch.equal(*on_both(BRISQUE, pixels))
    networks = small_networks()
    torch.testing.assert_close(*on_both(networks["judge"], pixels, ["fox", "key"]*2), atol=1e-5, rtol=0)
    torch.testing.assert_close(*on_both(networks["texts"], ["fox"], ["key"]), atol=1e-4, rtol=0)
    features = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    for make in (lambda: FID("none"), lambda: KID("none", subset_size=4, subsets=3)):
        values = []
        for device in ("cpu", NAME):
            with PretendDevice():
                metric = make().to(device)
                for side, real in zip(features, (True, False)): metric.update_features(side, real)
                values.append(metric.compute())
        assert torch.equal(*values) and values[0].dtype == torch.float64


def entities(): return [{"name": "fox"}, {"name": "key"}]


@pytest.mark.global_rng  # networks are built before their weights are read
def test_every_pair_metric_works_on_the_device():
    "One row a metric: nearly every number that it reads is there."
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 2, 3, 64, 64), dtype=np.uint8))
    names = ["fox", "key"]
    with PretendDevice(wide=True):
        scorers = Scorers("emoji", entities(), device=NAME)
        for network in (scorers.clip, scorers.judge, scorers.encoder): assert network
        shares = {}
        for name, metric in PAIR_METRICS.items():
            PretendDevice.numbers.clear()
            prompts = [f"An image of {n}" for n in names]
            sides = images.clone()  # an encoder remembers the pictures of a moment ago
            if metric.look: sides = [metric.look(scorers, side, names, prompts) for side in sides]
            metric.values(scorers, *sides)
            shares[name] = share_there()
    assert min(shares.values()) > .9, shares


def faces():
    pictures = {n: torch.full((2, 3, 64, 64), i, dtype=torch.uint8) for i, n in enumerate(("a", "b"), 1)}
    return FaceIdentity(load_clip(), pictures)


def half():
    "The left half of a picture of 64 pixels."
    return (torch.arange(64) < 32).expand(64, 64)


# metric -> how it is made, and what belongs to two pictures; the hub's networks and NudeNet's are not here
METRICS = {
    "LPIPS": (lambda: LPIPS("judge"), "twins"),
    "EmbeddingSimilarity": (lambda: EmbeddingSimilarity(load_clip()), "twins"),
    "ClipScore": (lambda: ClipScore(load_clip()), "names"),
    "JudgeAccuracy": (lambda: JudgeAccuracy("emoji", entities()), "names"),
    "FaceIdentity": (faces, "people"),
    "ConceptAccuracy": (lambda: ConceptAccuracy(domains=("object",)), "concepts"),
    "BRISQUE": (BRISQUE, "nothing"),
    "MSSSIM": (lambda: MSSSIM(scales=3), "twins"),
    **{cls.__name__: (partial(cls, half()), "twins") for cls in (OutsideChange, InsideChange)},
    **{cls.__name__: (cls, "twins") for cls in (RMSE, SSIM, PSNR, SRE, SpectralAngle, UIQ, FSIM, ISSM)},
}
ELSEWHERE = {"TextSimilarity", "HubClassifier", "PaintingStyle", "NSFW", "NudeNet"}


def test_no_metric_is_forgotten():
    modules = [import_module(m.name) for m in iter_modules(metrics.__path__, "vision_unlearning.metrics.")]
    classes = [c for module in modules for c in vars(module).values() if isinstance(c, type)]
    found = {c.__name__ for c in classes if issubclass(c, Metric)}
    assert found - {"Metric", "PairOfImages"} == METRICS.keys() | ELSEWHERE


@pytest.mark.global_rng  # networks are built before their weights are read
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_works_on_the_device(name):
    make, needs = METRICS[name]
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 2, 3, 64, 64), dtype=np.uint8))
    with PretendDevice(wide=True):
        metric = make().to(NAME)
        PretendDevice.numbers.clear()
        if needs == "concepts": metric.update(images[0], object=metric.classifier.classes["object"][:2])
        elif needs == "nothing": metric.update(images[0])
        else: metric.update(images[0], dict(names=["fox", "key"], people=["a", "b"], twins=images[1])[needs])
        assert share_there() > .9 and len(metric.per_item()) == 2


def test_similarities_of_answers_are_computed_on_the_device(tmp_path, monkeypatch):
    store, _ = emptied(tmp_path)
    generate_off(load_pipeline("tiny"), store, "emoji", ["An image of fox"], [42], model="tiny", **STEPS)
    names = [e["name"] for e in json.loads(store.metadata("emoji").read_text())]
    prompts = [f"An image of {name}" for name in names]
    generate_off(load_pipeline("tiny"), store, "emoji", prompts, [42], model="tiny", **STEPS)
    for kind in ("clip", "dino"):
        with PretendDevice(), computing_on(NAME):
            similarity_matrix(store, "emoji", kind)
            assert work_done().keys() == {NAME}
    seen = []
    def asked(*args): raise InterruptedError(seen.append(usable_device("auto").type))
    monkeypatch.setattr("vision_unlearning.running.answers.ask_all", asked)
    with PretendDevice(), pytest.raises(InterruptedError): write_answers(store, "emoji", device=NAME)
    assert seen == [NAME]


def test_the_check_of_an_erasure_looks_on_the_device():
    plan = pd.DataFrame({"name": ["fox", "key"], "prompt": ["An image of fox", "An image of key"]})
    images = np.zeros((2, 64, 64, 3), np.uint8)
    with PretendDevice():
        looks = evaluating_clip(load_pipeline("tiny", NAME), "emoji-clip")
        PretendDevice.numbers.clear()
        recognise(plan, images, looks)
        assert work_done()[NAME] > 0 and share_there() > .9


LOADERS = {
    "pipeline": lambda device: load_pipeline("tiny", device),
    "clip": lambda device: load_clip("tiny", device=device),
    "judge": lambda device: load_judge(device=device),
    "encoder": lambda device: load_image_encoder("emoji", device=device),
    "scorers": lambda device: Scorers("emoji", [], device=device),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("device", ["nope", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(loader, device):
    with pytest.raises(ValueError, match=f"^device '{device}' cannot be used[^\n]*$"): LOADERS[loader](device)


@pytest.mark.parametrize("stage", COMPUTING)
def test_every_stage_refuses_a_wrong_device_before_it_starts(stage, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["run", stage, "-p", "device=nope", "--base-folder", str(tmp_path)])
    assert left.value.code == 2
    assert re.fullmatch("error: device 'nope' cannot be used.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", COMPUTING)
def test_every_notebook_hands_the_device_on(stage):
    cells = json.loads(pipeline_path(stage).read_text())["cells"]
    source = "".join("".join(cell["source"]) for cell in cells)
    if stage in ("results", "answers"):  # what they load deep inside asks for "auto"
        assert "computing_on(device)" in source or "device=device" in source
        return
    calls = re.findall(r"= (?:load_\w+)\(([^()]*(?:\([^()]*\)[^()]*)*)\)", source)
    calls += re.findall(r"(?:load_(?:clip|pipeline)|Machine)\(([^()]*(?:\([^()]*\)[^()]*)*)\)", source)
    assert calls and all("device" in call for call in calls)


def test_number_formats_do_not_mix(tmp_path):
    store, session = emptied(tmp_path)
    weights = weights_fingerprint("tiny")
    half, whole = load_pipeline("tiny", dtype="bfloat16"), load_pipeline("tiny")
    unlearn_session(store, session, half, weights)
    assert finished(store, session, weights)["base_model"]["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="was made in bfloat16, now float32"):
        unlearn_session(store, session, whole, weights)
    assert generate_off(half, store, "emoji", ["An image of fox"], [42], model="tiny", **STEPS) == 1
    with pytest.raises(ValueError, match="bfloat16"):
        generate_off(whole, store, "emoji", ["An image of fox"], [42], model="tiny", **STEPS)
    with pytest.raises(UnknownNameError, match="did you mean 'float16'"):
        check_parameters("unlearn", {"dtype": "float1"})


def test_defaults_leave_no_mark(tmp_path):
    store, session = emptied(tmp_path)
    assert not {"device", "dtype"} & set(session.settings)
    generate_off(load_pipeline("tiny"), store, "emoji", ["An image of fox"], [42], model="tiny", **STEPS)
    assert "dtype" not in json.loads((store.baseline("emoji")/"settings.json").read_text())
