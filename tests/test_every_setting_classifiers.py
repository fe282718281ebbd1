"""Every setting of every classifier method changes what comes out, or is refused. The list is made from the
fields of the classes; where nothing is said here, a setting gets another value of its type."""
import functools
import hashlib
import json
import typing

import pytest
import torch
from small import acting

from vision_unlearning.data.classification import load_classification
from vision_unlearning.data.loaders import ImageLoader
from vision_unlearning.models.classifier_training import train_classifier
from vision_unlearning.models.classifiers import classifier_for
from vision_unlearning.unlearners.methods import CLASSIFIERS, find_methods

# Left out of `make quick`.
pytestmark = pytest.mark.long

FOUND = find_methods(CLASSIFIERS)
# as little as possible, for every method that has the setting
SMALL = dict(
    num_train_epochs=1, train_batch_size=4, num_impressions=2, impression=dict(min_distance=0.), num_rounds=1,
    student_steps=1, latent_size=8, width=4, noise_steps=1, noise_samples=4, fisher_samples=4,
    strengths=(1e-3,), threshold=.5,
)
# a setting of every method: another value, and the situation in which it acts
EVERYWHERE = dict(
    optimizer=("Adam(lr=0.01)", {}),
    learning_rate=(.5, {}),
    lr_scheduler=("Step(milestones=[1], gamma=0.1)", dict(num_train_epochs=2)),
    minimizer=("SAM(rho=0.5)", {}),
    max_grad_norm=(1e-4, {}),
    train_batch_size=(2, {}),
    strengths=((.5,), {}),
    fisher_samples=(2, {}),
    ascent_sample=(1, {}),
    omit_label=(3, {}),
    bounds=((0., .1), dict(radius=1.)),
    l1_penalty=(.1, {}),
    max_epochs=(0, {}),
    ceiling=(.01, dict(forget_weight=.9)),
    label_smoothing=(.5, {}),
    layer=("picture", {}),
    impression=(dict(min_distance=0., l2=.1), {}),
    decay=("linear", dict(l1_penalty=.1, num_train_epochs=2)),
    threshold=(1.5, {}),
    repeat=(8, {}),
    repair_factor=(.1, dict(num_train_epochs=2)),
    impair_epochs=(2, dict(num_train_epochs=2)),
    noise_penalty=(5., dict(noise_steps=3)),
    projection=(1., dict(rho=5.)),
    rho=(5., {}),
    rho_schedule=("constant", dict(rho=5.)),
    alternating=(True, {}),
    temperature=(2., {}),
    damping=(9., {}),
)
# what acts on other models, or beside the edit
ELSEWHERE = {
    "input_shape": "pictures of a model that `build_classifier` did not make",
    "impressions_folder": "where impressions are kept; the edit is the same",
    "fisher.train_batch_size": "no situation is known in which it acts on a network that was hardly trained",
    "influence.train_batch_size": "memory; gradients are taken sample by sample",
}
REFUSED = {("uam", "minimizer"), ("munba", "minimizer"), ("influence", "repeat")}


def case_of(cls, name):
    "Another value of a setting, and what else is set."
    # a batch is a matter of memory, except where the square of its mean is summed
    if cls.name in ("ssd", "lfssd") and name == "train_batch_size": return 2, dict(estimator="batch")
    # its first ball reaches beyond the range of the pictures, where bounds stop it
    if (cls.name, name) == ("amun", "bounds"): return (0., 1.), dict(radius=1.)
    if (cls.name, name) == ("gkt", "threshold"): return .005, {}
    if name in EVERYWHERE: return EVERYWHERE[name]
    field = cls.model_fields[name]
    now = SMALL.get(name, field.default)
    if typing.get_origin(field.annotation) is typing.Literal:
        return next(v for v in typing.get_args(field.annotation) if v != now), {}
    if isinstance(now, bool): return not now, {}
    assert isinstance(now, (int, float)), f"say in this file what else {name} of {cls.name} may be"
    if isinstance(now, int): return now + 1, {}
    return (now*3 if now*3 <= 1 or now >= 1 else now/3) or .5, {}


@functools.cache
def world():
    "LeNet-5 that was hardly trained, four digits of one class and eight of the others."
    data = load_classification("digits")
    images, labels = data.train.images[:60].float()/255, torch.as_tensor(data.train.labels[:60])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = classifier_for(data, "lenet5")
        some = ImageLoader(data.train[range(0, 1198, 4)], 32, shuffle=True)
        train_classifier(model, some, num_epochs=4, optimizer="Adam(lr=0.003)")
        model.eval()
    forget, retain = (torch.nonzero(side).ravel()[:n] for side, n in ((labels == 3, 4), (labels != 3, 8)))
    return model, (images[forget], labels[forget]), (images[retain], labels[retain])


kept = {}


def made(cls, settings):
    "A short name for the tensors of the edit, once for every set of settings."
    key = cls.name, cls.__name__, json.dumps(settings, sort_keys=True, default=str)
    if key not in kept:
        model, forget, retain = world()
        if cls.reads == "names": forget, retain = [3], None
        edit = cls(**settings).unlearn(model, forget, retain, generator=torch.Generator().manual_seed(0))
        found = hashlib.sha256()
        for name, tensor in sorted(edit.tensors.items()):
            found.update(name.encode() + tensor.numpy().tobytes())
        kept[key] = found.hexdigest()
    return kept[key]


CHOICES = [
    (m, n)
    for m in FOUND
    for n in FOUND[m].load().model_fields
    if n not in ELSEWHERE and f"{m}.{n}" not in ELSEWHERE
]


@pytest.mark.parametrize("method,name", CHOICES)
def test_a_setting_of_a_classifier_method_acts(method, name):
    cls = FOUND[method].load()
    value, given = case_of(cls, name)
    sides = ([3], None) if cls.reads == "names" else world()[1:]
    small = acting(cls, {**SMALL, **given}, *sides)
    if (method, name) in REFUSED:
        with pytest.raises(ValueError, match=name): cls(**{**small, name: value})
        return
    assert made(cls, small) != made(cls, {**small, name: value})
