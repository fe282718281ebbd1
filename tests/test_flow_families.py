"""Stable Diffusion 3 and Flux beside the UNets: how they are noised and walked, where texts enter them,
and that an edit of them is an edit like any other."""
import numpy as np
import pytest
import torch

from vision_unlearning.core import initial_latents
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.models import load_pipeline, tiny_pipeline
from vision_unlearning.models.conditioning import condition, empty_condition, predict
from vision_unlearning.models.families import STATED, Family, denoiser, family_of, get_family
from vision_unlearning.models.flux import unpack_latents
from vision_unlearning.models.noise_levels import flow_levels
from vision_unlearning.models.sampling import check_drawing, latent_shape, require_schedule, sample
from vision_unlearning.models.tiny import tiny_flux, tiny_t5
from vision_unlearning.unlearners.base import WeightEdit, attached, load_edit
from vision_unlearning.unlearners.between import what_changed
from vision_unlearning.unlearners.diffusion.esd import rollout
from vision_unlearning.unlearners.diffusion.foreign import import_edit
from vision_unlearning.unlearners.diffusion.inputs import diffusion_batch
from vision_unlearning.unlearners.diffusion.lora import adapter_edit, trainable_adapter
from vision_unlearning.unlearners.diffusion.uce import UCE, apply_matrix, text_gap

pytestmark = pytest.mark.long

FLOWS = ("tiny-sd3", "tiny-flux")
flows = pytest.mark.parametrize("name", FLOWS)
PROMPTS = ["An image of fox", "An image of wolf"]


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def picture(pipe, **how):
    how = dict(prompt=PROMPTS[:1], num_inference_steps=2, guidance_scale=3., output_type="np") | how
    return sample(pipe, [42], PROMPTS[:1], **how).images


@flows
def test_a_batch_is_noised_by_hand(name):
    pipe = load_pipeline(name)
    z = torch.randn(3, *latent_shape(pipe), generator=seeded(1))
    noised, times, target = diffusion_batch(pipe.scheduler, z, seeded())
    by_hand = seeded()
    index = torch.randint(0, 1000, (3,), generator=by_hand)
    noise, sigma = torch.randn(z.shape, generator=by_hand), flow_levels(pipe.scheduler)[index]
    assert torch.equal(target, noise - z) and torch.equal(times, 1000 * sigma)
    share = sigma[:, None, None, None]
    assert torch.equal(noised, (1 - share) * z + share * noise)


@flows
def test_a_walk_is_the_pipelines_own(name):
    "The points of a trajectory are the latents of the pipeline's own call, and their targets those of ESD."
    pipe, steps, scale, eta = load_pipeline(name), 3, 4., 2.
    network, text, empty = denoiser(pipe), condition(pipe, PROMPTS[:1]), empty_condition(pipe)
    def frozen(*args): return predict(network, *args)
    walk = dict(num_inference_steps=steps, guidance_scale=scale, negative_guidance=eta)
    points = rollout(pipe, frozen, text, empty, empty, generator=seeded(), **walk)
    seen = []
    def note(module, args, kwargs, output): seen.append(kwargs["hidden_states"][-1:])
    handle = network.register_forward_hook(note, with_kwargs=True)
    noise = torch.randn((1, *latent_shape(pipe)), generator=seeded())
    how = dict(num_inference_steps=steps, guidance_scale=scale, output_type="latent")
    with torch.no_grad(): family_of(pipe).call(pipe, noise, prompt=PROMPTS[:1], **how)
    handle.remove()
    for point, shown in zip(points.inputs, seen, strict=True):
        if name == "tiny-flux": shown = unpack_latents(shown, 8, 8)
        assert (point - shown[0]).abs().max() < 1e-5
    def said(asked): return predict(network, points.inputs, points.times, asked.guided(scale).expand(steps))
    with torch.no_grad(): ends = [said(asked) for asked in (text, empty)]
    by_hand = ends[1] - eta * (ends[0] - ends[1])
    assert (points.targets - by_hand).abs().max() < 1e-5


