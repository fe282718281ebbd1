"""A LoRA on text encoders is an edit like one on the denoiser: trained, saved, loaded by plain diffusers,
added, exported, and refused by name where it has no place."""
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.splits import make_split
from vision_unlearning.models import load_pipeline, tiny_pipeline
from vision_unlearning.models.families import denoiser
from vision_unlearning.models.sampling import sample
from vision_unlearning.models.tiny import tiny_t5
from vision_unlearning.unlearners.base import attached, base_tensors, editable_tensors, get_method, load_edit
from vision_unlearning.unlearners.between import edit_between
from vision_unlearning.unlearners.diffusion.fade import FADE
from vision_unlearning.unlearners.diffusion.foreign import import_edit
from vision_unlearning.unlearners.diffusion.formats import merge_edit
from vision_unlearning.unlearners.diffusion.lora import (
    TARGETS,
    TEXT_TARGETS,
    LoraEdit,
    adapter_edit,
    by_component,
    clip_towers,
    trainable_adapter,
)
from vision_unlearning.unlearners.diffusion.sums import sum_edits
from vision_unlearning.unlearners.diffusion.training import joined_adapters

# Left out of `make quick`.
pytestmark = pytest.mark.long

PROMPTS = ["An image of fox"]
FAMILIES = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-flux")
everywhere = pytest.mark.parametrize("name", FAMILIES)


def drawn(network, ends, part, seed):
    noise = torch.Generator().manual_seed(seed)
    with trainable_adapter(network, 2, 6., noise, ends) as (parameters, config):
        for p in parameters: p.data.normal_(0, .3, generator=noise)
        return adapter_edit(network, config, {"method": "test"}, part=part)


def lora_of(pipe, seed=1, whole=True):
    "A LoRA with random factors on every CLIP tower, and on the denoiser; its alpha is three times its rank."
    edits = [drawn(tower, TEXT_TARGETS, part, seed) for part, tower in clip_towers(pipe).items()]
    if whole: edits.append(drawn(denoiser(pipe), TARGETS, "", seed))
    return joined_adapters(edits)


def picture(pipe):
    how = dict(prompt=PROMPTS, num_inference_steps=2, guidance_scale=3., output_type="np")
    return sample(pipe, [42], PROMPTS, **how).images


def state(pipe):
    "Names and bits of every tensor, and what lies on the modules."
    towers = clip_towers(pipe).values()
    tensors = {n: t.clone() for n, t in editable_tensors(pipe).items()}
    return tensors, [sorted(vars(m)) for tower in towers for m in tower.modules()]


def same(a, b):
    return (
        a[1] == b[1] and a[0].keys() == b[0].keys() and all(torch.equal(t, b[0][n]) for n, t in a[0].items())
    )


@everywhere
@pytest.mark.parametrize("whole", [False, True])
def test_plain_diffusers_draws_the_same_picture(name, whole, tmp_path):
    pipe = load_pipeline(name)
    plain = picture(pipe)  # before the state: the first call leaves a mark of transformers on its modules
    before = state(pipe)
    edit = lora_of(pipe, whole=whole)
    assert same(state(pipe), before)
    assert set(by_component(edit.tensors)) >= set(clip_towers(pipe))
    edit.save_pretrained(tmp_path/"edit")
    loaded = load_edit(tmp_path/"edit")
    with loaded.on(pipe):
        assert attached(pipe) == [loaded] and loaded.is_live(pipe)
        ours = picture(pipe)
    assert same(state(pipe), before) and np.array_equal(picture(pipe), plain)
    sources = [tmp_path/"edit", edit.export("diffusers", tmp_path/"lora.safetensors", pipe)]
    if name in ("tiny", "tiny-sdxl"): sources.append(edit.export("kohya", tmp_path/"k.safetensors", pipe))
    for source in sources:
        other = load_pipeline(name)
        with torch.random.fork_rng(): other.load_lora_weights(source)
        assert np.abs(ours - plain).max() > 1e-3 > 10*np.abs(picture(other) - ours).max(), source
        back = import_edit(source, pipe)
        assert isinstance(back, LoraEdit) and back.tensors.keys() == edit.tensors.keys()
        assert all(torch.equal(t, edit.tensors[n]) for n, t in back.tensors.items())
        assert back.info["adapter"]["lora_alpha"] == 6


