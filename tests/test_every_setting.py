"""Every setting of every method changes what comes out. The list is made from the fields of the classes, so
that a new setting without a case fails here."""
import hashlib
import json
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from small import acting, small_pipeline

from vision_unlearning.data.splits import make_split
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.unlearners.callbacks import Callback
from vision_unlearning.unlearners.methods import METHODS

# Left out of `make quick`.
pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Case:
    "Another value of a setting, and the situation in which it acts."
    value: object
    given: dict = field(default_factory=dict)  # further settings, the same without and with the value


# as little as possible, for every method that has the setting
SMALL = dict(
    num_train_epochs=1, num_train_steps=1, train_batch_size=1, retain_batch_size=1, rollout_batch_size=1,
    num_inference_steps=1, num_anchor_images=1, anchor_batch_size=1, saliency_epochs=1, saliency_passes=1,
    num_iterations=1, sld_warmup_steps=0, num_rounds=1, num_images=4, tolerance=0., search_steps=2,
)
TWO_STEPS = dict(num_train_epochs=2, num_train_steps=2)
# the first point of a walk is noise, whatever leads it
WALK = dict(num_inference_steps=2, train_batch_size=2)
UNEVEN = dict(target_shares=(.9, .1))  # which four pictures cannot have
MOVED = dict(  # so strongly that even noise is counted otherwise
    target_shares=(.01, .99), num_images=12, num_rounds=2, num_inference_steps=2, step_size=1000.,
    guidance_scale=20., erase_scale=100.,
)
POOLS = dict(num_inference_steps=4)  # a pool of several points
ATTACK = dict(attack_from=0, attack_steps=1)
RETAIN = dict(retain_weight=1., num_train_steps=2, **POOLS)  # before the first step there is nothing to hold

