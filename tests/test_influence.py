"""What one step down a concept's gradient does to other names, in every family."""
import numpy as np
import pytest
import torch

from vision_unlearning.models import load_pipeline
from vision_unlearning.models.families import denoiser
from vision_unlearning.unlearners.diffusion.influence import change_of_predictions, influence, walk_names

TINY = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-flux")


def dice(seed=0): return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("model", TINY)
def test_every_family_is_asked_and_left_as_it_was(model):
    pipe = load_pipeline(model)
    before = {name: p.detach().clone() for name, p in denoiser(pipe).named_parameters()}
    asked = {name: p.requires_grad for name, p in denoiser(pipe).named_parameters()}
    state = torch.get_rng_state()
    walked = walk_names(pipe, ["fox", "crab", "key"], generator=dice(), num_inference_steps=2)
    told = influence(pipe, ["fox"], walked, generator=dice(1))
    again = influence(pipe, "fox", walked, generator=dice(1))
    assert told.shape == (3,) and np.isfinite(told).all() and (told > 0).all()
    np.testing.assert_array_equal(told, again)
    assert torch.equal(state, torch.get_rng_state())
    after = dict(denoiser(pipe).named_parameters())
    assert all(torch.equal(p, after[name]) for name, p in before.items())
    assert asked == {name: p.requires_grad for name, p in after.items()}
    # nothing has changed, so nothing is said differently but by rounding
    assert change_of_predictions(pipe, walked).max() < 1e-3*told.min() + 1e-5


def test_a_longer_step_moves_more_and_a_small_one_in_proportion():
    pipe = load_pipeline("tiny")
    walked = walk_names(pipe, ["fox", "crab"], generator=dice(), num_inference_steps=2)
    def step(share): return influence(pipe, "fox", walked, generator=dice(1), share=share)
    small, double, far = step(1e-3), step(2e-3), step(.1)
    np.testing.assert_allclose(double/small, 2, rtol=.02)
    assert (far > double).all()


def test_parts_are_asked_as_the_whole():
    pipe = load_pipeline("tiny")
    walked = walk_names(pipe, ["fox", "crab", "key"], generator=dice(), num_inference_steps=3)
    with torch.no_grad(): next(denoiser(pipe).parameters()).add_(.01)
    whole, parts = change_of_predictions(pipe, walked), change_of_predictions(pipe, walked, batch_size=2)
    np.testing.assert_allclose(whole, parts, rtol=1e-3)
    assert (whole > 0).all()


def test_refusals_name_the_remedy():
    pipe = load_pipeline("tiny")
    walked = walk_names(pipe, ["fox"], generator=dice(), num_inference_steps=1)
    with pytest.raises(ValueError, match="name at least one"): influence(pipe, [], walked, generator=dice())
    with pytest.raises(ValueError, match="knows no part of"): walk_names(pipe, ["🦊"], generator=dice())
    with pytest.raises(ValueError, match="knows no part of"): influence(pipe, "🦊", walked, generator=dice())
    for wrong in (None, 42):
        with pytest.raises(TypeError, match="give one with a seed"):
            walk_names(pipe, ["fox"], generator=wrong)
    for share in (0., float("nan"), float("inf")):
        with pytest.raises(ValueError, match="share must be above 0 and finite"):
            influence(pipe, "fox", walked, generator=dice(), share=share)
