"""A model that a user brings: one file, half precision, offloaded, and the machine it runs on."""
import shutil

import accelerate
import pytest
import torch
from safetensors.torch import save_file

from vision_unlearning.core import ForeignFileError, usable_device
from vision_unlearning.models.pipelines import fast_dtype, load_pipeline
from vision_unlearning.models.tiny import tiny_pipeline
from vision_unlearning.unlearners.diffusion.uce import UCE

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def block_name(name: str, layers: int) -> str:
    "The first program's name of a tensor inside a block of the UNet."
    side, *rest = name.split(".")
    if side == "mid_block":
        place = {"resnets": 2*int(rest[1]), "attentions": 1}[rest[0]]
        old, inside = f"middle_block.{place}", rest[2:]
        kind = rest[0]
    else:
        block, kind, number = int(rest[0]), rest[1], int(rest[2])
        inside, each = rest[3:], layers + (side == "up_blocks")
        if kind == "downsamplers": return f"input_blocks.{(block + 1)*(layers + 1)}.0.op.{inside[-1]}"
        if kind == "upsamplers":
            place = 2 if block == 0 else 1
            return f"output_blocks.{block*each + layers}.{place}.conv.{inside[-1]}"
        first = 1 + block*(layers + 1) if side == "down_blocks" else block*each
        old = f"{'input' if side == 'down_blocks' else 'output'}_blocks.{first + number}"
        old += ".0" if kind == "resnets" else ".1"
    if kind == "resnets": inside = [RESNET[inside[0]], *inside[1:]]
    return ".".join([old, *inside])


def unet_file(unet) -> dict:
    "A UNet under the keys of Stable Diffusion's first program."
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
    plain = DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"]
    layers = unet.config.layers_per_block
    named = {n: plain.get(n) or block_name(n, layers) for n in unet.state_dict()}
    return {f"model.diffusion_model.{named[n]}": t for n, t in unet.state_dict().items()}


def vae_name(name: str, blocks: int) -> str:
    "The first program's name of a tensor inside a block of the autoencoder."
    side, block, *rest = name.split(".")
    if block == "mid_block":
        old, rest = f"{side}.mid.block_{int(rest[1]) + 1}", rest[2:]
    else:
        way = "down" if side == "encoder" else "up"
        number = int(rest[0]) if way == "down" else blocks - 1 - int(rest[0])
        old = f"{side}.{way}.{number}"
        if rest[1].endswith("samplers"): return f"{old}.{way}sample.{'.'.join(rest[3:])}"
        old, rest = f"{old}.block.{rest[2]}", rest[3:]
    return ".".join([old, *rest]).replace("conv_shortcut", "nin_shortcut")


def vae_file(vae) -> dict:
    "An autoencoder under the keys of Stable Diffusion's first program."
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
    plain, blocks = DIFFUSERS_TO_LDM_MAPPING["vae"], len(vae.config.block_out_channels)
    named = {n: plain.get(n) or vae_name(n, blocks) for n in vae.state_dict()}
    return {f"first_stage_model.{named[n]}": t for n, t in vae.state_dict().items()}


def write_single_file(pipe, path):
    "A pipeline as one checkpoint."
    words = pipe.text_encoder.state_dict()
    inner = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in words.items()}
    text = {f"cond_stage_model.transformer.{n}": t for n, t in inner.items()}
    tensors = unet_file(pipe.unet) | vae_file(pipe.vae) | text
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, path)


def picture(pipe) -> torch.Tensor:
    "A drawing in two steps."
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(pipe.dtype)
    drawn = pipe("a red fox", latents=noise, num_inference_steps=2, output_type="pt").images
    return drawn.float()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")/"tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


def test_a_single_file_is_the_same_model(saved, tmp_path):
    pipe, path = tiny_pipeline(), tmp_path/"mine.safetensors"
    write_single_file(pipe, path)
    found = load_pipeline(path, config=saved)
    for part in ("unet", "vae", "text_encoder"):
        mine, theirs = getattr(pipe, part).state_dict(), getattr(found, part).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[n], theirs[n]) for n in mine), part
    assert torch.equal(picture(pipe), picture(found))


def test_what_is_no_checkpoint_is_said_in_one_line(saved, tmp_path):
    for name, words in (("a.ckpt", "save_file"), ("a.bin", "is a pickle"), ("a.txt", "ends in .safetensors")):
        (tmp_path/name).write_bytes(b"x")
        with pytest.raises(ForeignFileError, match=words) as caught: load_pipeline(tmp_path/name)
        assert "\n" not in str(caught.value)
    save_file({"x": torch.zeros(1)}, tmp_path/"part.safetensors")
    with pytest.raises(ForeignFileError, match="without a whole model"):
        load_pipeline(tmp_path/"part.safetensors", config=saved)
    write_single_file(tiny_pipeline(), tmp_path/"whole.safetensors")
    tiny_pipeline(family="sd2").save_pretrained(tmp_path/"other")
    with pytest.raises(ForeignFileError, match="same architecture"):
        load_pipeline(tmp_path/"whole.safetensors", config=tmp_path/"other")
    with pytest.raises(ForeignFileError, match="has no model_index.json"):
        load_pipeline(tmp_path/"whole.safetensors", config=tmp_path)
    with pytest.raises(ValueError, match="config is for a single file"): load_pipeline(saved, config=saved)


def test_half_precision_alone_and_beside_the_plain_weights(saved, tmp_path):
    tiny_pipeline().to(torch.float16).save_pretrained(tmp_path/"half", variant="fp16")
    pipe = load_pipeline(tmp_path/"half")
    assert pipe.unet.dtype == torch.float32
    assert float((picture(pipe) - picture(tiny_pipeline())).abs().max()) < 5e-3
    with pytest.raises(ForeignFileError, match="no weights of variant 'fp16'"):
        load_pipeline(saved, variant="fp16")
    both = shutil.copytree(saved, tmp_path/"both")
    shutil.copytree(tmp_path/"half", both, dirs_exist_ok=True)
    plain, half = load_pipeline(both), load_pipeline(both, variant="fp16")
    name, weight = next(iter(tiny_pipeline().unet.state_dict().items()))
    assert torch.equal(plain.unet.state_dict()[name], weight)
    assert torch.equal(half.unet.state_dict()[name], weight.half().float())


def test_bfloat16_draws_nearly_the_same():
    pipe = load_pipeline("tiny", dtype="bfloat16")
    assert float((picture(pipe) - picture(tiny_pipeline())).abs().max()) < .05
    assert torch.equal(UCE().unlearn(pipe, "red").tensors.popitem()[1].isfinite().all(), torch.tensor(True))


def test_offloaded_weights_draw_the_same_and_are_not_edited():
    pipe, plain = tiny_pipeline(), tiny_pipeline()
    edit = UCE().unlearn(plain, "red")
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    assert torch.equal(picture(pipe), picture(plain))
    with pytest.raises(ValueError, match="offloaded layer by layer"): edit.attach(pipe)


def test_auto_is_what_the_machine_has(monkeypatch):
    assert usable_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert usable_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: False)
    assert fast_dtype("cuda") == torch.float16 == fast_dtype("mps")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    assert fast_dtype("cuda") == torch.bfloat16
    pipe = load_pipeline("tiny", device="auto", dtype="auto")
    assert (pipe.unet.device.type, pipe.unet.dtype) == ("cpu", torch.float32)