EVERYWHERE = dict(
    mixed_precision="bf16", gradient_checkpointing=True, edit_scale=2., num_train_epochs=2, num_train_steps=2,
    learning_rate=.01, rank=2, lora_alpha=3., forget_weight=3., retain_weight=3., train_batch_size=2,
    retain_batch_size=2, gradient_accumulation_steps=2, max_grad_norm=1e-6, weight_decay=.5,
    timestep_sampling="logit_normal", anchor_concept="An image of wolf", kept_fraction=.9, saliency_passes=2,
    prompt_template="A photo of {}", negative_guidance=3., rollout_batch_size=2, num_inference_steps=2,
    target_modules="selfattn", guidance_scale=Case(9., WALK), train_text_encoder=True,
)
PUSH = dict(latent_guidance=1000., width=10.)
ESD = dict(
    erase_from="dog",
    train_batch_size=Case(2, POOLS),
    sampler=Case("edited", dict(num_train_steps=3, num_inference_steps=2, learning_rate=.01)),
    retain_weight=1.,
    retain_rollouts=Case(3, RETAIN),
    retain_batch_size=Case(3, RETAIN),
)
UCE = dict(
    erase_scale=2., lamb=1., concept_type="art", expand_prompts=False, positions="last",
    preservation="null_space", null_threshold=Case(.5, dict(preservation="null_space")),
)
OWN = {
    "trasce": dict(
        loss_scale=Case(9., PUSH), latent_guidance=Case(1000., dict(width=10.)), width=Case(20., PUSH),
    ),
    "mace": dict(erase_scale=2., lamb=1., train_batch_size=Case(2, POOLS)),
    "safree": dict(alpha=Case(9., dict(safe_steps=100.)), safe_steps=100.),
    "seot": dict(
        alpha=.1, optimisation_steps=Case(3, dict(alpha=.1)),
        **{
            name: Case(value, dict(alpha=.1, optimisation_steps=2))
            for name, value in dict(learning_rate=200., retain_weight=9., erase_weight=9.).items()
        },
    ),
    "receler": dict(
        train_batch_size=Case(2, POOLS), mask_weight=Case(9., TWO_STEPS | dict(mask_threshold=.9)),
        mask_threshold=Case(.9, TWO_STEPS | dict(mask_weight=9.)), num_tokens=2, attack_steps=3,
        attack_learning_rate=9.,
    ),
    "gloce": dict(
        target_rank=2, surrogate_rank=1, gate_rank=2, threshold=-3., num_anchors=2, num_general=1,
        num_pictures=2, num_inference_steps=2, guidance_scale=Case(9., dict(num_inference_steps=2)),
    ),
    "adavd": dict(steepness=1., centre=-1., strength=Case(1., dict(centre=.5))),
    "esd": ESD,
    "stereo": ESD | dict(num_rounds=2, num_tokens=2, search_steps=5, search_rate=1.),
    "advunlearn": dict(
        retain_weight=Case(3., TWO_STEPS),
        retain_batch_size=Case(2, RETAIN),
        train_batch_size=Case(2, POOLS),
        num_tokens=Case(3, ATTACK),
        attack_every=Case(1, ATTACK | TWO_STEPS),
        attack_steps=Case(3, ATTACK),
        attack_step_size=Case(.5, ATTACK),
        attack_from=0,
    ),
    "prompt_filter": dict(
        similarity_threshold=.01,
        prompt_template=Case("{}", dict(similarity_threshold=.75)),
    ),
    "sld": dict(
        sld_guidance_scale=10., sld_warmup_steps=2, sld_threshold=1., sld_momentum_scale=.9, sld_mom_beta=.9,
    ),
    "uce": UCE,
    "rece": UCE | dict(num_iterations=2, ridge=1., rounds="sequential"),
    "debias": dict(
        attributes=("woman", "man"),
        target_shares=(.9, .1),
        tolerance=Case(.99, UNEVEN),  # wide enough for there to be nothing to change
        num_rounds=Case(2, UNEVEN),
        num_images=5, step_size=Case(2., UNEVEN), erase_scale=Case(2., UNEVEN),
        retain_weight=Case(3., UNEVEN),
        lamb=Case(1., UNEVEN), preservation=Case("null_space", UNEVEN),
        null_threshold=Case(.5, UNEVEN | dict(preservation="null_space")),
        expand_prompts=Case(False, UNEVEN),
        recogniser="emoji-clip", num_inference_steps=Case(8, MOVED), guidance_scale=Case(5., MOVED),
    ),
    "distil": dict(timestep_sampling="crucial"),
    "distil_weight": dict(search_space=(1,)),
    "munba": dict(gradient_weighting="simple", trainable="cross_attention"),
    "lora_negation": dict(negation_scale=2., gradient_weighting="simple", retain_sign="trained"),
    "erase_anything": dict(
        train_batch_size=Case(2, POOLS),
        contrast_batch_size=Case(1, dict(num_train_steps=2, **POOLS)),
        attention_weight=3.,
        **{
            name: Case(value, dict(num_train_steps=2))  # the second step is the first that holds
            for name, value in dict(
                retain_weight=3., contrast_weight=3., temperature=1., synonyms=("dog",), num_unrelated=1,
                retain_batch_size=2, timestep_sampling="logit_normal",
            ).items()
        },
    ),
    "concept_ablation": dict(variant="noise", anchor_concept="dog", num_anchor_images=3, guidance_scale=9.),
    "spm": dict(
        anchor_exponent=Case(8., dict(anchor_batch_size=16, num_train_steps=2)),
        anchor_batch_size=3,
        train_batch_size=Case(2, POOLS),
        facilitated_transport=True,
    ),
    "salun": dict(mask_fraction=.9, saliency_guidance=3., saliency_epochs=2),
    "erasediff": dict(eta=1., inner_steps=1, inner_learning_rate=Case(.5, dict(inner_steps=1))),
}


def case_of(method, cls, name):
    "The case of a setting; a new setting needs one in the tables above."
    if name == "lr_scheduler":
        other = "linear" if cls.model_fields[name].default == "constant" else "constant"
        return Case(other, TWO_STEPS)
    found = OWN.get(method, {}).get(name, EVERYWHERE.get(name))
    assert found is not None, f"say in this file when {name} of {method} acts, and what else it may be"
    return found if isinstance(found, Case) else Case(found)


