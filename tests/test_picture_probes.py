"""Probes that are not text: their arithmetic by hand, edits of every kind under them, and their controls."""
import numpy as np
import pandas as pd
import pytest
import torch

from vision_unlearning.data.splits import make_split
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.interference.picture_probes import (
    PROBES,
    Comeback,
    Completion,
    LatentGuidance,
    encode_given,
    get_probe,
    probe_pictures,
    unit_size,
)
from vision_unlearning.interference.steering import draw_steered
from vision_unlearning.models import load_clip, load_pipeline
from vision_unlearning.models.tiny import TINY_FAMILIES
from vision_unlearning.running.check import Plan
from vision_unlearning.running.probes import Budget, Probe, comeback_lines, comebacks
from vision_unlearning.unlearners.base import get_method
from vision_unlearning.unlearners.diffusion.guidance import SafeLatentGuidance
from vision_unlearning.unlearners.diffusion.uce import UCE

FOX = "An image of fox"
HOW = dict(num_inference_steps=3, guidance_scale=3.)


@pytest.mark.parametrize("name", ["tiny", "tiny-sd3"])
def test_noise_that_is_left_is_the_schedulers_by_hand(name):
    pipe, seen, times = load_pipeline(name), [], []
    def note(moment):
        times[:] = moment.pipe.scheduler.timesteps.tolist()
        ones = torch.ones_like(moment.latents)
        seen.append((float(moment.noised(ones, 0*ones).mean()), float(moment.noised(0*ones, ones).mean())))
        return moment.latents
    draw_steered(pipe, [42], [FOX], note, **HOW)
    if name == "tiny":
        left = pipe.scheduler.alphas_cumprod[times[1:]].double()
        by_hand = list(zip(left.sqrt().tolist(), (1 - left).sqrt().tolist()))
    else: by_hand = [(1 - t/1000, t/1000) for t in times[1:]]
    assert np.allclose(seen, [*by_hand, (1, 0)], atol=1e-5)


KINDS = [UCE(), SafeLatentGuidance(sld_warmup_steps=0), get_method("prompt_filter")()]


@pytest.mark.parametrize("method", KINDS, ids=lambda method: method.name)
def test_an_edit_acts_while_latents_are_moved(method):
    "Those that act on calls too: whoever moves nothing draws what the edited pipeline draws."
    pipe = load_pipeline("tiny")
    edit = method.unlearn(pipe, "fox", ["key"] if method.name == "uce" else None)
    plain = draw_steered(pipe, [42], [FOX], lambda moment: moment.latents, **HOW)
    with edit.on(pipe):
        steered = draw_steered(pipe, [42], [FOX], lambda moment: moment.latents, **HOW)
        assert np.array_equal(steered, generate_array(pipe, [42], [FOX], **HOW))
    assert not np.array_equal(plain, steered)


@pytest.mark.long(15)
@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_every_probe_speaks_to_every_family(name):
    pipe = load_pipeline(name)
    state = torch.get_rng_state()
    given = encode_given(pipe, *make_split("emoji", "fox", per_entity=1))
    for probe in (get_probe(n)() for n in PROBES):
        if probe.name == "guidance": probe = LatentGuidance(training_steps=2)
        made = probe.prepare(pipe, given)
        both = probe_pictures(pipe, probe, given, made, FOX, [42, 43], **HOW)
        alone = probe_pictures(pipe, probe, given, made, FOX, [42, 43], **HOW, batch_size=1)
        assert both.shape[:2] == (len(probe.variants()), 2)
        assert np.abs(both.astype(int) - alone).max() <= 1, probe.name
    assert torch.equal(state, torch.get_rng_state())


def test_a_completion_that_is_done_is_its_picture():
    "With one step left, what is drawn depends on the picture that was given and not on the seed's own."
    pipe = load_pipeline("tiny")
    given = encode_given(pipe, make_split("emoji", "fox", per_entity=1)[0])
    def drawn(start, **how):
        probe = Completion(start=start)
        return probe_pictures(pipe, probe, given, None, FOX, [42, 42 + 7], **HOW, **how)[0].astype(int)
    free, bound = drawn(0.), drawn(.67)
    with_other = probe_pictures(pipe, Completion(start=.67), given, None, "a key", [42], **HOW)[0].astype(int)
    assert np.abs(free[0] - generate_array(pipe, [42], [FOX], **HOW)[0]).max() == 0
    assert np.abs(bound[0] - with_other[0]).mean() < np.abs(bound[0] - free[0]).mean()


def test_the_classifier_is_climbed():
    pipe = load_pipeline("tiny")
    given = encode_given(pipe, *make_split("emoji", "fox", per_entity=1))
    probe = LatentGuidance(training_steps=30)
    made = probe.prepare(pipe, given)
    gains = []
    def steer(moment):
        moved = probe.steer(moment, given, made)
        if moment.step < 2: gains.append(float(made(unit_size(moved)) - made(unit_size(moment.latents))))
        return moved
    draw_steered(pipe, [42], [FOX], steer, **HOW)
    assert min(gains) > 0


def test_answers():
    assert Comeback(8, 0, 8, 8).answer == "came back" and Comeback(0, 0, 8, 8).answer != "came back"
    assert Comeback(8, 8, 8, 8).answer == "tells nothing"
    for name, wrong in (("start", 1.), ("start", -.1)):
        with pytest.raises(ValueError): Completion(**{name: wrong})


class Always:
    "A judge to whom every picture is the concept."
    def reset(self): self.count = 0
    def update(self, images, names): self.count = len(images)
    def per_item(self): return torch.ones(self.count)


def asked_of(pipe):
    table = pd.DataFrame({"name": ["fox", "key"], "seed": [42, 42]})
    return Probe(pipe, "fox", Plan(table, [], [], "An image of {}"), load_clip("tiny"), Always(), HOW)


def test_where_the_control_shows_it_too_a_probe_tells_nothing():
    pipe = load_pipeline("tiny")
    before = {n: t.clone() for n, t in pipe.unet.state_dict().items()}
    budget = Budget(probes=("inpainting",), probe_pictures=2, pictures=2)
    table = comebacks(asked_of(pipe), UCE().unlearn(pipe, "fox", ["key"]), budget)
    row = table.iloc[0]
    assert (row["edited"], row["control"], row["unedited"], row["random"]) == (2, 2, 2, 2)
    assert row["answer"] == "tells nothing" and "tells nothing" in comeback_lines(table)[0]
    assert all(torch.equal(before[n], t) for n, t in pipe.unet.state_dict().items())
    calls = comebacks(asked_of(pipe), SafeLatentGuidance().unlearn(pipe, "fox"), budget)
    assert calls["random"].isna().all()