@flows
def test_seed_and_prompt_say_where_a_picture_starts(name):
    pipe = load_pipeline(name)
    together = generate_array(pipe, [42, 43], PROMPTS, num_inference_steps=3, batch_size=2).astype(int)
    alone = generate_array(pipe, [42, 43], PROMPTS, num_inference_steps=3, batch_size=1)
    assert np.abs(together - alone).max() <= 1 < np.abs(together[0] - together[1]).max()
    start = initial_latents([42], PROMPTS[:1], latent_shape(pipe))
    seen = []
    handle = denoiser(pipe).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"][-1:]), with_kwargs=True
    )
    picture(pipe)
    handle.remove()
    assert torch.equal(seen[0].flatten().sort().values, start.flatten().sort().values)


def place_edits(pipe):
    "Edits of the tokens' place and of the pooled text's, each alone."
    strong = dict(erase_scale=1e3, retain_weight=1e3, lamb=1e-3)
    method, network = UCE(anchor_concept="wolf", expand_prompts=False, **strong), denoiser(pipe)
    def made_for(reads): return apply_matrix(network, method.matrix(pipe, "fox", ["wolf"], reads), reads)
    made = {reads: made_for(reads) for reads in ("tokens", "pooled")}
    return made | {"both": made["tokens"] | made["pooled"]}


@pytest.mark.parametrize("name", ("tiny-sdxl", *FLOWS))
def test_what_leaks_through_each_place(name):
    "A text is forgotten where it enters everywhere; one place alone still tells it."
    pipe = load_pipeline(name)
    told, wanted = (condition(pipe, [prompt]) for prompt in PROMPTS)
    before, left = text_gap(pipe, told, wanted), {}
    for way, tensors in place_edits(pipe).items():
        with WeightEdit(tensors).on(pipe): left[way] = text_gap(pipe, told, wanted) / before
    assert left["both"] < .01 < min(left["tokens"], left["pooled"]), left


@flows
def test_uce_edits_every_place_and_biases_cancel(name):
    """The closed form against numpy, from the layers' whole answers: with the bias kept, least squares on
    answers is what it is without any bias."""
    pipe = load_pipeline(name)
    method, network, kept = UCE(expand_prompts=False), denoiser(pipe), ["red apple", "wolf"]
    edit = method.unlearn(pipe, "fox", kept)
    places = family_of(pipe).places(network)
    assert set(edit.tensors) == {n for place in places for n in place.weights}
    for place in places:
        (weight_name, weight), = place.weights.items()
        layer = network.get_submodule(weight_name.removesuffix(".weight"))
        c, g, p = (x.double().numpy() for x in method.system(pipe, "fox", kept, place.reads))
        w, b = weight.detach().numpy().astype(float), layer.bias.detach().numpy().astype(float)
        assert np.abs(b).max() > 0
        answers = np.concatenate([g @ w.T + b, p @ w.T + b])
        inputs = np.concatenate([c, p])
        pull = np.eye(w.shape[1])
        right = (answers - b).T @ inputs + method.lamb * w
        solved = right @ np.linalg.inv(inputs.T @ inputs + method.lamb * pull)
        assert np.abs(solved - edit.tensors[weight_name].numpy()).max() < 1e-4


@flows
def test_what_changed_knows_the_places(name):
    pipe = load_pipeline(name)
    table = what_changed(UCE().unlearn(pipe, "fox"), pipe)
    assert set(table["kind"]) == {"text embedding"} and table["changed"].sum() == 2


def lora_of(pipe, seed):
    "A LoRA with both factors drawn at random."
    network = denoiser(pipe)
    with trainable_adapter(network, 2, 4., seeded(seed)) as (parameters, config):
        for p in parameters: p.data.normal_(0, .2, generator=seeded(seed))
        return adapter_edit(network, config, {"method": "test"})


@flows
def test_lora_loads_in_plain_diffusers(name, tmp_path):
    pipe = load_pipeline(name)
    edit = lora_of(pipe, 1)
    edit.save_pretrained(tmp_path / "edit")
    with load_edit(tmp_path / "edit").on(pipe): ours = picture(pipe)
    other = load_pipeline(name)
    plain = picture(other)
    other.load_lora_weights(tmp_path / "edit")
    theirs = picture(other)
    assert np.abs(ours - theirs).max() < 1e-4 < np.abs(ours - plain).max()
    written = edit.export("diffusers", tmp_path / "lora.safetensors", pipe)
    read = import_edit(written, pipe)
    assert all(torch.equal(t, edit.tensors[n]) for n, t in read.tensors.items()) and read.kind == "lora"
    with pytest.raises(ValueError, match="call the layers of transformers otherwise"):
        edit.export("kohya", tmp_path / "other.safetensors", pipe)