@everywhere
def test_it_adds_up_and_is_the_same_as_weights(name):
    pipe = load_pipeline(name)
    one, two = lora_of(pipe, 1), lora_of(pipe, 2)
    with one.on(pipe), two.on(pipe): wanted = picture(pipe)
    with two.on(pipe), one.on(pipe): assert np.abs(picture(pipe) - wanted).max() < 1e-4
    both = sum_edits([one, two], pipe)
    assert both.kind == "lora"
    for edit in (both, merge_edit(both, pipe)):
        with edit.on(pipe): assert np.abs(picture(pipe) - wanted).max() < 1e-3
    other = load_pipeline(name)
    folded = merge_edit(one, pipe)
    with torch.no_grad():
        for n, t in folded.tensors.items(): editable_tensors(other)[n].copy_(t)
    found = edit_between(pipe, other)
    assert found.tensors.keys() == folded.tensors.keys()
    assert all(torch.equal(t, folded.tensors[n]) for n, t in found.tensors.items())


@everywhere
def test_fade_trains_the_towers_too(name):
    pipe = load_pipeline(name)
    forget, retain = (side.select(range(2)) for side in make_split("emoji", "fox", per_entity=1))
    picture(pipe)
    before, base = state(pipe), {n: t.clone() for n, t in base_tensors(pipe).items()}
    made = dict(num_train_epochs=2, learning_rate=.05, rank=2, lora_alpha=4., train_batch_size=2)
    method = FADE(train_text_encoder=True, **made)
    edit = method.unlearn(pipe, forget, retain, generator=torch.Generator().manual_seed(0))
    assert same(state(pipe), before)
    assert set(by_component(edit.tensors)) == {*clip_towers(pipe), next(iter(by_component(edit.tensors)))}
    moved = {
        n.split(".")[0] for n, t in merge_edit(edit, pipe).tensors.items() if not torch.equal(t, base[n])
    }
    assert moved >= set(clip_towers(pipe)), "every tower learned"
    alone = FADE(**made).unlearn(pipe, forget, retain, generator=torch.Generator().manual_seed(0))
    assert not set(by_component(alone.tensors)) & set(clip_towers(pipe))


def test_what_diffusers_scripts_write_is_read(tmp_path):
    pipe = tiny_pipeline()
    edit = lora_of(pipe, whole=False)
    old = {"lora_A": "lora_linear_layer.down", "lora_B": "lora_linear_layer.up"}
    def spelt(name): return name.replace("lora_A", old["lora_A"]).replace("lora_B", old["lora_B"])
    save_file({spelt(n): t for n, t in edit.tensors.items()}, tmp_path/"x.safetensors")
    back = import_edit(tmp_path/"x.safetensors", pipe)
    assert back.tensors.keys() == edit.tensors.keys() and back.info["adapter"]["lora_alpha"] == 2


def test_kohya_names_one_tower_and_two(tmp_path):
    for family, names in (("sd1", {"lora_te"}), ("sdxl", {"lora_te1", "lora_te2"})):
        pipe = tiny_pipeline(family=family)
        path = lora_of(pipe, whole=False).export("kohya", tmp_path/f"{family}.safetensors", pipe)
        keys = load_file(path)
        assert {k.partition("_text_model_")[0] for k in keys} == names


def test_refused_in_one_line(tmp_path):
    pipe = tiny_pipeline()
    edit = lora_of(pipe, whole=False)
    with pytest.raises(TypeError, match="give the whole pipeline"): edit.attach(pipe.unet)
    other = tiny_pipeline(family="sd3")  # whose tower is of another class, with other names
    with pytest.raises(ForeignFileError, match="another model"): edit.attach(other)
    with edit.on(pipe), pytest.raises(ValueError, match="save the edit"):
        pipe.save_pretrained(tmp_path/"pipe")
    pipe.text_encoder.compile(backend="eager")
    with pytest.raises(ValueError, match="LoRA of the text_encoder would have no effect"): edit.attach(pipe)
    flux = tiny_pipeline(family="flux")
    t5 = {"text_encoder_2.encoder.block.0.layer.0.SelfAttention.q": (2, 32)}
    tensors = {}
    for name, (rank, width) in t5.items():
        tensors |= {
            f"{name}.lora_A.weight": torch.ones(rank, width),
            f"{name}.lora_B.weight": torch.ones(16, rank),
        }
    save_file(tensors, tmp_path/"t5.safetensors")
    assert import_edit(tmp_path/"t5.safetensors", flux).kind == "weights"
    with pytest.raises(ForeignFileError, match="no linear layer"): LoraEdit(tensors, edit.info).attach(flux)


@pytest.mark.parametrize("method", ["advunlearn", "stereo", "seot", "receler"])
def test_what_works_on_clip_refuses_a_pipeline_that_t5_reads_too(method):
    pipe = load_pipeline("tiny-sd3")
    with torch.random.fork_rng(): pipe.text_encoder_3, pipe.tokenizer_3 = tiny_t5(pipe.tokenizer)
    remedy = "read by a T5EncoderModel too; load it without, or take esd"
    with pytest.raises(TypeError, match=f"^{method} .* {remedy}$"):
        get_method(method)().unlearn(pipe, "fox", ["wolf"])
