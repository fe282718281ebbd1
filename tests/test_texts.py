"Texts as people have them: one name, one place, one meaning; or one line that says why not."
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset

from vision_unlearning.data.dataset import UnlearnDataset
from vision_unlearning.data.splits import image_dataset
from vision_unlearning.explore.neighbours import near_neighbours
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.models import load_pipeline, tiny_pipeline
from vision_unlearning.models.conditioning import condition, embed_texts
from vision_unlearning.models.marks import replaced_tokens, text_encoders
from vision_unlearning.models.places import token_ids, token_span
from vision_unlearning.running.erase import erase, own_pictures
from vision_unlearning.unlearners.base import concepts, get_method
from vision_unlearning.unlearners.diffusion.inputs import encode_dataset
from vision_unlearning.unlearners.diffusion.uce import TEMPLATES, UCE, aligned_positions, pooled_leak

SENTENCES = sorted({*TEMPLATES["object"], *TEMPLATES["art"]})
PAIRS = (("fox", ""), ("monet", "art"), ("port", "object"), ("fox", "photo"), ("fox", "of"))
# methods that learn from names, and those that learn from pictures
BY_NAME = ("uce", "rece", "esd", "spm", "sld", "prompt_filter")
BY_PICTURE = ("distil", "munba", "salun", "erasediff", "lora_negation", "distil_weight")

@pytest.fixture(scope="module")
def pipe(): return tiny_pipeline()

@pytest.fixture(scope="module")
def toy():
    "A pipeline with a textual inversion of three vectors."
    found = tiny_pipeline()
    found.load_textual_inversion({"<toy>": torch.randn(3, 32)}, token="<toy>")
    return found

@pytest.fixture(scope="module")
def pixels(): return np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)

@pytest.fixture(scope="module")
def pictures(pixels): return image_dataset(pixels, ["An image of fox"]*4)

# the place of a concept

@pytest.mark.parametrize("template", SENTENCES)
@pytest.mark.parametrize("concept, guide", PAIRS)
def test_the_place_is_that_of_the_gap(pipe, template, concept, guide):
    mine, theirs = aligned_positions(pipe, template, concept, guide)
    before = len(pipe.tokenizer(template.split("{}")[0], add_special_tokens=False).input_ids)
    ids = lambda name: pipe.tokenizer(template.format(name), padding="max_length", max_length=24).input_ids
    ours, others = ids(concept), ids(guide)
    end, guide_end = ours.index(1, 1), others.index(1, 1)
    assert mine[0] == 1 + before
    assert (end, guide_end) in list(zip(mine, theirs))
    assert all(b == guide_end - 1 for a, b in zip(mine, theirs) if a < end)
    assert all(b == min(guide_end + a - end, 23) for a, b in zip(mine, theirs) if a >= end)

def test_the_last_token_of_no_guide_is_the_beginning_of_the_text(pipe):
    assert aligned_positions(pipe, "An image of {}", "fox", "", "last") == ([4], [0])
    assert aligned_positions(pipe, "artwork by {}", "monet", "art", "last")[1] == [3]

def test_vectors_change_from_the_place_on_and_not_before(pipe):
    for template in SENTENCES:
        text, other = embed_texts(pipe, [template.format("port"), template.format("fox")])
        changed = (text != other).any(-1).nonzero().flatten()
        assert int(changed[0]) == token_span(pipe, template, "port")[0]

def test_textual_inversions_of_several_vectors_take_several_places(toy):
    mine, theirs = aligned_positions(toy, "An image of {}", "<toy>", "object")
    assert list(zip(mine, theirs))[:4] == [(4, 4), (5, 4), (6, 4), (7, 5)]
    assert aligned_positions(toy, "An image of {}", "<toy>", "object", "last")[0] == [6]
    assert len(token_ids(toy, "<toy>")) == 3
    assert dict(near_neighbours(toy, "<toy>", ["wolf", "key"]))

def test_uce_edits_all_vectors_of_a_textual_inversion(toy):
    edit, target, _ = UCE(expand_prompts=False).system(toy, "<toy>", None)
    text = embed_texts(toy, ["An image of <toy>"])[0]
    assert torch.equal(edit[:3], text[4:7])
    assert len(edit) == len(target) == 24 - 4

def test_marks_beside_a_textual_inversion_are_replaced(toy):
    rows = [e.get_input_embeddings().weight[t("fox", add_special_tokens=False).input_ids]
            for t, e in text_encoders(toy)]
    with replaced_tokens(toy, "<toy> x", rows): inside = condition(toy, ["<toy> x"]).prompt_embeds
    assert torch.allclose(inside, condition(toy, ["<toy> fox"]).prompt_embeds, atol=1e-6)

# names

def test_spellings_that_are_read_alike_are_one_name(pipe):
    forms = ["fox", "Fox", "fox ", "fox\n", " fox"]
    assert concepts(forms) == ["fox"]
    assert concepts(["red apple", "red  apple"]) == ["red apple"]
    assert concepts(["caf\u00e9", "cafe\u0301"]) == ["caf\u00e9"]
    once, twice = UCE().unlearn(pipe, "fox"), UCE().unlearn(pipe, forms)
    assert all(torch.equal(t, twice.tensors[n]) for n, t in once.tensors.items())

