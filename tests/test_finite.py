"""Numbers that are not finite never become settings, edits, pictures, scores or verdicts."""
import math

import numpy as np
import pytest
import torch
from small import acting

from vision_unlearning.core import DivergedError, ForeignFileError
from vision_unlearning.data.splits import image_dataset
from vision_unlearning.interference.generate import fill_folder
from vision_unlearning.interference.relearning import Relearning, relearning_curve
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.clip import tiny_clip
from vision_unlearning.models.judge import Judge
from vision_unlearning.running.erase import erase
from vision_unlearning.unlearners.base import WeightEdit, get_method, load_edit
from vision_unlearning.unlearners.methods import METHODS

COARSE = "too coarse to be fine-tuned"
# methods that train nothing
CLOSED = ("uce", "rece", "debias", "sld", "prompt_filter", "safree", "adavd", "trasce", "gloce", "seot")
TRAINED = tuple(name for name in METHODS if name not in CLOSED)


@pytest.fixture(scope="module")
def sides():
    "Four pictures to forget and four to keep."
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    return [image_dataset(pixels, [f"An image of {name}"]*4) for name in ("fox", "key")]


def short(name, **settings):
    "A method that trains for two steps."
    cls = get_method(name)
    few = dict(num_train_steps=2, num_train_epochs=1, num_inference_steps=2, rollout_batch_size=2)
    few |= dict(num_anchor_images=2, train_batch_size=2, num_rounds=1, num_images=3, search_steps=2)
    return cls(**{**acting(cls, few), **settings})


def given(method, sides):
    "What a method takes: names where it can."
    return ("fox", ["key"]) if method.reads == "names" else sides


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_training_below_32_bits_is_refused(name, dtype, sides):
    method = short(name)
    pipe = load_pipeline("tiny", dtype=dtype)
    before = {n: p.clone() for n, p in pipe.unet.named_parameters()}
    with pytest.raises(ValueError, match=COARSE): method.unlearn(pipe, *given(method, sides))
    assert all(torch.equal(before[n], p) for n, p in pipe.unet.named_parameters())


@pytest.mark.parametrize("part", ("cross_attention", "lora"))
def test_relearning_below_32_bits_is_refused(part, sides):
    pipe, settings = load_pipeline("tiny", dtype=torch.float16), Relearning(part=part, at=(0, 1))
    with pytest.raises(ValueError, match=COARSE):
        relearning_curve(pipe, sides[0], lambda: 0., settings, generator=torch.Generator())


@pytest.mark.parametrize("name", CLOSED)
def test_what_trains_nothing_works_in_16_bits(name, sides):
    edit = short(name).unlearn(load_pipeline("tiny", dtype=torch.bfloat16), *given(short(name), sides))
    assert all(bool(t.isfinite().all()) for t in edit.tensors.values())


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_that_explodes_says_so_or_stays_finite(name, sides):
    method, pipe = short(name, learning_rate=1e6), load_pipeline("tiny")
    try: edit = method.unlearn(pipe, *given(method, sides), generator=torch.Generator().manual_seed(0))
    except DivergedError as error: assert "lower the learning rate" in str(error)
    else: assert all(bool(t.isfinite().all()) for t in edit.tensors.values())


def float_settings():
    "Every setting of every method that is one number."
    for name in METHODS:
        for setting, field in get_method(name).model_fields.items():
            if field.annotation in (float, float | None): yield name, setting


@pytest.mark.parametrize("name, setting", list(float_settings()))
def test_a_setting_is_finite(name, setting):
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=f"{setting}: Input should be a finite number"):
            get_method(name)(**{setting: value})


def test_an_edit_that_lost_its_numbers_is_neither_saved_nor_read(tmp_path):
    edit = WeightEdit({"conv_in.bias": torch.zeros(8)}, {"method": "uce"})
    edit.save_pretrained(tmp_path/"edit")
    edit.tensors["conv_in.bias"][0] = math.nan
    with pytest.raises(DivergedError, match="1 of 8 numbers of conv_in.bias"):
        edit.save_pretrained(tmp_path/"bad")
    assert not (tmp_path/"bad").exists()
    file = tmp_path/"edit"/edit.file
    from safetensors.torch import save_file
    save_file(edit.tensors, file)
    with pytest.raises(ForeignFileError, match="make the edit again"): load_edit(tmp_path/"edit")


@pytest.mark.parametrize("settings", (dict(erase_scale=1e308), dict(retain_weight=1e308)))
@pytest.mark.parametrize("name", ("uce", "rece"))
def test_a_closed_form_without_a_solution_is_one_line(name, settings):
    with pytest.raises(DivergedError, match="no finite solution"):
        get_method(name)(**settings).unlearn(load_pipeline("tiny"), "fox", ["key"])


@pytest.mark.parametrize("name", ("uce", "sld", "esd"))
def test_a_text_encoder_that_lost_its_numbers_makes_no_edit(name):
    pipe = load_pipeline("tiny")
    for parameter in pipe.text_encoder.parameters(): parameter.data.fill_(math.nan)
    with pytest.raises(DivergedError, match="not finite"): short(name).unlearn(pipe, "fox", ["key"])


@pytest.mark.parametrize("how", (dict(guidance_scale=math.nan), dict(num_inference_steps=-5)))
def test_a_folder_is_not_begun_with_what_cannot_be_drawn(how, tmp_path):
    with pytest.raises(ValueError, match="must be a"):
        fill_folder(load_pipeline("tiny"), tmp_path/"pictures", "off", [42], ["An image of fox"], **how)
    assert not (tmp_path/"pictures").exists()


def test_lost_pictures_are_no_files(tmp_path):
    pipe = load_pipeline("tiny")
    pipe.vae.decoder.conv_out.bias.data.fill_(math.nan)
    with pytest.raises(DivergedError, match="seed 42 and prompt 'An image of fox'"):
        fill_folder(pipe, tmp_path, "off", [42], ["An image of fox"], num_inference_steps=2)
    assert not list(tmp_path.glob("*.png")) and not (tmp_path/"metadata.jsonl").exists()


@pytest.mark.parametrize("how", (dict(guidance_scale=math.inf), dict(num_inference_steps=0)))
def test_an_erasure_says_so_before_it_starts(how):
    with pytest.raises(ValueError, match="must be a"): erase(load_pipeline("tiny"), "fox", clip="tiny", **how)


def test_encoders_and_judges_refuse_what_is_no_number():
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    with torch.random.fork_rng(): judge = Judge({"name": ["fox"]}).eval()
    for part, look in ((tiny_clip(), "encode_images"), (judge, "probabilities")):
        for parameter in part.parameters(): parameter.data.fill_(math.nan)
        with pytest.raises(DivergedError, match="not finite"): getattr(part, look)(pixels)
