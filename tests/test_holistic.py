"""HUB: its files with their traps, its numbers by hand, and planted edits that it must tell apart."""
import json
import unicodedata
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from vision_unlearning.core import ForeignFileError, MissingSessionError
from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.holistic.embedded import factor_judge, factor_prompts, planted_guides
from vision_unlearning.holistic.evaluate import HubJudges, edit_folder, evaluate
from vision_unlearning.holistic.generation import wordnet_nouns
from vision_unlearning.holistic.judges import Q16, EmbeddedJudge, make_judge
from vision_unlearning.holistic.measures import AestheticHead, HubPlan
from vision_unlearning.holistic.prompts import HubPrompts, hub_concepts, read_hub
from vision_unlearning.models import load_clip, load_pipeline
from vision_unlearning.unlearners.diffusion.guidance import SafeLatentGuidance
from vision_unlearning.unlearners.diffusion.uce import UCE

MANET = unicodedata.normalize("NFD", "Édouard Manet")


@pytest.fixture
def published(tmp_path):
    "A folder as the authors publish it: no head, commas, quotes, NFD, an underscore, and stray files."
    def write(task, name, text): 
        (tmp_path/task).mkdir(exist_ok=True)
        (tmp_path/task/name).write_text(text, encoding="utf-8")
    write("target_image", f"{MANET}.csv", '"A bar, late, by Manet."\nA boat by Manet\n')
    write("attack_robustness", f"{MANET}.csv", "mane ,, bar �bar\nédouard \"manet\n")
    write("pinpoint_ness", f"{MANET}.csv", "noun,similarity\nclaude_monet,0.9\npainter,0.8\n")
    head = "Original,Spanish,French,German,Italian,Portuguese,Index"
    row = '"""A bar, late, by Manet.""","Un bar, tarde",Un bar,Eine Bar,Un bar,Um bar,0'
    write("multilingual_robustness", f"{MANET.replace(' ', '_')}.csv", f"{head}\n{row}\n")
    scene = dict(prompt="A bar, late, by Manet.", nouns=["Bar ", "bar", "mirror", MANET], index=0)
    write("selective_alignment", f"{MANET}.json", json.dumps([scene]))
    write("selective_alignment", ".DS_Store", "\x00")
    write("selective_alignment", "church.csv", "A church with snow.")
    (tmp_path/".DS_Store").write_text("\x00")
    (tmp_path/"MS-COCO_val2014_30k_captions.csv").write_text('id,text\n1,"A cat, asleep."\n')
    return tmp_path


def test_published_files_are_read(published):
    found = read_hub(published, "édouard manet")
    assert found.concept == "Édouard Manet"
    assert found.target == ['"A bar, late, by Manet."', "A boat by Manet"]
    assert len(found.attacks) == 2 and found.nouns == ["claude_monet", "painter"]
    assert list(found.languages) == ["Original", "Spanish", "French", "German", "Italian", "Portuguese"]
    assert found.languages["Spanish"] == ["Un bar, tarde"]
    assert [(s.nouns, s.index) for s in found.scenes] == [(("bar", "mirror"), 0)]
    assert found.general == ["A cat, asleep."]
    assert hub_concepts(published) == ["church", "Édouard Manet"]


@pytest.mark.parametrize("task, text, said", [
    ("pinpoint_ness", "word\nbar\n", "no column 'noun'"),
    ("multilingual_robustness", "Spanish\nbar\n", "no column 'Original'"),
    ("multilingual_robustness", "Original,Spanish\nbar,\n", "rows without Spanish"),
])
def test_another_file_is_refused_by_name(published, task, text, said):
    for path in (published/task).glob("*.csv"): path.write_text(text)
    with pytest.raises(ForeignFileError, match=said): read_hub(published, "Édouard Manet")


def test_a_scene_without_its_nouns_is_refused(published):
    (published/"selective_alignment"/f"{MANET}.json").write_text('[{"prompt": "a bar", "index": 0}]')
    with pytest.raises(ForeignFileError, match="nouns"): read_hub(published, "Édouard Manet")


def test_a_concept_that_is_not_there_names_those_that_are(published):
    with pytest.raises(MissingSessionError, match="it has those of: church, Édouard Manet"):
        read_hub(published, "Mario")


def test_judges_of_the_paper_are_refused_with_a_remedy(tmp_path):
    for name, remedy in (
        ("giphy", "classifier:FOLDER"),
        ("internvl", "PictureQuestions"),
        ("cliip", "'clip'"),
    ):
        with pytest.raises(ValueError, match=remedy): make_judge(name, None, [])
    with pytest.raises(ValueError): Q16(load_clip("tiny"), np.zeros((3, 16)))
    if find_spec("nltk"): return
    with pytest.raises(ImportError, match=r"vision_unlearning\[words\]"): wordnet_nouns()


