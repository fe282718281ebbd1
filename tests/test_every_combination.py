"""A setting that another one makes idle is refused by its name, and one that is not refused acts.

A switch is a setting with a choice among words, with True and False, or that may be nothing or 0.
Every method is asked what idles beside each value of each of its switches.
With --combinations every other setting is tried beside it too, which takes a quarter of an hour: the outcome
changes exactly where nothing is refused."""
import functools
import itertools
import types
import typing

import pytest
import test_every_setting as diffusion
import test_every_setting_classifiers as classifiers
from annotated_types import Ge
from test_every_setting import world  # noqa: F401

from vision_unlearning.unlearners.base import METHODS
from vision_unlearning.unlearners.idle import refuse_idle
from vision_unlearning.unlearners.methods import CLASSIFIER_METHODS

WINGS = {"diffusion": METHODS, "classifiers": CLASSIFIER_METHODS}
EVERY = [(wing, method) for wing, methods in WINGS.items() for method in methods]
# what does nothing beside what; every one of them was found by --combinations
FOUND = {
    "diffusion": {
        "concept_ablation": "num_anchor_images num_inference_steps guidance_scale prompt_template "
                            "anchor_concept",
        "esd": "retain_rollouts retain_batch_size",
        "stereo": "retain_rollouts retain_batch_size",
        "advunlearn": "num_tokens attack_every attack_step_size attack_from retain_batch_size",
        "erase_anything": "retain_batch_size timestep_sampling temperature synonyms num_unrelated "
                          "contrast_batch_size",
        "spm": "anchor_exponent",
        "munba": "forget_weight retain_weight retain_batch_size rank lora_alpha",
        "lora_negation": "forget_weight retain_weight retain_batch_size retain_sign",
        "erasediff": "inner_learning_rate",
        "uce": "retain_weight null_threshold",
        "rece": "ridge rounds retain_weight null_threshold",
        "prompt_filter": "prompt_template",
        "sld": "sld_mom_beta",
        "trasce": "loss_scale width",
        "gloce": "num_anchors num_general",
        "receler": "num_tokens attack_learning_rate mask_threshold",
        "seot": "learning_rate retain_weight erase_weight",
    },
    "classifiers": {
        "boundary_shrink": "bounds",
        "fisher": "omit_label train_batch_size",
        "influence": "damping train_batch_size",
        "ssd": "train_batch_size",
        "lfssd": "train_batch_size",
        "salun": "passes",
        "scrub": "max_epochs",
        "unsir": "noise_learning_rate noise_penalty",
        "uam": "rho_schedule ascent_sample",
    },
}
# what acts on other models, or beside the edit
LEFT_OUT = ("mixed_precision", "gradient_checkpointing", "edit_scale", "input_shape", "impressions_folder")
# a gate that lets nothing pass teaches nothing, and the method says so at its end
ENDS_IN_AN_ERROR = {
    ("gkt", "threshold", 0),
    ("esd", "negative_guidance", 0),
    ("stereo", "negative_guidance", 0),
}


def choices(kind) -> list:
    "The values of a type that has few."
    if kind is bool: return [False, True]
    if kind is type(None): return [None]
    if typing.get_origin(kind) is typing.Literal: return list(typing.get_args(kind))
    if typing.get_origin(kind) not in (typing.Union, types.UnionType): return []
    return [value for part in typing.get_args(kind) for value in choices(part)]


def switches(cls):
    "Every switch of a method, with each of its values."
    for name, field in cls.model_fields.items():
        if name in LEFT_OUT: continue
        zero = [0] if any(isinstance(m, Ge) and m.ge == 0 for m in field.metadata) else []
        for value in [*choices(field.annotation), *zero]: yield name, value


def sides_of(cls):
    "What the two sides of a call may hold."
    if cls.name == "concept_ablation": return [("pictures", "pictures"), ("names", "names")]
    return [(cls.reads, cls.reads), (cls.reads, "nothing")]


def idle_of(cls) -> set[str]:
    "Whatever does nothing beside some value of a switch."
    found = set()
    for name, value in switches(cls):
        for sides in sides_of(cls): found |= set(cls(**{name: value}).idle(*sides))
    return found


