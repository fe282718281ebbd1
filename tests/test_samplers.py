"""Every scheduler of diffusers draws a function of seed and prompt, or is refused by name."""
import warnings
from contextlib import contextmanager

import diffusers.schedulers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from small import small_pipeline

from vision_unlearning.data.splits import image_dataset
from vision_unlearning.explore.attention import attention_fingerprints
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.unlearners.base import WeightEdit
from vision_unlearning.unlearners.diffusion.concept_ablation import ConceptAblation
from vision_unlearning.unlearners.diffusion.crucial_times import crucial_times
from vision_unlearning.unlearners.diffusion.esd import ESD
from vision_unlearning.unlearners.diffusion.guidance import SafeLatentGuidance
from vision_unlearning.unlearners.diffusion.inputs import diffusion_batch, encode_dataset
from vision_unlearning.unlearners.tracking import Draws

# Left out of `make quick`.
pytestmark = pytest.mark.long

WORDS = ["An image of fox", "An image of key"]
VARIANTS = [
    ("EulerAncestralDiscreteScheduler", {}),
    ("DDPMScheduler", {}),
    ("LCMScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("SASolverScheduler", {}),
    ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
    ("DPMSolverSinglestepScheduler", dict(algorithm_type="sde-dpmsolver++")),
    ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True)),
    ("EulerDiscreteScheduler", dict(use_karras_sigmas=True)),
    ("UniPCMultistepScheduler", dict(prediction_type="flow_prediction", use_flow_sigmas=True)),
    ("EulerDiscreteScheduler", dict(prediction_type="v_prediction", timestep_type="continuous")),
    ("EDMEulerScheduler", {}),
]


def names():
    "All schedulers that diffusers has."
    found = {n: getattr(diffusers.schedulers, n) for n in dir(diffusers.schedulers)}
    kinds = {n: c for n, c in found.items() if isinstance(c, type) and issubclass(c, SchedulerMixin)}
    return sorted(n for n, c in kinds.items() if hasattr(c, "from_config"))


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


@pytest.fixture(scope="module")
def config(pipe):
    return dict(pipe.scheduler.config)


def use(pipe, config, name, **options):
    "Give the pipeline another scheduler."
    pipe.scheduler = getattr(diffusers.schedulers, name).from_config(config, **options)


@contextmanager
def disturbed():
    "A block in which the global generator is somewhere else at every call."
    with torch.random.fork_rng():
        torch.seed()
        yield


def pictures(pipe, steps, batch_size=2):
    "Two pictures, after some other random number was drawn."
    how = dict(num_inference_steps=steps, batch_size=batch_size)
    with disturbed(): return generate_array(pipe, [42]*2, WORDS, **how).astype(int)


def check(pipe, steps):
    "Two global states and two batch sizes give one picture, or one line says why not."
    try: first = pictures(pipe, steps)
    except ValueError as error:
        assert "\n" not in str(error) and type(pipe.scheduler).__name__ in str(error), error
        return "refused"
    assert (pictures(pipe, steps) == first).all()
    assert np.abs(pictures(pipe, steps, batch_size=1) - first).max() <= 1
    return "drawn"


@pytest.mark.parametrize("name, options", VARIANTS)
def test_noisy_and_unusual_samplers_follow_seed_and_prompt(pipe, config, name, options):
    use(pipe, config, name, **options)
    assert [check(pipe, steps) for steps in (1, 4)] == ["drawn"]*2


@pytest.mark.parametrize("name", names())
def test_every_scheduler_follows_or_is_refused(pipe, config, name):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(pipe, config, name)
    except (TypeError, ValueError): pytest.skip("needs settings that no Stable Diffusion has")
    check(pipe, 2)


@pytest.mark.long
@pytest.mark.parametrize("name", ("EulerAncestralDiscreteScheduler", "PNDMScheduler"))
def test_many_steps(pipe, config, name):
    use(pipe, config, name)
    assert check(pipe, 31) == "drawn"


def test_an_edit_of_nothing_changes_no_picture(pipe, config):
    use(pipe, config, "EulerAncestralDiscreteScheduler")
    nothing = WeightEdit({"conv_in.bias": pipe.unet.conv_in.bias})
    off = pictures(pipe, 3)
    with nothing.on(pipe): on = pictures(pipe, 3)
    assert (on == off).all()


def test_all_who_draw_read_no_global_noise(pipe, config):
    use(pipe, config, "EulerAncestralDiscreteScheduler")
    quick = dict(num_train_steps=1, num_inference_steps=3)
    anchored = ConceptAblation(num_anchor_images=2, anchor_concept="key", **quick)
    ways = {
        "fingerprints": lambda: attention_fingerprints(pipe, WORDS[:1], [1], 3),
        "tracked pictures": lambda: Draws(pipe, WORDS[:1], num_inference_steps=3)()[WORDS[0]],
        "anchors": lambda: [t.numpy() for t in anchored.unlearn(pipe, "fox").tensors.values()],
        "walks": lambda: [t.numpy() for t in ESD(**quick).unlearn(pipe, "fox").tensors.values()],
    }
    for who, way in ways.items():
        with disturbed(): first = way()
        with disturbed(): again = way()
        assert all(map(np.array_equal, first, again)), who


def test_hand_written_loops_refuse_what_they_cannot_read(pipe, config):
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    use(pipe, config, "DDIMScheduler")
    data = encode_dataset(pipe, image_dataset(pixels, WORDS[:1]*2), overwrite=WORDS[1])
    draws = lambda: torch.Generator().manual_seed(0)
    edit = SafeLatentGuidance().unlearn(pipe, "fox")
    flow = ("UniPCMultistepScheduler", dict(prediction_type="flow_prediction", use_flow_sigmas=True))
    logs = ("EulerDiscreteScheduler", dict(prediction_type="v_prediction", timestep_type="continuous"))
    for name, options in (("EDMEulerScheduler", {}), ("EDMDPMSolverMultistepScheduler", {}), flow, logs):
        use(pipe, config, name, **options)
        with pytest.raises(ValueError, match=name): diffusion_batch(pipe.scheduler, data.mean, draws())
        with pytest.raises(ValueError, match=name): crucial_times(pipe, data, generator=draws())
        if (name, options) == logs: continue  # guidance reads log-sigma times
        with pytest.raises(ValueError, match=name): edit.attach(pipe)


def test_guidance_means_the_same_with_both_kinds_of_times(pipe, config):
    edit = SafeLatentGuidance(sld_warmup_steps=0).unlearn(pipe, "fox")
    class Deaf(type(pipe.unet)):
        "A network that does not listen to the time."
        def forward(self, sample, timestep, *args, **kwargs):
            return super().forward(sample, torch.tensor(500), *args, **kwargs)
    hearing, pipe.unet.__class__, found = type(pipe.unet), Deaf, []
    for kind in ("discrete", "continuous"):
        options = dict(timestep_type=kind, timestep_spacing="leading")
        use(pipe, config, "EulerDiscreteScheduler", prediction_type="v_prediction", **options)
        with edit.on(pipe): found.append(pictures(pipe, 5))
    pipe.unet.__class__ = hearing
    assert np.abs(found[0] - found[1]).max() <= 2