ON_THE_WAY = ("sld", "safree", "adavd", "trasce", "seot")  # what they do is done while a picture is drawn


class Recomputes(Callback):
    "Whether the network computes activations again."
    def __init__(self, network): self.network, self.seen = network, []
    def after_loss(self, state): self.seen.append(self.network.is_gradient_checkpointing)


@pytest.fixture(scope="module")
def world():
    "A pipeline with random weights, two pictures of the fox, and one each of two others."
    forget, retain = make_split("emoji", "fox", per_entity=2)
    return small_pipeline(), forget.select(range(2)), retain.select([0, 2])


def digest(*parts):
    "A short name for tensors and other values."
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor): part = part.float().numpy().tobytes()
        made.update(part if isinstance(part, bytes) else json.dumps(part, default=str).encode())
    return made.hexdigest()


def sides_of(world, cls):
    "The pipeline, and what a method forgets and keeps."
    by_names = cls.reads == "names" or cls.name == "concept_ablation"
    return (world[0], "fox", ["wolf", "key", "red apple"]) if by_names else world


def outcome(world, cls, settings):
    "What a method makes: its tensors, what it says of them, or the pictures where they are made later."
    pipe, forget, retain = sides_of(world, cls)
    watch = Recomputes(pipe.unet)
    given = dict(generator=torch.Generator().manual_seed(0), callbacks=[watch])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="after . rounds a share is off")
        try: edit = cls(**settings).unlearn(pipe, forget, retain, **given)
        except ValueError as refused:
            if "nothing to change" in str(refused): return digest(str(refused))
            raise
    about = {k: v for k, v in edit.info.items() if k != "settings"}
    parts = [about, watch.seen, *(x for item in sorted(edit.tensors.items()) for x in item)]
    if cls.name in ON_THE_WAY:
        with edit.on(pipe):
            parts = [generate_array(pipe, [1], ["An image of fox"], num_inference_steps=4).tobytes()]
    if cls.name == "prompt_filter":
        asked = ["An image of wolf", "fox", "A photo of key", "An image of foxes in a forest", "wolf and key"]
        with edit.on(pipe): parts = [pipe.encode_prompt(asked, "cpu", 1, False)[0].detach()]
    return digest(*parts)


kept = {}


def made(world, cls, settings):
    "The outcome, once for every set of settings."
    key = cls.name, json.dumps(settings, sort_keys=True)
    if key not in kept: kept[key] = outcome(world, cls, settings)
    return kept[key]


CHOICES = [(method, name) for method in METHODS for name in METHODS[method].load().model_fields]


@pytest.mark.parametrize("method,name", CHOICES)
def test_a_setting_of_a_diffusion_method_acts(world, method, name):
    cls = METHODS[method].load()
    case = case_of(method, cls, name)
    small = acting(cls, {**SMALL, **case.given}, *sides_of(world, cls)[1:])
    assert made(world, cls, small) != made(world, cls, {**small, name: case.value})


OVERWRITING = ["distil", "distil_module", "distil_weight", "munba", "salun"]


@pytest.mark.parametrize("method", OVERWRITING)
def test_an_explicit_anchor_wins_over_the_column_of_the_split(world, method):
    "And the column over the empty text."
    pipe, forget, retain = world
    cls = METHODS[method].load()
    small = {k: v for k, v in SMALL.items() if k in cls.model_fields}
    split = pipe, forget.add_column("overwrite", ["An image of a child"]*2), retain
    told = [outcome(split, cls, {**small, "anchor_concept": c}) for c in ("", "An image of Tony Blair")]
    plain = [outcome(world, cls, {**small, "anchor_concept": c}) for c in ("", "An image of Tony Blair")]
    assert told[1] == plain[1] and len({*told, *plain}) == 3
