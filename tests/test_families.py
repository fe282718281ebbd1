"""Every method on every supported family: train, save, load in a fresh process, draw the same picture; and
the rest is refused.

The processes are real ones, since what a process remembers (a registered kind of edit, a module that only
training imports, a hook that was left behind) is what such a test is for.
One fresh process serves everybody, to spend its seconds on loading torch only once.
"""
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import acting

from vision_unlearning.core import torch_modules
from vision_unlearning.data.splits import make_split
from vision_unlearning.models import TINY_FAMILIES, load_pipeline, tiny_pipeline
from vision_unlearning.models.families import denoiser, family_of
from vision_unlearning.models.sampling import sample
from vision_unlearning.unlearners.base import get_method, load_edit
from vision_unlearning.unlearners.methods import METHODS

# Left out of `make quick`.
pytestmark = pytest.mark.long

PROMPT, STEPS = "An image of fox", 3
# The smallest settings that train two steps. Rates are high because the weights of a tiny pipeline are random
# and its pictures hardly react; guidance without a warm-up, since three steps are over before it ends.
QUICK = dict(
    num_train_epochs=2,
    num_train_steps=2,
    learning_rate=0.1,
    train_batch_size=1,
    retain_batch_size=2,
    rank=2,
    num_inference_steps=2,
    rollout_batch_size=1,
    anchor_batch_size=1,
    num_anchor_images=2,
    saliency_passes=1,
    saliency_epochs=1,
    num_iterations=1,
    erase_scale=100.0,
    retain_weight=1.0,
    sld_warmup_steps=0,
    sld_threshold=1.0,
    alpha=-1.0,
    safe_steps=100.0,
    centre=-1.0,
    search_steps=2,
    attack_from=0,
    attack_steps=1,
    num_rounds=1,
    num_images=3,  # of which no half shows a man
    step_size=1000.0,
)
# Of a random pipeline, which hardly reads the few tokens of a prompt that are rewritten.
LEAST = {"safree": 1 / 2000, "seot": 1 / 2000, "gloce": 1 / 2000}
# With random weights and one double block, what is looked at hardly matters beside what it says,
# and no place is more like a concept than another: the gate stands open.
OWN = {
    "erase_anything": dict(target_modules="xattn"),
    "gloce": dict(threshold=-9.),
    "seot": dict(alpha=.1, optimisation_steps=2),
}
# The child gets the number of threads of its parent: sums that are split otherwise are rounded otherwise.
CHILD = """
import json, sys
import numpy as np, torch
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.sampling import sample
from vision_unlearning.unlearners.base import load_edit
asked = json.load(sys.stdin)
torch.set_num_threads(asked["threads"])
drawing = dict(prompt=[asked["prompt"]], num_inference_steps=asked["steps"], guidance_scale=3.)
def draw(pipe): return sample(pipe, [42], [asked["prompt"]], output_type="np", **drawing).images
for name, edits in asked["edits"].items():
    folder = f"{asked['folder']}/{name}"
    pipe = load_pipeline(name)
    np.save(f"{folder}/unedited.npy", draw(pipe))
    for method in edits:
        with load_edit(f"{folder}/{method}").on(pipe): picture = draw(pipe)
        np.save(f"{folder}/{method}.npy", picture)
"""


def quick(name):
    "A method with the smallest settings that it has."
    cls = get_method(name)
    return cls(**acting(cls, QUICK | OWN.get(name, {})))


def draw(pipe):
    "(1,16,16,3) float32 in 0..1, not rounded: a difference that a grey level would hide is one."
    drawing = dict(prompt=[PROMPT], num_inference_steps=STEPS, guidance_scale=3.0, output_type="np")
    return sample(pipe, [42], [PROMPT], **drawing).images


def state(pipe):
    """What a caller could notice: bits, flags, gradients, hooks, processors and schedule of a pipeline, and
    the random state."""
    found = {
        "rng": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "schedule": json.dumps(dict(pipe.scheduler.config), default=str),
    }
    for i, module in enumerate(torch_modules(pipe)):
        found.update({(i, n): t.clone() for n, t in module.state_dict().items()})
        found.update(
            {
                (i, n, "flags"): (p.requires_grad, p.grad, p.dtype, p.device)
                for n, p in module.named_parameters()
            }
        )
        found.update(
            {
                (i, n, "module"): (type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
                for n, m in module.named_modules()
            }
        )
    network = denoiser(pipe)
    return {
        **found,
        "edits": list(network.__dict__.get("_edits", [])),
        "processors": {n: type(p) for n, p in network.attn_processors.items()},
    }


def changed(before, after):
    "Names of what is not the same any more."
    same = lambda a, b: torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [
        n
        for n in before.keys() | after.keys()
        if n not in before or n not in after or not same(before[n], after[n])
    ]


class Family:
    "One tiny pipeline, the edits that were made of it, and the pictures that this process drew with them."
    def __init__(self, name, split, folder):
        self.name = name
        self.split = split
        self.folder = folder
        self.pipe = load_pipeline(name)
        self.pictures = {}
        self.left = {}
        self.tried = set()
        self.unedited = draw(self.pipe)
        folder.mkdir()

    def refuses(self, method):
        "Why the method does not work on this family; nothing where it does."
        return get_method(method).refuses.get(family_of(self.pipe).family, "")

    def train(self, method):
        "Train, save, and draw in this process, once."
        if method in self.tried: return
        self.tried.add(method)
        if self.refuses(method): return
        unlearner, before = quick(method), state(self.pipe)
        forget, retain = self.split if unlearner.reads == "pictures" else ("fox", ["wolf", "red apple"])
        edit = unlearner.unlearn(self.pipe, forget, retain, generator=torch.Generator().manual_seed(0))
        self.left[method] = changed(before, state(self.pipe))
        edit.save_pretrained(self.folder / method)
        with edit.on(self.pipe): self.pictures[method] = draw(self.pipe)
        self.left[method] += changed(before, state(self.pipe))


@pytest.fixture(scope="session")
def split():
    "Two pictures of the concept and four of others."
    forget, retain = make_split("emoji", "fox", per_entity=1)
    return forget.select(range(2)), retain.select(range(4))


@pytest.fixture(scope="session")
def families(split, tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: Family(name, split, root / name) for name in TINY_FAMILIES}


@pytest.fixture(scope="session")
def fresh(families):
    """Pictures by family and method (`None`: unedited) from a process that has seen neither training nor
    edits."""
    for family in families.values():
        for method in METHODS: family.train(method)
    root = next(iter(families.values())).folder.parent
    asked = dict(
        threads=torch.get_num_threads(),
        prompt=PROMPT,
        steps=STEPS,
        folder=str(root),
        edits={f.name: list(f.pictures) for f in families.values()},
    )
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(asked),
        text=True,
        capture_output=True,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        f.name: {
            None: np.load(f.folder / "unedited.npy"),
            **{m: np.load(f.folder / f"{m}.npy") for m in f.pictures},
        }
        for f in families.values()
    }


