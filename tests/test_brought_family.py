"""The recipe "Add a family": PixArt, brought by a class that somebody imports, is a pipeline like any other.

A transformer that predicts noise, one T5 tower, tokens of which only some count, no pooled text, and twice as
many channels answered as were shown.
"""
from typing import ClassVar

import numpy as np
import pytest
import torch

from vision_unlearning.core import torch_modules
from vision_unlearning.data.splits import make_split
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.models.conditioning import Conditioning, condition, predict
from vision_unlearning.models.families import STATED, Family, Place, TokenRow, denoiser, family_of
from vision_unlearning.models.looking import predict_looking
from vision_unlearning.models.machine import compute_device
from vision_unlearning.models.tiny import tiny_scheduler, tiny_t5, tiny_vae
from vision_unlearning.models.unet import attention_parameters
from vision_unlearning.unlearners.base import get_method


class PixArt(Family):
    "PixArt: cross-attention on T5's tokens, noise and its variance predicted."
    family: ClassVar[str] = "pixart"
    network: ClassVar[str] = "PixArtTransformer2DModel"
    label: ClassVar[str] = "PixArt"
    component: ClassVar[str] = "transformer"
    word: ClassVar[str] = "transformer"
    flow: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    blocks: ClassVar[tuple[str, ...]] = (*targets, "ff.net.0.proj", "ff.net.2")

    def latent_size(self, pipe): return (pipe.transformer.config.sample_size,) * 2
    def channels(self, pipe): return pipe.transformer.config.in_channels
    def rows(self, pipe): return [TokenRow(pipe.tokenizer, 0, 120, first=0)]

    def encode(self, pipe, prompts):
        how = dict(do_classifier_free_guidance=False, device=compute_device(pipe))
        tokens, mask, *_ = pipe.encode_prompt(prompts, **how)
        return Conditioning(tokens, mask=mask, family=self.family)

    def predict(self, network, latents, times, text):
        said = network(
            latents,
            encoder_hidden_states=text.prompt_embeds,
            encoder_attention_mask=text.mask,
            timestep=torch.as_tensor(times).expand(len(latents)),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return said[:, :latents.shape[1]]

    def call(self, pipe, latents, **settings):
        if "negative_prompt_embeds" in settings: settings["negative_prompt"] = None
        return pipe(latents=latents, use_resolution_binning=False, clean_caption=False, **settings)

    def places(self, network):
        layer = network.caption_projection.linear_1
        return [Place("tokens", {"caption_projection.linear_1.weight": layer.weight}, layer.in_features)]

    def parameters(self, network, which): return attention_parameters(network, which)
    def readers(self, network):
        return {n: m for n, m in network.named_modules() if getattr(m, "is_cross_attention", False)}


@pytest.fixture(scope="module", autouse=True)
def known():
    "The family is known from its import on; here only while this file runs."
    STATED["pixart"] = PixArt
    yield
    del STATED["pixart"]


del STATED["pixart"]


@pytest.fixture
def pipe():
    from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import CLIPTokenizer

    from vision_unlearning.models.embedded import embedded_path
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text, tokenizer = tiny_t5(CLIPTokenizer.from_pretrained(embedded_path("emoji-sd") / "tokenizer"))
        transformer = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            cross_attention_dim=16,
            sample_size=8,
            caption_channels=32,
            norm_num_groups=4,
        )
        vae = tiny_vae()
    made = PixArtAlphaPipeline(tokenizer, text, vae, transformer.eval(), tiny_scheduler())
    made.set_progress_bar_config(disable=True)
    return made


def test_it_predicts_what_the_pipeline_asks(pipe):
    seen = []
    def note(module, args, kwargs, output): seen.append((args[0], kwargs["timestep"], output[0]))
    handle = pipe.transformer.register_forward_hook(note, with_kwargs=True)
    how = dict(num_inference_steps=1, guidance_scale=1., output_type="latent", clean_caption=False)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe(["An image of fox"], latents=noise, use_resolution_binning=False, **how)
    handle.remove()
    shown, times, said = seen[0]
    with torch.no_grad(): ours = predict(denoiser(pipe), shown, times, condition(pipe, ["An image of fox"]))
    assert torch.equal(ours, said[:, :4]) and family_of(pipe).family == "pixart"


def test_it_says_where_it_looks(pipe):
    "The attention of a place is divided among the tokens that count, and padding gets none."
    text = condition(pipe, ["An image of fox"])
    at = torch.zeros(1, 4, 8, 8), torch.tensor([500]), text
    with torch.no_grad(): said, layers = predict_looking(denoiser(pipe), *at)
    with torch.no_grad(): assert torch.equal(said, predict(denoiser(pipe), *at))
    assert len(layers) == 2 and 0 < text.mask.sum() < text.mask.numel()
    for found in layers:
        assert (found.sum(-1) - 1).abs().max() < 1e-5 and found[..., text.mask[0] == 0].max() == 0


@pytest.mark.parametrize("method", ["uce", "rece", "esd", "salun", "erasediff", "prompt_filter"])
def test_methods_work_on_it(pipe, method):
    quick = dict(num_train_epochs=1, num_train_steps=1, num_inference_steps=2, rollout_batch_size=1)
    quick |= dict(learning_rate=.1, saliency_epochs=1)
    cls = get_method(method)
    unlearner = cls(**{n: v for n, v in quick.items() if n in cls.model_fields})
    sides = "fox", ["wolf"]
    if unlearner.reads == "pictures":
        forget, retain = make_split("emoji", "fox", per_entity=1)
        sides = forget.select(range(2)), retain.select(range(2))
    before = {n: t.clone() for m in torch_modules(pipe) for n, t in m.state_dict().items()}
    plain = generate_array(pipe, [42], ["An image of fox"], num_inference_steps=2)
    edit = unlearner.unlearn(pipe, *sides, generator=torch.Generator().manual_seed(0))
    with edit.on(pipe): changed = generate_array(pipe, [42], ["An image of fox"], num_inference_steps=2)
    assert np.abs(changed.astype(int) - plain).max() > 0
    assert all(torch.equal(before[n], t) for m in torch_modules(pipe) for n, t in m.state_dict().items())


def test_what_needs_adapters_is_refused_by_name(pipe):
    with pytest.raises(TypeError, match="no LoRA is trained on a PixArtTransformer2DModel"):
        get_method("spm")().unlearn(pipe, "fox", ["wolf"])


def test_without_its_class_it_is_refused_by_name(pipe):
    del STATED["pixart"]
    try:
        with pytest.raises(TypeError) as error: get_method("uce")().unlearn(pipe, "fox")
    finally: STATED["pixart"] = PixArt
    line = str(error.value)
    assert "uce cannot edit PixArtAlphaPipeline, which has a PixArtTransformer2DModel" in line
    assert "Stable Diffusion 3" in line and "\n" not in line
