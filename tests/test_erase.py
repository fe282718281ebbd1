"""An erasure that is saved: attached it means the same to the last bit, merged to rounding."""
import dataclasses
import re

import pytest
import torch
from small import Grey

from vision_unlearning.models import load_pipeline, tiny_pipeline
from vision_unlearning.models.conditioning import embed_texts
from vision_unlearning.running.erase import erase, pooled_note, save_erasure
from vision_unlearning.unlearners.base import get_method, load_edit
from vision_unlearning.unlearners.diffusion.lora import adapter_edit, trainable_adapter
from vision_unlearning.unlearners.diffusion.uce import UCE


@pytest.fixture(scope="module")
def tiny(): return tiny_pipeline()


@pytest.fixture(scope="module")
def erasure(tiny):
    "A record of an erasure, whose edit is exchanged below."
    return erase(
        tiny,
        "red",
        candidates=["yellow", "cyan"],
        clip=Grey(),
        neighbours=1,
        others=1,
        seeds=(0,),
        paraphrases=("{}",),
        num_inference_steps=1,
    )


def lora_with_another_alpha(tiny):
    "Alpha is not the rank, so that a lost alpha would show."
    with trainable_adapter(tiny.unet, 2, 6.) as (parameters, config):
        for p in parameters:
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * .3
        return adapter_edit(tiny.unet, config, {"method": "distil"})


EDITS = {"weights": lambda tiny: UCE().unlearn(tiny, "red"), "lora": lora_with_another_alpha}


@pytest.mark.parametrize("kind", EDITS)
def test_attached_and_merged(kind, tiny, erasure, tmp_path):
    text = embed_texts(tiny, ["An image of red"])

    @torch.no_grad()
    def predict(pipe): return pipe.unet(torch.ones(1, 4, 8, 8), torch.tensor([500]), text).sample

    plain = predict(tiny)
    one = dataclasses.replace(erasure, edit=EDITS[kind](tiny))
    path = save_erasure(one, tmp_path / kind, tiny, merge=True)
    merged = load_pipeline(str(path / "merged"))
    with one.edit.on(tiny):
        wanted = predict(tiny)
        weights = {name: p.clone() for name, p in tiny.unet.state_dict().items()}
    with load_edit(path).on(tiny): assert torch.equal(predict(tiny), wanted)
    apart = float((predict(merged) - wanted).abs().max())
    assert apart < 1e-5 < 1e-2 < float((wanted - plain).abs().max())
    if kind == "weights":
        assert all(torch.equal(weights[name], p) for name, p in merged.unet.state_dict().items())
    assert torch.equal(predict(tiny), plain)


def test_merging_needs_the_pipeline(erasure, tmp_path):
    with pytest.raises(ValueError, match="needs the pipeline"):
        save_erasure(erasure, tmp_path / "x", merge=True)


@pytest.mark.parametrize("kind", EDITS)
def test_nothing_else_is_merged(kind, tiny, erasure, tmp_path):
    "An edit that is on would be in the weights of the folder, which speaks of one concept."
    other = UCE().unlearn(tiny, "yellow")
    one = dataclasses.replace(erasure, edit=EDITS[kind](tiny))
    with other.on(tiny):
        with pytest.raises(ValueError, match="would be merged too; detach it first"):
            save_erasure(one, tmp_path / kind, tiny, merge=True)
        save_erasure(one, tmp_path / f"{kind} alone", tiny)
    assert not (tmp_path / kind).exists()


def test_the_pooled_text_of_xl_is_a_line_of_the_check(tiny):
    pipe = load_pipeline("tiny-sdxl")
    few = dict(clip=Grey(), candidates=["wolf", "key"], seeds=42, paraphrases=(), num_inference_steps=1)
    found = erase(pipe, "fox", settings={"anchor_concept": "wolf"}, **few)
    assert re.search(r"\nnote: XL's pooled text .* fox from wolf by \d+% of", str(found))
    watching = get_method("prompt_filter")().unlearn(pipe, "fox")
    assert pooled_note(pipe, watching, "fox", "") == pooled_note(tiny, found.edit, "fox", "") == ()
