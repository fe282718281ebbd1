"""Every classifier method on one small problem: repeatable, the model that was lent comes back, and the edit
means the same in a fresh process.

The network has a batch normalisation and a dropout, since running statistics and the global random state are
what a method forgets to give back.
"""
import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from vision_unlearning.data.classification import load_classification
from vision_unlearning.data.forgetting import class_split
from vision_unlearning.data.loaders import split_loaders
from vision_unlearning.models.classifiers import Classifier, accuracy, load_classifier, save_classifier
from vision_unlearning.oracle.tuned import comparable
from vision_unlearning.unlearners.base import load_edit
from vision_unlearning.unlearners.classifiers.base import Finetune, get_classifier_method

QUICK = dict(num_train_epochs=2, noise_steps=2, noise_samples=16, fisher_samples=32, impair_epochs=1)
CHILD = """
import json, sys
import numpy as np, torch
from vision_unlearning.models.classifiers import load_classifier
from vision_unlearning.unlearners.base import load_edit
asked = json.load(sys.stdin)
torch.set_num_threads(asked["threads"])
folder = asked["folder"]
x = torch.from_numpy(np.load(f"{folder}/x.npy"))
model = load_classifier(f"{folder}/model")
for method in asked["methods"]:
    with load_edit(f"{folder}/{method}").on(model), torch.no_grad(): answers = model.eval()(x).numpy()
    np.save(f"{folder}/{method}.npy", answers)
"""


@pytest.fixture(scope="module")
def problem():
    "LeNet-5 that knows a quarter of the digits, and what is given to a method: one class to forget."
    from vision_unlearning.models.classifier_training import train_classifier
    from vision_unlearning.models.classifiers import classifier_for
    data = load_classification("digits")
    data.train = data.train[range(0, 1198, 4)]
    sides = split_loaders(data, class_split(data, 3), 32)
    model = classifier_for(data, "lenet5")
    from vision_unlearning.data.loaders import ImageLoader
    with torch.random.fork_rng():
        train_classifier(
            model, ImageLoader(data.train, 32, shuffle=True), num_epochs=4, optimizer="Adam(lr=0.003)"
        )
    return model.eval(), sides, data.test.images[:16].float()/255


def quick(name):
    "A method with the smallest settings that it has."
    cls = get_classifier_method(name)
    return cls(**{k: v for k, v in QUICK.items() if k in cls.model_fields})


