"""EraseAnything on flow transformers, each term against numpy: attention from the weights alone, with norms
and rotations; targets from single evaluations; contrast from the maps."""
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from vision_unlearning.data.splits import make_split
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.conditioning import condition, empty_condition, predict
from vision_unlearning.models.families import denoiser, family_of
from vision_unlearning.models.looking import predict_looking, word_columns
from vision_unlearning.models.sampling import latent_shape
from vision_unlearning.unlearners.diffusion.erase_anything import (
    EraseAnything,
    EraseLosses,
    attention_loss,
    contrast_loss,
    word_map,
)
from vision_unlearning.unlearners.diffusion.inputs import encode_dataset
from vision_unlearning.unlearners.diffusion.lora import trainable_adapter

flows = pytest.mark.parametrize("name", ("tiny-sd3", "tiny-flux"))
WORDS = ["fox", "red apple", "wolf"]
SENTENCE = "An image of {}"


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def linear(layer, x): return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def heads(layer, x, norm):
    "(B,H,S,d) queries or keys: a head apart, each divided by its root mean square."
    x = x.reshape(*x.shape[:2], layer.heads, -1).transpose(0, 2, 1, 3)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.eps) * norm.weight.detach().numpy()


def turned(x, places, axes=(2, 2, 4)):
    "Pairs of numbers as complex ones, turned by the place (S,3) that they stand at."
    speed = [1 / 10000 ** (np.arange(0, width, 2) / width) for width in axes]
    angle = np.concatenate([places[:, i : i + 1] * s for i, s in enumerate(speed)], 1)
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    whole = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle)
    return np.stack([whole.real, whole.imag], -1).reshape(x.shape)


def by_hand(name, layer, picture, text):
    "(B,H,P,L) what places give to words, of all that they give."
    query = heads(layer, linear(layer.to_q, picture), layer.norm_q)
    words = heads(layer, linear(layer.add_k_proj, text), layer.norm_added_k)
    places = heads(layer, linear(layer.to_k, picture), layer.norm_k)
    if name == "tiny-flux":
        side = int(picture.shape[1] ** 0.5)
        stand = np.array([[0, row, column] for row in range(side) for column in range(side)])
        query, places = turned(query, stand), turned(places, stand)
    key = np.concatenate([words, places], 2)
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
    return softmax(scores, -1)[..., : text.shape[1]]


def looked(name):
    "Maps of a tiny transformer at one noise for three words: ours, and those by hand."
    pipe = load_pipeline(name)
    network = denoiser(pipe)
    noise = torch.randn(1, *latent_shape(pipe), generator=seeded()).expand(3, -1, -1, -1)
    text = condition(pipe, [SENTENCE.format(word) for word in WORDS])
    kept = []
    def keep(layer, args, kwargs):
        kept.append((layer, kwargs["hidden_states"], kwargs["encoder_hidden_states"]))
    layers = family_of(pipe).readers(network).values()
    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    with torch.no_grad(): _, maps = predict_looking(network, noise, torch.tensor([600.]).expand(3), text)
    for handle in handles: handle.remove()
    return pipe, maps, [by_hand(name, layer, p.numpy(), t.numpy()) for layer, p, t in kept]


def stands(pipe, word):
    "Which columns are a word's, by the tokenizer of the pipeline alone."
    flux = family_of(pipe).family == "flux"
    tokenizer = pipe.tokenizer_2 if flux else pipe.tokenizer
    def count(text): return len(tokenizer(text, add_special_tokens=False).input_ids)
    first = count("An image of") + (not flux)
    return list(range(first, first + count(f"An image of {word}") - count("An image of")))


@flows
def test_the_attention_term(name):
    pipe, maps, hand = looked(name)
    columns = word_columns(pipe, SENTENCE, WORDS, hand[0].shape[-1])
    for i, word in enumerate(WORDS):
        assert columns[i].nonzero().flatten().tolist() == stands(pipe, word)
        wanted = np.mean([
            np.mean((found.shape[-1] * said[i, ..., stands(pipe, word)]) ** 2)
            for found, said in zip(maps, hand)
        ])
        ours = attention_loss([layer[i : i + 1] for layer in maps], columns[i])
        assert abs(float(ours) - wanted) < 1e-4 * wanted


@flows
def test_the_contrastive_term(name):
    "The fox with the apple for a synonym and the wolf for something else."
    pipe, maps, hand = looked(name)
    columns = word_columns(pipe, SENTENCE, WORDS, hand[0].shape[-1])
    flat = []
    for i, word in enumerate(WORDS):
        parts = [m.shape[-1] * said[i, ..., stands(pipe, word)].mean((0, 1)) for m, said in zip(maps, hand)]
        whole = np.concatenate(parts)
        flat.append(whole / np.linalg.norm(whole))
    wanted = log_softmax(np.array([flat[0] @ flat[1], flat[0] @ flat[2]]) / .07)[0]
    ours = [word_map([layer[i : i + 1] for layer in maps], columns[i]) for i in range(3)]
    assert abs(float(contrast_loss(ours[0], torch.stack(ours[1:]), .07)) - wanted) < 1e-3


@pytest.fixture(params=("tiny-sd3", "tiny-flux"))
def losses(request):
    "The losses of a fresh adapter, of two concepts."
    pipe, (_, retain) = load_pipeline(request.param), make_split("emoji", "fox", per_entity=1)
    method = EraseAnything(num_inference_steps=2, rollout_batch_size=2, negative_guidance=1.5)
    pictures, network = encode_dataset(pipe, retain.select(range(3))), denoiser(pipe)
    with trainable_adapter(network, 2, 2., seeded(), family_of(pipe).matches):
        yield EraseLosses(method, pipe, network, ["fox", "wolf"], ["key", "crab"], pictures, seeded())


def test_velocity_targets(losses):
    points = next(losses.pools["erase 1"])
    def said(text): return losses.frozen(points.inputs, points.times, text.guided(3.).expand(len(points)))
    concept = said(condition(losses.pipe, ["An image of wolf"])).numpy()
    nothing = said(empty_condition(losses.pipe)).numpy()
    wanted = nothing - 1.5 * (concept - nothing)
    assert np.abs(points.targets.numpy() - wanted).max() < 1e-4 < np.abs(wanted - nothing).max()


def test_levels_and_concepts_take_turns(losses):
    "Erase, hold, erase the next one, hold; each with its own terms, and the velocity of retained pictures."
    asked = []
    def note(level): return lambda i: asked.append((level, i)) or {}
    losses.levels = [note("erase"), note("hold")]
    for step in range(6): losses(step, 0)
    assert asked == [(level, i) for i in (0, 1, 0) for level in ("erase", "hold")]
    assert set(losses.erase(0)) == {"erase", "attention"} and set(losses.hold(0)) == {"retain", "contrast"}


def test_the_adapter_learns_through_the_columns(losses):
    "The gradient of the attention term reaches the text's keys, and none reaches the picture's own side."
    points = next(losses.pools["erase 0"])
    at = points.inputs, points.times, points.embeddings
    _, layers = predict_looking(losses.network, *at)
    attention_loss(layers, losses.concepts.columns[0]).backward()
    moved = {n.split(".lora_")[0].rpartition(".")[2] for n, p in losses.network.named_parameters()
             if p.grad is not None and p.grad.abs().sum() > 0}
    assert "add_k_proj" in moved and moved <= {"add_q_proj", "add_k_proj"}
    with torch.no_grad(): plain = predict(losses.network, *at)
    assert torch.equal(plain, losses.frozen(*at))