@pytest.mark.parametrize("name", ["uce", "rece", "esd", "spm"])
def test_a_name_is_not_forgotten_and_kept_in_two_spellings(pipe, name):
    method = get_method(name)
    chosen = method(retain_weight=1.) if name == "esd" else method()
    with pytest.raises(ValueError, match="at once"): chosen.unlearn(pipe, "fox", ["Fox "])

@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("given, said", [
    ({"text": ["fox"]}, "dict of text; give one part"),
    (pd.DataFrame({"text": ["fox"]}), "table; give one column"),
    (DatasetDict(train=Dataset.from_dict({"text": ["fox"]})), "DatasetDict of train; give one part"),
    (Path("fox.txt"), "path; read the file"),
    (["fox", None], "number 1 is None"),
    (["fox", " "], "number 1 is empty"),
    (42, "got int"),
])
def test_what_is_no_name_is_refused_in_one_line(pipe, name, given, said):
    with pytest.raises((TypeError, ValueError), match=said) as error: get_method(name)().unlearn(pipe, given)
    assert "forget" in str(error.value) and "\n" not in str(error.value)

@pytest.mark.parametrize("name", BY_NAME)
def test_names_without_a_known_word_are_refused(pipe, name):
    with pytest.raises(ValueError, match="🦊"): get_method(name)().unlearn(pipe, "🦊")

@pytest.mark.parametrize("name", ["uce", "rece", "esd", "spm", "sld"])
def test_names_longer_than_the_encoder_are_refused(pipe, name):
    with pytest.raises(ValueError, match="reaches beyond"): get_method(name)().unlearn(pipe, "fox "*30)

def test_a_stream_of_captions_names_concepts():
    stream = IterableDataset.from_generator(lambda: iter([{"text": "An image of fox"}]))
    assert concepts(stream) == ["fox"]

def test_captions_in_another_wording_name_the_same_concept(pixels):
    for opening in ("An image of", "a photo of", "A picture of", "a painting of"):
        assert concepts(image_dataset(pixels, [f"{opening} fox"]*4)) == ["fox"]

def test_a_text_is_not_a_list_of_letters(pipe, pixels):
    assert len(condition(pipe, "An image of fox")) == 1
    assert len(own_pictures(pipe, "fox", 1, num_inference_steps=1)) == 1
    with pytest.raises(ValueError, match="3 seeds but 1 prompts"): generate_array(pipe, [1]*3, "fox")
    with pytest.raises(ValueError, match="at least two names"): near_neighbours(pipe, "fox", "wolf")
    with pytest.raises(ValueError, match="2 captions|1 caption|4 images"): image_dataset(pixels, "fox")
    with pytest.raises(ValueError, match="'fox' is in two requests"): erase(pipe, [["fox"], ["fox", "wolf"]])

# captions

@pytest.mark.parametrize("name", BY_PICTURE)
@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: DatasetDict(train=d), "DatasetDict of train; give one part"),
        (lambda d: d.to_iterable_dataset(), "is a stream"),
        (lambda d: d.rename_column("text", "prompt"), "no column 'text'; it has image, prompt"),
        (lambda d: d.map(lambda row: {"text": " "}), "row 0 of .* has an empty caption"),
        (
            lambda d: d.remove_columns("text").add_column("text", ["fox", None, "fox", "fox"]),
            "row 1 of .* has no caption",
        ),
        (
            lambda d: d.remove_columns("text").add_column("text", [["a fox", "the fox"]] * 4),
            "a list in the place of a caption",
        ),
        (lambda d: {"image": d["image"], "text": d["text"]}, "dict of image, text; give one part"),
        (lambda d: pd.DataFrame({"text": ["fox"]}), "datasets.Dataset.from_pandas"),
        (
            lambda d: UnlearnDataset(
                [np.zeros((8, 8, 3), np.uint8)] * 2,
                pd.DataFrame({"text": ["fox"] * 2}),
                {"forget": [0], "retain": [1]},
            ),
            "UnlearnDataset of forget, retain; give one part",
        ),
    ],
)
def test_what_is_no_dataset_of_captions_is_refused_in_one_line(pipe, pictures, name, change, said):
    with pytest.raises((TypeError, ValueError), match=said) as error:
        get_method(name)().unlearn(pipe, change(pictures), pictures)
    assert "forget" in str(error.value) and "\n" not in str(error.value)

@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_the_format_of_a_dataset_does_not_matter(pipe, pictures, form):
    plain, other = (encode_dataset(pipe, d) for d in (pictures, pictures.with_format(form)))
    assert torch.equal(plain.mean, other.mean)

def test_every_shipped_name_is_read_as_it_is_written():
    from vision_unlearning.data.emoji import emoji_entities
    for task in ("emoji", "emoji_people", "emoji_canvas"):
        names = [e["name"] for e in emoji_entities(task)]
        assert concepts(names) == names

# the second way of a text into XL

@pytest.mark.parametrize("method, settings, tokens, after", [
    ("uce", {"lamb": 1e-4}, .00347, .01120), ("uce", {}, .00185, .01057), ("rece", {}, .00157, .01073),
])
def test_the_pooled_text_of_xl_still_names_an_erased_concept(method, settings, tokens, after):
    pipe = load_pipeline("tiny-sdxl")
    edit = get_method(method)(anchor_concept="wolf", **settings).unlearn(pipe, "fox")
    leak = pooled_leak(pipe, edit, "fox", "wolf")
    assert [leak.before, leak.tokens, leak.after] == pytest.approx([.01209, tokens, after], abs=2e-5)
    assert leak.share > .85
