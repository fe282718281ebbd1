"""Foretold harm against the edit itself, asked place by place in numpy, on every kind of pipeline."""
import numpy as np
import pytest
import torch

from vision_unlearning.models import load_pipeline
from vision_unlearning.models.conditioning import condition
from vision_unlearning.models.families import denoiser, family_of
from vision_unlearning.unlearners.base import get_method
from vision_unlearning.unlearners.diffusion.foretold import edited_forms, foretell, read_names

NAMES = ["fox", "wolf", "red apple"]
FORMS = {"tiny": ["tokens"], "tiny-sdxl": ["tokens"], "tiny-sd3": ["tokens", "pooled"],
         "tiny-flux": ["tokens", "pooled"]}


@pytest.fixture(scope="module", params=FORMS)
def pipe(request):
    found = load_pipeline(request.param)
    found.tested_as = request.param
    return found


def by_hand(pipe, edit, names):
    "Root of the squared changes over all places and vectors, relative to what was said there before."
    text = condition(pipe, [f"An image of {name}" for name in names])
    told = {"tokens": text.prompt_embeds, "pooled": text.pooled}
    network = denoiser(pipe)
    after = {name.removeprefix("transformer.").removeprefix("unet."): t for name, t in edit.tensors.items()}
    changed, said = np.zeros(len(names)), np.zeros(len(names))
    for place in family_of(network).places(network):
        if not place.edited: continue
        rows = told[place.reads].double().numpy().reshape(len(names), -1, place.width)
        for name, weight in place.weights.items():
            old, new = (w.detach().double().numpy()[:, :place.width] for w in (weight, after[name]))
            for number, vectors in enumerate(rows):
                for vector in vectors:
                    changed[number] += np.square(new @ vector - old @ vector).sum()
                    said[number] += np.square(old @ vector).sum()
    return np.sqrt(changed/said)


@pytest.mark.parametrize("method", [("uce", {}), ("rece", dict(num_iterations=1, ridge=1.)),
                                    ("uce", dict(preservation="null_space", null_threshold=1e-2))])
def test_the_edit_does_what_was_foretold(pipe, method):
    unlearner = get_method(method[0])(**method[1])
    foretold = foretell(pipe, unlearner, "fox", ["crab"], read_names(pipe, NAMES))
    wanted = by_hand(pipe, unlearner.unlearn(pipe, "fox", ["crab"]), NAMES)
    assert wanted.min() > 1e-3
    np.testing.assert_allclose(foretold, wanted, rtol=1e-3)


def test_every_edited_form_is_read(pipe):
    assert edited_forms(pipe) == list(read_names(pipe, ["fox"]).vectors) == FORMS[pipe.tested_as]


def test_what_is_preserved_is_foretold_to_stay(pipe):
    read = read_names(pipe, ["crab", "fox"])
    firm = get_method("uce")(retain_weight=1e4, lamb=1e-4)
    free, held = (foretell(pipe, firm, "fox", kept, read) for kept in (None, ["crab"]))
    assert held[0] < free[0]/10 and held[0] < held[1]/10


def test_the_pipeline_comes_back(pipe):
    before = {name: p.clone() for name, p in denoiser(pipe).named_parameters()}
    foretell(pipe, get_method("uce")(), "fox", None, read_names(pipe, NAMES))
    assert all(torch.equal(before[name], p) for name, p in denoiser(pipe).named_parameters())


def test_nothing_is_foretold_of_a_method_that_trains(pipe):
    with pytest.raises(TypeError, match="distil has no closed form"):
        foretell(pipe, get_method("distil")(), "fox", None, read_names(pipe, ["crab"]))
