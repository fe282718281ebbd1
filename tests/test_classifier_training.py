"""Training a classifier: schedules against torch's own, and a run that was killed."""
import pytest
import torch
import torch.nn.functional as F

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.classification import load_classification
from vision_unlearning.data.forgetting import class_split
from vision_unlearning.data.loaders import ImageLoader, MergedLoader, split_loaders
from vision_unlearning.models.classifier_training import train_classifier
from vision_unlearning.models.classifiers import classifier_for
from vision_unlearning.models.schedules import make_schedule

EPOCHS, STEPS = 6, 4  # of an epoch


def rates_of(make, per_epoch):
    "What a scheduler of torch, which is stepped and not asked, does to a learning rate of .5."
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=.5)
    schedule, rates = make(optimizer), []
    for step in range(EPOCHS * STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not per_epoch or (step + 1) % STEPS == 0: schedule.step()
    return rates


def cosine(optimizer): return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)


def steps(optimizer): return torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], .1)


def cyclic(optimizer):
    return torch.optim.lr_scheduler.CyclicLR(
        optimizer, .1, .5, step_size_up=12, step_size_down=12, cycle_momentum=False
    )


@pytest.mark.parametrize(
    "spec, make, per_epoch",
    [
        ("Cosine", cosine, True),
        ("Step(milestones=[2, 4], gamma=0.1)", steps, True),
        ("Cyclic(base_lr=0.1, max_lr=0.5)", cyclic, False),
    ],
)
def test_schedules_are_those_of_torch(spec, make, per_epoch):
    factor = make_schedule(spec, EPOCHS, STEPS, .5)
    ours = [.5 * factor(step) for step in range(EPOCHS * STEPS)]
    assert ours == pytest.approx(rates_of(make, per_epoch), abs=1e-9)


@pytest.mark.parametrize(
    "spec, said",
    [
        ("Cosin", "did you mean 'Cosine'"),
        ("Cyclic(max_lr=1)", "needs base_lr"),
        ("Cosine(T_max=3)", "unknown setting"),
    ],
)
def test_schedules_that_do_not_exist(spec, said):
    with pytest.raises(ValueError, match=said): make_schedule(spec, 1, 1)


# Killed and continued: with momentum, an average, augmented pictures, a merged loader and a loss of its own

@pytest.fixture(scope="module")
def digits(): return load_classification("digits")


def ascent_and_descent(model, batch):
    kept, gone = batch["retain"], batch["forget"]
    ascent = F.cross_entropy(model(gone[0]), gone[1]).clamp(max=3)
    return F.cross_entropy(model(kept[0]), kept[1]) - .01 * ascent


def train_in(folder, digits, die_after=None):
    model = classifier_for(digits, "lenet5")
    sides = split_loaders(digits, class_split(digits, 3), 64, augment=True, flip=False)

    def after_epoch(model, row):
        if row["epoch"] == die_after: raise KeyboardInterrupt

    report = train_classifier(
        model,
        MergedLoader("shortest", retain=sides["retain"], forget=sides["forget"]),
        num_epochs=4,
        loss=ascent_and_descent,
        ema_decay=.9,
        validation=ImageLoader(digits.train[range(200)]),
        folder=folder,
        after_epoch=after_epoch,
        optimizer="SGD(lr=0.05, momentum=0.9)",
    )
    return model.state_dict(), report


def test_a_killed_run_ends_as_one_that_was_left_alone(digits, tmp_path):
    whole, expected = train_in(tmp_path / "a", digits)
    with pytest.raises(KeyboardInterrupt): train_in(tmp_path / "b", digits, die_after=3)
    again, resumed = train_in(tmp_path / "b", digits)
    assert all(torch.equal(whole[name], tensor) for name, tensor in again.items())
    assert resumed["history"] == expected["history"] and resumed["best_epoch"] == expected["best_epoch"]
    state = tmp_path / "b/state.safetensors"
    state.write_bytes(state.read_bytes()[:99])
    with pytest.raises(ForeignFileError, match="checkpoint"): train_in(tmp_path / "b", digits)