def test_the_aesthetic_head_is_a_chain_of_linear_layers(tmp_path):
    generator = torch.Generator().manual_seed(0)
    def matrix(*shape): return torch.randn(shape, generator=generator)
    state = {"layers.0.weight": matrix(4, 16), "layers.0.bias": matrix(4),
             "layers.2.weight": matrix(1, 4), "layers.2.bias": matrix(1)}
    save_file(state, tmp_path/"head.safetensors")
    torch.save(state, tmp_path/"head.pth")
    clip, images = load_clip("tiny"), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    seen = clip.encode_images(images).numpy()
    by_hand = (seen @ state["layers.0.weight"].numpy().T + state["layers.0.bias"].numpy())
    by_hand = by_hand @ state["layers.2.weight"].numpy().T + state["layers.2.bias"].numpy()
    assert np.allclose(AestheticHead(tmp_path/"head.safetensors", clip)(images), by_hand[:, 0], atol=1e-5)
    (tmp_path/"page.safetensors").write_text("<html>")
    refused = {"page.safetensors": "holds no weights", "head.pth": "convert it where you trust it"}
    for file, why in refused.items():
        with pytest.raises(ForeignFileError, match=why): AestheticHead(tmp_path/file, clip)


def test_two_edits_share_no_pictures():
    "Not even two with the same tensors and other settings."
    tiny = load_pipeline("tiny")
    edits = [SafeLatentGuidance(sld_guidance_scale=scale).unlearn(tiny, "fox") for scale in (10., 1000.)]
    assert edit_folder(edits[0]) != edit_folder(edits[1])
    again = SafeLatentGuidance(sld_guidance_scale=10.).unlearn(tiny, "fox")
    assert edit_folder(again) == edit_folder(edits[0])


class Fixed:
    "A judge that says yes to the prompts it likes: the number of the picture is its grey level."
    name = "fixed"
    def __init__(self, *answers): self.answers = iter(answers)
    def sees(self, images, names): return np.full(len(names), next(self.answers), float)
    def chance(self, name): return .5


def test_only_effective_prompts_count(tmp_path):
    "A judge that sees the concept in no unedited picture leaves no prompt, and the row says so."
    tiny, clip = load_pipeline("tiny"), load_clip("tiny")
    how = dict(plan=HubPlan(filter_seeds=(7,)), num_inference_steps=1)
    asked = HubPrompts("fox", ["a fox", "fox"])
    none = evaluate(tiny, None, asked, tmp_path, clip, judges=HubJudges(Fixed(0), Fixed()), **how)
    assert (
        none.table["note"].tolist() == ["0 of 2 prompts are effective"] and none.table["after"].isna().all()
    )
    all_of_them = evaluate(
        tiny, None, asked, tmp_path, clip, judges=HubJudges(Fixed(1, 1, 0), Fixed()), **how
    )
    row = all_of_them.table.iloc[0]
    assert (row["note"], row["before"], row["after"], row["prompts"]) == (
        "2 of 2 prompts are effective",
        1,
        0,
        2,
    )


@pytest.mark.long(25)
def test_planted_edits_are_told_apart(tmp_path):
    """An edit that removes only gender keeps occupation and tone; one that removes everything has the same
    success."""
    pipe, clip, judge = load_pipeline("emoji-sd"), load_clip("emoji-clip"), factor_judge("emoji_people")
    women = factor_prompts("emoji_people", "woman")
    few = HubPrompts(women.concept, women.target[::9], women.scenes[::9])
    men = [e["name"] for e in emoji_entities("emoji_people") if e["gender"] == "man"]
    how = dict(
        judges=HubJudges(judge, judge), plan=HubPlan(seeds=(42,)), num_inference_steps=6, guidance_scale=3.0
    )
    shares = {}
    for effect in ("gender", "everything"):
        read = planted_guides()[effect]
        edit = UCE(anchor_concept=tuple(read.values()), expand_prompts=False).unlearn(pipe, list(read), men)
        table = evaluate(pipe, edit, few, tmp_path, clip, **how).table.set_index("task")
        shares[effect] = table["after"]
    gone = pd.DataFrame(shares).loc["target_image"]
    kept = pd.DataFrame(shares).loc["selective_alignment"]
    assert gone.max() < .4 and kept["gender"] > .7 and kept["everything"] < .4


def test_the_embedded_judge_knows_the_drawings_of_each_task():
    for task, noun in (("emoji_canvas", "frog"), ("emoji_people", "dark skin tone")):
        judge = factor_judge(task)
        assert judge.where(noun)[0] in judge.heads
    assert EmbeddedJudge(("object", "style")).where("frog")[0] == "object"
