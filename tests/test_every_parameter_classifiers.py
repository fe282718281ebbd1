"""Every parameter of the notebook of classifiers changes what comes out, or is refused; where it runs and
where it writes change nothing.

A run is a comparison of three classes of small pictures, through the notebook itself.
What is compared are the weights that were trained and the numbers, since names of files only say that
something else was asked."""
import hashlib

import numpy as np
import papermill
import pytest
from kills import in_this_process
from PIL import Image

from vision_unlearning.running.notebooks import HOW
from vision_unlearning.running.stages import pipeline_parameters, pipeline_path
from vision_unlearning.store import read_json

# Left out of `make quick`. No seconds: tests that are dealt to both workers would make the run in both.
pytestmark = pytest.mark.long
TRAINING = dict(num_epochs=1, batch_size=8, optimizer="Adam(lr=0.003)")
ASKED = dict(
    task="folder", architecture="karpathynet", options={"width": 2}, methods=["finetune"], kinds=["class"],
    size=16, seeds=[0], training=TRAINING,
)
# parameter -> other values
CHANGED = dict(
    task=["digits"],  # which ships, and takes no folder
    architecture=["alexnet", "lenet5"],
    options=[{"width": 3}, {"widht": 3}],
    forget=[["dark"], ["drak"]],
    kinds=[["random"]],
    methods=[["neggrad"], ["retrian"]],
    overrides=[{"finetune": {"num_train_epochs": 2}}, {"neggrad": {}}],
    training=[
        TRAINING | {name: value}
        for name, value in dict(
            num_epochs=2, batch_size=4, optimizer="SGD(lr=0.1)", schedule="Linear", augment=False, flip=False,
            moved_tests=True, architecture="lenet5", num_epoch=2,
        ).items()
    ] + [TRAINING | dict(augment=False, flip=False)],
    folder=["other", "nowhere"],
    size=[8, 32],
    seeds=[[1], [0, 1]],
    evidence=[["layers"], ["layrs"], ["shadows"]],
    num_models=[4],
)
REFUSED = {  # what must be refused, and what is said
    "task": {0: "leave folder out"},
    "architecture": {1: "unknown option of lenet5 'width'"},
    "options": {1: "did you mean 'width'"},
    "forget": {1: "did you mean 'dark'"},
    "methods": {1: "did you mean 'retrain'|unknown method"},
    "overrides": {1: "unknown method with overrides 'neggrad'"},
    "training": dict.fromkeys((6, 7), "unknown field of training")
    | {8: "did you mean 'num_epochs'", 9: "augment is off"},
    "folder": {1: "is not a folder"},
    "evidence": {1: "did you mean 'layers'", 2: "asked of random forgetting"},
    "num_models": {0: "do nothing without evidence=klom or shadows"},
}
CASES = [(name, number) for name, values in CHANGED.items() for number in range(len(values))]


def draw_pictures(folder, shades, seed):
    "Three classes of a shade each, with noise."
    random = np.random.default_rng(seed)
    for part, count in (("train", 8), ("test", 4)):
        for label, grey in shades.items():
            (folder/part/label).mkdir(parents=True)
            for i in range(count):
                pixels = (grey + random.integers(-80, 80, (16, 16, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder/part/label/f"{i}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw_pictures(folder/"one", dict(dark=100, bright=150, middle=125), 0)
    draw_pictures(folder/"other", dict(dark=90, bright=160, middle=125), 1)
    return folder


def outcome(place) -> set:
    "What was trained, and the numbers of every run."
    store = place/"classification"
    weights = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (store/"models").rglob("*.safetensors")}
    rows = [read_json(p) for p in (store/"runs").glob("*.json")]
    weights |= {repr(read_json(path)["rows"]) for path in (store/"evidence").glob("*.json")}
    return weights | {repr([r[k] for k in ("kind", "seed", "method", "numbers", "oracle")]) for r in rows}


def run(data, place, **changed):
    "The notebook with what is asked, in a folder of its own; what came out."
    asked = dict(folder=str(data/"one"), base_folder=str(place)) | ASKED | changed
    with in_this_process():
        papermill.execute_notebook(
            str(pipeline_path("classifiers")), str(place/"out.ipynb"), asked, progress_bar=False
        )
    return outcome(place)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory): return run(data, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name,number", CASES)
def test_a_parameter_of_the_classifiers_acts(name, number, data, plain, tmp_path):
    value = CHANGED[name][number]
    if name == "folder": value = str(data/value)
    said = REFUSED.get(name, {}).get(number)
    if said is None:
        assert run(data, tmp_path, **{name: value}) - plain
        return
    with pytest.raises((ValueError, OSError), match=said) as found: run(data, tmp_path, **{name: value})
    assert "\n" not in str(found.value)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("changed", [dict(device="cpu:0"), dict()])
def test_where_it_runs_and_writes_changes_nothing(changed, data, plain, tmp_path):
    assert run(data, tmp_path, **changed) == plain


def test_every_parameter_is_tried():
    assert {name for name in pipeline_parameters("classifiers") if name not in HOW} == CHANGED.keys()