def unlearn(name, model, sides):
    return quick(name).unlearn(
        model, sides["forget"], sides["retain"], generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def edits(problem):
    "What every method makes of the problem, made once."
    return functools.cache(lambda name: unlearn(name, *problem[:2]))


@pytest.mark.long
@pytest.mark.parametrize("name", comparable("class") + ["retrain"])
def test_repeatable_and_borrowed(name, problem, edits):
    model, sides, x = problem
    before = {n: t.clone() for n, t in model.state_dict().items()}
    rng, mode = torch.get_rng_state(), model.training
    first, again = edits(name), unlearn(name, model, sides)
    assert first.tensors, f"{name} changed nothing"
    assert set(first.tensors) == set(again.tensors) and all(
        torch.equal(t, again.tensors[n]) for n, t in first.tensors.items()
    ), f"{name} is not repeatable"
    assert (
        all(torch.equal(before[n], t) for n, t in model.state_dict().items())
        and model.training == mode
        and torch.equal(rng, torch.get_rng_state())
    )
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and not any(
        m._forward_hooks for m in model.modules()
    )


@pytest.mark.long
def test_fresh_process(problem, edits, tmp_path):
    model, sides, x = problem
    names, here = comparable("class") + ["retrain"], {}
    save_classifier(model, tmp_path/"model")
    np.save(tmp_path/"x.npy", x.numpy())
    for name in names:
        edit = edits(name)
        edit.save_pretrained(tmp_path/name)
        with edit.on(model), torch.no_grad(): here[name] = model.eval()(x).numpy()
    asked = dict(folder=str(tmp_path), methods=names, threads=torch.get_num_threads())
    subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(asked),
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    for name in names:
        np.testing.assert_array_equal(np.load(tmp_path/f"{name}.npy"), here[name], err_msg=name)
    assert len({here[n].tobytes() for n in names}) == len(names)  # nobody is somebody else under another name


def test_normalisation_statistics_travel(tmp_path):
    "A network in training mode moves its running statistics; an edit without them is another model."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Classifier(
            torch.nn.Sequential(
                torch.nn.Flatten(),
                torch.nn.Linear(16, 8),
                torch.nn.BatchNorm1d(8),
                torch.nn.Dropout(0.2),
                torch.nn.Linear(8, 2),
            ),
            2,
        ).eval()
        x, y = torch.rand(64, 1, 4, 4), torch.arange(64) % 2
    rng = torch.get_rng_state()
    edit = Finetune(num_train_epochs=1, train_batch_size=16).unlearn(net, None, (x, y))
    assert torch.equal(rng, torch.get_rng_state()) and any("running_mean" in n for n in edit.tensors)
    edit.save_pretrained(tmp_path/"edit")
    told = load_edit(tmp_path/"edit")
    with edit.on(net), torch.no_grad(): first = net(x)
    with told.on(net), torch.no_grad(): assert torch.equal(net(x), first)


@pytest.mark.parametrize(
    "what, said",
    [
        (lambda m, s: class_split(load_classification("digits"), "eleven"), "eleven"),
        (
            lambda m, s: Finetune().unlearn(
                m, s["forget"], (torch.zeros(0, 1, 32, 32), torch.zeros(0, dtype=torch.long))
            ),
            "retain is empty",
        ),
        (lambda m, s: get_classifier_method("neggrad")().unlearn(m, [], s["retain"]), "forget is empty"),
        (
            lambda m, s: Finetune().unlearn(
                m, None, (torch.zeros(4, 1, 32, 32), torch.tensor([0, 1, 2, 12]))
            ),
            "class 12, but the model has 10 classes",
        ),
        (lambda m, s: Finetune(optimizer="SGD(lr=__import__('os'))"), "__import__"),
        (lambda m, s: Finetune(optimizer="SGD(lr=0.1, momentun=0.9)"), "momentun"),
    ],
)
def test_bad_input_is_one_clear_line(what, said, problem):
    with pytest.raises(ValueError) as error: what(problem[0], problem[1])
    line = (
        str(error.value) if "validation error" not in str(error.value) else str(error.value).splitlines()[2]
    )
    assert said in line and "\n" not in line


def test_corrupt_checkpoint_is_refused(problem, tmp_path):
    from vision_unlearning.core import ForeignFileError
    save_classifier(problem[0], tmp_path/"model")
    path = tmp_path/"model"/"model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ForeignFileError, match="train it again"): load_classifier(tmp_path/"model")


def test_accuracy_is_what_it_says(problem):
    model, sides, _ = problem
    x, y = next(iter(sides["test"]))
    with torch.no_grad():
        assert accuracy(model, [(x, y)]) == pytest.approx(float((model(x).argmax(1) == y).float().mean()))


def test_a_run_that_destroys_what_stays_says_so(problem):
    "One line, and both accuracies in the edit's record; a run that does not is silent."
    import warnings

    from vision_unlearning.unlearners.classifiers.simple import RandomLabel
    model, sides, _ = problem
    ask = dict(retain_weight=.5, max_grad_norm=1., num_train_epochs=2)
    with pytest.warns(UserWarning, match="random_label destroyed what was to stay: of "):
        edit = RandomLabel(optimizer="SGD(lr=5.0)", **ask).unlearn(model, sides["forget"], sides["retain"])
    assert edit.info["retained"]["after"] < edit.info["retained"]["before"]/2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edit = Finetune(optimizer="SGD(lr=0.001)", num_train_epochs=1).unlearn(model, None, sides["retain"])
    assert edit.info["retained"]["after"] > .5