@pytest.mark.parametrize("wing,method", EVERY)
def test_what_may_idle(wing, method):
    cls = WINGS[wing][method].load()
    assert idle_of(cls) == set(FOUND[wing].get(method, "").split())


def another(wing, cls, name):
    "Another value of a setting, and what has to be set with it."
    if wing == "diffusion":
        case = diffusion.case_of(cls.name, cls, name)
        return case.value, case.given
    never = name in classifiers.ELSEWHERE or f"{cls.name}.{name}" in classifiers.ELSEWHERE
    return (2, {}) if never else classifiers.case_of(cls, name)


IDLING = [(wing, method) for wing in FOUND for method in FOUND[wing]]


def idling(cls, wing):
    "Situations in which a setting was changed and does nothing: settings, what the sides hold, its name."
    for (switch, value), sides in itertools.product(switches(cls), sides_of(cls)):
        for name in cls(**{switch: value}).idle(*sides):
            if name != switch: yield {switch: value, name: another(wing, cls, name)[0]}, sides, name


@pytest.mark.parametrize("wing,method", IDLING)
def test_what_idles_is_refused_by_its_name(wing, method):
    "Where it was changed; its default is nobody's mistake."
    cls = WINGS[wing][method].load()
    for sides in sides_of(cls): refuse_idle(cls(), *sides)
    refused = set()
    for settings, sides, name in idling(cls, wing):
        with pytest.raises(ValueError, match="would do nothing"): refuse_idle(cls(**settings), *sides)
        refused.add(name)
    assert refused == set(FOUND[wing][method].split())


@pytest.mark.parametrize("wing,method", IDLING)
def test_a_method_asks_before_it_computes(wing, method, world):  # noqa: F811
    cls = WINGS[wing][method].load()
    settings, sides, name = next(idling(cls, wing))
    if wing == "diffusion":
        pipe, forget, retain = world
        if sides[0] == "names": forget, retain = "fox", ["wolf"] if sides[1] == "names" else None
        model = pipe
    else: model, forget, retain = classifiers.world()
    with pytest.raises(ValueError, match=f"{method}: {name}=.* would do nothing"):
        cls(**settings).unlearn(model, forget, retain)


def test_nothing_is_left_to_repair():
    cls = CLASSIFIER_METHODS["unsir"].load()
    refuse_idle(cls(repair_factor=.1), "pictures", "pictures")
    with pytest.raises(ValueError, match="no epoch is left"):
        refuse_idle(cls(repair_factor=.1, impair_epochs=2), "pictures", "pictures")


def asked(wing, cls, switch, value, name):
    "Settings without and with another value of one of them, beside a switch; None where they do not fit."
    other, given = another(wing, cls, name)
    small = {**(diffusion if wing == "diffusion" else classifiers).SMALL, **given}
    if small.get(switch, value) != value and switch in given: return None
    without = {n: v for n, v in small.items() if n in cls.model_fields} | {switch: value}
    try: cls(**without, **({} if name in without else {name: other}))
    except ValueError: return None
    return without, {**without, name: other}


@pytest.mark.combinations
@pytest.mark.parametrize("wing,method", EVERY)
def test_what_is_not_refused_acts(wing, method, world, monkeypatch):  # noqa: F811
    cls = WINGS[wing][method].load()
    sides = ("names", "names") if method == "concept_ablation" else sides_of(cls)[0]
    made = functools.partial(diffusion.made, world) if wing == "diffusion" else classifiers.made
    wrong = []
    for (switch, value), name in itertools.product(switches(cls), cls.model_fields):
        if name in (switch, *LEFT_OUT) or value == cls.model_fields[switch].default: continue
        if (method, name) in classifiers.REFUSED or (method, switch, value) in ENDS_IN_AN_ERROR: continue
        pair = asked(wing, cls, switch, value, name)
        if pair is None: continue
        idle = cls(**pair[1]).idle(*sides)
        with monkeypatch.context() as patch:
            patch.setattr(cls, "idle", lambda self, forget, retain: {})
            same = made(cls, pair[0]) == made(cls, pair[1])
        if same != (name in idle): wrong.append((switch, value, name, same))
    assert not wrong
