"""Choosing whom to preserve: an update of the inverse is a new solution, on every family."""
import itertools

import numpy as np
import pytest
import torch

from vision_unlearning.models import load_pipeline
from vision_unlearning.unlearners.diffusion.foretold import foretell, read_names
from vision_unlearning.unlearners.diffusion.protecting import (
    CHOOSERS,
    GrowingList,
    choose_names,
    get_chooser,
    own_template,
)
from vision_unlearning.unlearners.diffusion.rece import RECE
from vision_unlearning.unlearners.diffusion.uce import UCE

WORDS = ["wolf", "crab", "red apple", "key", "castle", "violin"]
METHOD = UCE(erase_scale=3., retain_weight=2., lamb=.05)


@pytest.fixture(scope="module", params=["tiny", "tiny-sd3"])
def pipe(request): return load_pipeline(request.param)


@pytest.fixture(scope="module")
def read(pipe): return read_names(pipe, WORDS)


def chosen(pipe, read, chooser, k, seed=0, **more):
    growing = GrowingList(pipe, METHOD, "fox", None, read)
    return choose_names(growing, chooser, k, generator=torch.Generator().manual_seed(seed), **more)


@pytest.mark.parametrize("name", ["tiny", "tiny-sdxl", "tiny-sd3", "tiny-flux"])
def test_an_update_is_a_new_solution(name):
    pipe = load_pipeline(name)
    read = read_names(pipe, WORDS)
    growing = GrowingList(pipe, METHOD, ["fox", "dog"], ["pizza"], read)
    for index in (0, 3, 5): growing.add(index, 0.)
    kept = ["pizza", "wolf", "key", "violin"]
    for form, part in growing.forms.items():
        again = METHOD.matrix(pipe, ["fox", "dog"], kept, form)
        np.testing.assert_allclose(part.matrix(), again, atol=1e-5)
    wanted = foretell(pipe, METHOD, ["fox", "dog"], kept, read)
    np.testing.assert_allclose(growing.harm(), wanted, rtol=1e-4)


def test_worst_first_is_what_solving_again_and_again_would_choose(pipe, read):
    kept = []
    for _ in range(3):
        harm = foretell(pipe, METHOD, "fox", kept, read)
        left = [i for i, word in enumerate(WORDS) if word not in kept]
        kept.append(WORDS[max(left, key=lambda i: harm[i])])
    assert chosen(pipe, read, "worst_first", 3, least=0.).names == kept


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_choices_are_the_same_each_time_and_of_the_allowed(chooser, pipe, read):
    allowed = WORDS[1:]
    first = chosen(pipe, read, chooser, 4, allowed=allowed, least=0.)
    again = chosen(pipe, read, chooser, 4, allowed=allowed, least=0.)
    assert first.names == again.names and len(set(first.names)) == 4
    assert set(first.names) <= set(allowed) and first.after.mean() < first.before.mean()


def test_other_lots_are_other_names(pipe, read):
    assert len({tuple(chosen(pipe, read, "random", 3, seed, least=0.).names) for seed in range(5)}) > 1


def test_what_contains_the_concept_is_never_chosen(pipe):
    read = read_names(pipe, ["red fox", "Foxes", "crab"])
    assert chosen(pipe, read, "worst_first", 1, least=0.).names == ["crab"]
    with pytest.raises(ValueError, match="2 names are to be chosen, and the vocabulary has 1 that may be"):
        chosen(pipe, read, "worst_first", 2)


def test_what_would_bring_the_concept_back_is_passed_over(pipe, read):
    found = chosen(pipe, read, "worst_first", 2, least=2.)
    assert not found.names and sorted(found.passed_over) == sorted(WORDS)
    assert (found.after == found.before).all()


def test_coverage_knows_no_concept(pipe, read):
    growing = [GrowingList(pipe, METHOD, concept, None, read) for concept in ("fox", "dog")]
    first, other = (get_chooser("coverage").scores(g) for g in growing)
    np.testing.assert_allclose(first, other, rtol=1e-9)


def test_k_center_leaves_nobody_far(pipe, read):
    "Farthest first is within twice the smallest radius that three centres can have (Gonzalez 1985)."
    seen = np.concatenate([v.double().mean(1).numpy() for v in read.vectors.values()], axis=1)
    seen = seen/np.linalg.norm(seen, axis=1, keepdims=True)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    def radius(centres): return apart[:, list(centres)].min(axis=1).max()
    found = [read.names.index(name) for name in chosen(pipe, read, "k_center", 3, least=0.).names]
    assert found[0] == int((seen @ seen.mean(0)).argmax())
    best = min(radius(centres) for centres in itertools.combinations(range(len(seen)), 3))
    assert best <= radius(found) <= 2*best


def test_names_are_preserved_in_the_sentence_of_the_method():
    assert own_template(UCE(concept_type="art")) == "painting by {}"
    assert own_template(RECE()) == "An image of {}"