@flows
def test_edits_stack_and_come_off_in_any_order(name):
    pipe = load_pipeline(name)
    before = {n: t.clone() for n, t in denoiser(pipe).state_dict().items()}
    plain = picture(pipe)
    first, second, third = UCE().unlearn(pipe, "fox"), UCE().unlearn(pipe, "wolf"), lora_of(pipe, 2)
    drawn = []
    for order in ([first, second, third], [third, second, first]):
        for edit in order: edit.attach(pipe)
        drawn.append(picture(pipe))
        assert attached(pipe) == order
        for edit in (second, first, third): edit.detach(pipe)
        assert all(torch.equal(before[n], t) for n, t in denoiser(pipe).state_dict().items())
    assert np.abs(drawn[0] - drawn[1]).max() < 1e-4 < np.abs(drawn[0] - plain).max()
    assert np.array_equal(picture(pipe), plain)


def test_t5_is_a_row_of_its_own():
    "With T5, Stable Diffusion 3 reads a name twice, and closed forms edit both places."
    pipe = tiny_pipeline(family="sd3")
    without = UCE().unlearn(pipe, "fox", ["wolf"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.text_encoder_3, pipe.tokenizer_3 = tiny_t5(pipe.tokenizer, 64)
    text = condition(pipe, PROMPTS)
    assert [(row.start, row.length) for row in family_of(pipe).rows(pipe)] == [(0, 24), (24, 256)]
    differs = (text.prompt_embeds[0] != text.prompt_embeds[1]).any(-1).nonzero().flatten().tolist()
    assert differs[0] == 4 and 24 in differs
    edit = UCE().unlearn(pipe, "fox", ["wolf"])
    assert set(edit.tensors) == set(without.tensors)
    name = "context_embedder.weight"
    assert not torch.equal(edit.tensors[name], without.tensors[name])


def test_schnell_is_guided_by_the_empty_text():
    "Without a guidance that the network is told, guidance_scale is a true one; up to 1 there is none."
    pipe = tiny_flux(guidance_embeds=False)
    assert not family_of(pipe).distilled(pipe) and condition(pipe, PROMPTS).guidance is None
    calls = []
    handle = denoiser(pipe).register_forward_pre_hook(lambda module, args: calls.append(1))
    weak, strong = picture(pipe, guidance_scale=1.), picture(pipe, guidance_scale=6.)
    handle.remove()
    assert len(calls) == 2 + 4 and np.abs(weak - strong).max() > 1 / 255


def test_a_schedule_of_another_kind_is_refused_by_name():
    flow, unet = load_pipeline("tiny-sd3"), load_pipeline("tiny")
    flow.scheduler, unet.scheduler = unet.scheduler, flow.scheduler
    for check, pipe, line in (
        (check_drawing, flow, "DDIMScheduler does not fit a flow transformer"),
        (require_schedule, flow, "DDIMScheduler is not for Stable Diffusion 3"),
        (check_drawing, unet, "FlowMatchEulerDiscreteScheduler does not fit"),
        (require_schedule, unet, "FlowMatchEulerDiscreteScheduler has no alphas"),
    ):
        with pytest.raises(ValueError, match=line): check(pipe)


def test_what_is_remembered_is_never_stale():
    "Levels are those of the configuration as it is now, a family that of the denoiser that is there now."
    pipe, other = load_pipeline("tiny-sd3"), load_pipeline("tiny-flux")
    first = flow_levels(pipe.scheduler)
    assert flow_levels(pipe.scheduler) is first
    pipe.scheduler.register_to_config(shift=1.)
    assert (flow_levels(pipe.scheduler) - torch.arange(1, 1001) / 1000).abs().max() < 1e-6
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=3.)
    assert torch.equal(flow_levels(pipe.scheduler), first)
    pipe.transformer = other.transformer
    assert family_of(pipe).family == "flux" and family_of(pipe.transformer) is family_of(other)
    for label in ("as it was first", "as it is now"):
        made = type("Lesson", (Family,), dict(family="lesson", network="Lesson", label=label))
        made.__abstractmethods__ = frozenset()
        found = get_family("lesson").label
        del STATED["lesson"]
        assert found == label
    with pytest.raises(ValueError, match="lesson"): get_family("lesson")