each = pytest.mark.parametrize("method", METHODS)
everywhere = pytest.mark.parametrize("family", TINY_FAMILIES)


@everywhere
@each
def test_training_gives_the_pipeline_back(families, family, method):
    one = families[family]
    one.train(method)
    if reason := one.refuses(method):
        sides = one.split if get_method(method).reads == "pictures" else ("fox", ["wolf"])
        with pytest.raises(TypeError) as error: quick(method).unlearn(one.pipe, *sides)
        assert reason in str(error.value) and method in str(error.value) and "\n" not in str(error.value)
        return
    assert not one.left[method], f"{method} on {family} left behind: {one.left[method][:5]}"
    assert np.isfinite(one.pictures[method]).all()
    # An edit that does nothing would be the same in every process.
    assert np.abs(one.pictures[method] - one.unedited).max() > LEAST.get(method, 1 / 255), (
        f"{method} changes no pixel of {family} by a grey level"
    )


@pytest.mark.parametrize("method", [m for m in METHODS if "edit_scale" in get_method(m).model_fields])
def test_a_scale_in_the_file_is_the_scale_of_attaching(families, split, method):
    one = next(iter(families.values()))
    one.train(method)
    unlearner = quick(method).model_copy(update={"edit_scale": 2.})
    edit = unlearner.unlearn(
        one.pipe,
        *(split if unlearner.reads == "pictures" else ("fox", ["wolf", "red apple"])),
        generator=torch.Generator().manual_seed(0),
    )
    with load_edit(one.folder / method).on(one.pipe, scale=2.): twice = draw(one.pipe)
    with edit.on(one.pipe): kept = draw(one.pipe)
    assert (
        edit.info["settings"]["edit_scale"] == 2.0
        and np.abs(kept - twice).max() < 1e-4 < np.abs(kept - one.pictures[method]).max()
    )


@everywhere
@each
def test_fresh_process_draws_the_same(families, fresh, family, method):
    if families[family].refuses(method): return
    assert method in fresh[family], f"{method} was not trained on {family}"
    assert np.abs(fresh[family][method] - families[family].pictures[method]).max() == 0, (
        f"{method} on {family}"
    )


@everywhere
def test_fresh_process_has_the_same_pipeline(families, fresh, family):
    assert np.abs(fresh[family][None] - families[family].unedited).max() == 0


@everywhere
def test_methods_differ(fresh, family):
    "Two methods that draw the same picture would be one method, or the edit of the first was still on."
    assert len({picture.round(4).tobytes() for picture in fresh[family].values()}) == len(fresh[family])


def transformer_pipeline():
    "DiT: a transformer denoises, and class numbers are asked for."
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
    with torch.random.fork_rng():
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            norm_num_groups=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )
    return DiTPipeline(transformer, tiny_pipeline().vae, DDIMScheduler())


def unconditional_pipeline():
    "DDPM: a UNet that reads no text."
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    with torch.random.fork_rng():
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(8,),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        )
    return DDPMPipeline(unet, DDPMScheduler())


def refiner_pipeline():
    "XL's refiner: the second text encoder only."
    pipe = tiny_pipeline(family="sdxl")
    pipe.text_encoder = pipe.tokenizer = None
    return pipe


UNSUPPORTED = {
    "transformer": transformer_pipeline,
    "no-text": unconditional_pipeline,
    "refiner": refiner_pipeline,
    "no-unet": lambda: SimpleNamespace(scheduler=None),
}


@pytest.fixture(scope="session", params=UNSUPPORTED)
def unsupported(request): return UNSUPPORTED[request.param]()


@each
def test_unsupported_is_refused_by_name(unsupported, method, split):
    unlearner = quick(method)
    with pytest.raises(TypeError) as error:
        unlearner.unlearn(unsupported, *(split if unlearner.reads == "pictures" else ("fox", ["wolf"])))
    line = str(error.value)
    assert (
        "\n" not in line
        and type(unsupported).__name__ in line
        and unlearner.name in line
        and "pipelines are supported" in line
    ), line
