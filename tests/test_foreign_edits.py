"""What other programs publish: read as an edit, written as they do, and refused in one line where it is
neither."""
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vision_unlearning.core import ForeignFileError
from vision_unlearning.models.tiny import tiny_pipeline
from vision_unlearning.unlearners.base import Edit, base_tensors, editable_tensors, load_edit
from vision_unlearning.unlearners.between import edit_between
from vision_unlearning.unlearners.diffusion.foreign import FORMS, import_edit
from vision_unlearning.unlearners.diffusion.formats import merge_edit
from vision_unlearning.unlearners.diffusion.lora import LoraEdit, adapter_edit, trainable_adapter
from vision_unlearning.unlearners.diffusion.uce import UCE

KEYS = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONVOLUTION = "mid_block.resnets.0.conv1"
WORDS = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def tiny(): return tiny_pipeline()


@pytest.fixture(scope="module")
def uce(tiny): return UCE().unlearn(tiny, "red")


@pytest.fixture(scope="module")
def lora(tiny):
    with trainable_adapter(tiny.unet, 2, 6.) as (parameters, config):
        for p in parameters: p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        return adapter_edit(tiny.unet, config, {"method": "test"})


def same(found: Edit, wanted: Edit):
    assert found.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(found.tensors[n], t) for n, t in wanted.tensors.items())


