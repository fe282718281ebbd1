"""A model that a user brings: one file, half precision, offloaded, and the machine it runs on."""
import shutil

import accelerate
import pytest
import torch
from safetensors.torch import save_file

from vision_unlearning.core import ForeignFileError, usable_device
from vision_unlearning.models.pipelines import fast_dtype, load_pipeline
from vision_unlearning.models.single_file import save_single_file
from vision_unlearning.models.tiny import tiny_pipeline
from vision_unlearning.unlearners.diffusion.uce import UCE


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
    save_single_file(pipe, path)
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
    save_single_file(tiny_pipeline(), tmp_path/"whole.safetensors")
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