def noise(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_lora_comes_back_factor_by_factor(tiny, lora, tmp_path):
    for form in ("kohya", "diffusers", "spm"):
        found = import_edit(lora.export(form, tmp_path/f"{form}.safetensors"), tiny)
        assert isinstance(found, LoraEdit) and found.info["adapter"]["lora_alpha"] == 6
        same(found, lora)
    lora.save_pretrained(tmp_path/"folder")
    (tmp_path/"folder"/"edit.json").unlink()
    found = import_edit(tmp_path/"folder", tiny)
    same(found, lora)
    assert found.info["adapter"]["lora_alpha"] == 6


def test_a_lora_as_weights_is_what_it_merges_to(tiny, lora, tmp_path):
    same(import_edit(lora.export("esd", tmp_path/"x.safetensors", tiny), tiny), merge_edit(lora, tiny))
    with pytest.raises(ValueError, match="use 'esd'"): lora.export("uce", tmp_path/"x.safetensors", tiny)
    with pytest.raises(ValueError, match="give model="): lora.export("esd", tmp_path/"x.safetensors")


def test_folders_of_a_pipeline_and_its_parts(tiny, uce, tmp_path):
    with uce.on(tiny):
        tiny.save_pretrained(tmp_path/"pipe")
        tiny.to(torch.float32)
    for name in ("pipe", "pipe/unet"): same(import_edit(tmp_path/name, tiny), uce)
    uce.save_pretrained(tmp_path/"edit")
    same(import_edit(tmp_path/"edit", tiny), uce)
    with pytest.raises(ValueError, match="nothing differs"): import_edit(tmp_path/"pipe/text_encoder", tiny)


def test_an_erased_text_encoder(tiny, tmp_path):
    erased = tiny_pipeline()
    name = next(n for n in editable_tensors(erased) if n.startswith("text_encoder") and "q_proj.weight" in n)
    with torch.no_grad(): editable_tensors(erased)[name].mul_(2)
    erased.text_encoder.save_pretrained(tmp_path/"words")
    before = {n: t.clone() for n, t in base_tensors(tiny).items()}
    for source in (tmp_path/"words", tmp_path/"words"/"model.safetensors"):
        found = import_edit(source, tiny)
        assert list(found.tensors) == [name]
        found.save_pretrained(tmp_path/"kept")
        kept = load_edit(tmp_path/"kept")
        with kept.on(tiny):
            assert kept.is_live(tiny) and torch.equal(editable_tensors(tiny)[name], before[name]*2)
        assert all(torch.equal(t, before[n]) for n, t in editable_tensors(tiny).items())
    with pytest.raises(ValueError, match="save the pipeline"): found.export("esd", tmp_path/"x.safetensors")


def test_two_edits_of_one_text_encoder_add_up_and_leave_in_any_order(tiny):
    name = next(n for n in editable_tensors(tiny) if n.startswith("text_encoder") and "q_proj.weight" in n)
    plain = editable_tensors(tiny)[name].detach().clone()
    edits = []
    for step in (1, 2):
        other = tiny_pipeline()
        with torch.no_grad(): editable_tensors(other)[name].add_(step)
        edits.append(edit_between(tiny, other))
    for edit in edits: edit.attach(tiny)
    assert torch.allclose(editable_tensors(tiny)[name], plain + 3, atol=1e-6)
    for edit in edits: edit.detach(tiny)
    assert torch.equal(editable_tensors(tiny)[name], plain)


def test_kohya_with_convolution_text_encoder_and_alphas_of_its_own(tiny, tmp_path):
    def factors(name, up, down, alpha):
        return {
            f"{name}.lora_up.weight": up,
            f"{name}.lora_down.weight": down,
            f"{name}.alpha": torch.tensor(alpha),
        }
    weights = base_tensors(tiny)
    words = next(
        n for n in weights if n.startswith("text_encoder") and "layers.0" in n and "q_proj.weight" in n
    )
    keys, convolution = weights[f"{KEYS}.weight"], weights[f"{CONVOLUTION}.weight"]
    k = noise(len(keys), 2), noise(2, keys.shape[1])
    c = noise(len(convolution), 2, 1, 1), noise(2, *convolution.shape[1:])
    t = noise(len(weights[words]), 2), noise(2, weights[words].shape[1])
    def under(name): return name.replace(".", "_")
    tensors = factors(f"lora_unet_{under(KEYS)}", *k, 1.)
    tensors |= factors(f"lora_unet_{under(CONVOLUTION)}", *c, 4.)
    tensors |= factors(f"lora_te_{under(WORDS)}", *t, 2.)
    save_file(tensors, tmp_path/"kohya.safetensors")
    found = import_edit(tmp_path/"kohya.safetensors", tiny)
    assert set(found.tensors) == {f"{KEYS}.weight", f"{CONVOLUTION}.weight", words}
    wanted = convolution + 2*torch.einsum("or,rihw->oihw", c[0][:, :, 0, 0], c[1])
    assert torch.allclose(found.tensors[f"{CONVOLUTION}.weight"], wanted, atol=1e-5)
    assert torch.allclose(found.tensors[f"{KEYS}.weight"], keys + k[0] @ k[1]/2, atol=1e-5)
    assert torch.allclose(found.tensors[words], weights[words] + t[0] @ t[1], atol=1e-5)


def test_a_spm_file_keeps_its_alpha(tiny, tmp_path):
    weight, name = base_tensors(tiny)[f"{KEYS}.weight"], f"lora_unet_{KEYS.replace('.', '_')}"
    up, down = noise(len(weight), 1), noise(1, weight.shape[1])
    tensors = {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(0.5),
    }
    save_file(tensors, tmp_path/"spm.safetensors", metadata={"project": "SPM"})
    found = merge_edit(import_edit(tmp_path/"spm.safetensors", tiny), tiny)
    assert torch.allclose(found.tensors[f"{KEYS}.weight"], weight + up @ down/2, atol=1e-6)


def test_a_spm_file_says_which_prompts_it_opens_for(tiny, lora, tmp_path):
    about = LoraEdit(lora.tensors, lora.info | {"forget": ["red apple", "fox"]})
    with safe_open(about.export("spm", tmp_path/"x.safetensors"), "pt") as file: head = file.metadata()
    assert (head["prompts"], head["rank"], head["alpha"]) == ("red apple,fox", "2", "6.0")
    about.info["forget"] = ["fox, red"]
    with pytest.raises(ValueError, match="separates prompts by commas"):
        about.export("spm", tmp_path/"y.safetensors")
    assert not (tmp_path/"y.safetensors").exists()


def test_a_folder_of_pickles_says_how_to_convert_them(tiny, tmp_path):
    (tmp_path/"config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (tmp_path/"diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ForeignFileError, match="pytorch_model.bin is a pickle.*save_file"):
        import_edit(tmp_path, tiny)


def test_what_is_not_known_is_one_line(tiny, uce, lora, tmp_path):
    def refused(source, words, kind=ForeignFileError):
        with pytest.raises(kind, match=words) as caught: import_edit(source, tiny)
        assert "\n" not in str(caught.value)
    (tmp_path/"x.pt").write_bytes(b"x")
    (tmp_path/"x.safetensors").write_bytes(b"x")
    refused(tmp_path/"x.pt", "is a pickle")
    refused(tmp_path/"x.safetensors", "no readable safetensors")
    refused(tmp_path/"nowhere", "does not exist", FileNotFoundError)
    save_file({"a.b": torch.zeros(1)}, tmp_path/"odd.safetensors")
    refused(tmp_path/"odd.safetensors", "nothing known: it holds a.b; known are")
    (tmp_path/"empty").mkdir()
    refused(tmp_path/"empty", "nothing known")
    factors = load_file(lora.export("kohya", tmp_path/"k.safetensors"))
    first = next(iter(factors)).split(".")[0]
    save_file(factors | {f"{first}.dora_scale": torch.ones(1)}, tmp_path/"dora.safetensors")
    refused(tmp_path/"dora.safetensors", "no plain LoRA: .*dora_scale")
    other = tiny_pipeline(family="sdxl")
    for form in FORMS:
        path = UCE().unlearn(other, "red").export(form, tmp_path/f"{form}.safetensors", other)
        refused(path, "is of another model")
