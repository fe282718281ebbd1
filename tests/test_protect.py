"""Names that an erasure chooses to preserve: none that is measured as unlisted, and numbers that are true."""
import json

import numpy as np
import pytest
import torch
from shell import refused
from small import Grey

from vision_unlearning.core import ForeignFileError
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.running.erase import erase, model_card, save_erasure
from vision_unlearning.running.protect import read_vocabulary
from vision_unlearning.unlearners.diffusion.foretold import foretell, read_names
from vision_unlearning.unlearners.diffusion.uce import UCE

CANDIDATES = ["wolf", "crab", "key", "castle", "violin", "pizza", "rose", "taxi", "snake", "cloud", "tent"]
FIRM = dict(lamb=1e-4, retain_weight=1.)  # or random weights are pulled back to what they were


@pytest.fixture(scope="module")
def tiny(): return tiny_pipeline()


def erased(tiny, protect=3, **more):
    few = dict(neighbours=1, others=5, seeds=(0,), paraphrases=(), num_inference_steps=1, settings=FIRM)
    return erase(tiny, "fox", clip=Grey(), candidates=CANDIDATES, protect=protect, **few | more)


@pytest.fixture(scope="module")
def found(tiny): return erased(tiny)


def test_who_is_protected_is_not_measured_as_unlisted(found):
    groups = found.table.groupby("group")["name"].agg(set)
    assert not set(found.protection.protected) & groups["other"]
    assert set(found.protection.table["name"]) == set(CANDIDATES)
    kept = found.settings["anchors"]
    assert kept == 1 + len(found.protection.protected)


def test_what_is_foretold_is_of_the_edit_that_was_made(tiny, found):
    near = [name for name, _ in found.neighbours]
    read = read_names(tiny, found.protection.table["name"].tolist())
    wanted = foretell(tiny, UCE(**FIRM), "fox", [*near, *found.protection.protected], read)
    np.testing.assert_allclose(found.protection.table["foretold"], wanted)
    edit = UCE(**FIRM).unlearn(tiny, "fox", [*near, *found.protection.protected])
    assert all(torch.equal(tensor, edit.tensors[name]) for name, tensor in found.edit.tensors.items())


def test_foretold_and_measured_stand_side_by_side(tiny, found, tmp_path):
    harm = found.harm
    drawn = found.table[found.table["group"] != "concept"]
    assert set(harm["name"]) == set(drawn["name"]) and harm["foretold"].is_monotonic_decreasing
    name = harm["name"][0]
    row = int(found.table.index[found.table["name"] == name][0])
    off, on = (found.pictures[i][row].astype(float) for i in (0, 1))
    assert harm["change"][0] == pytest.approx(np.abs(on - off).mean())
    saved = save_erasure(found, tmp_path/"out")
    said = json.loads((saved/"erasure.json").read_text())
    assert said["protected"] == found.protection.protected and len(said["harm"]) == len(harm)
    page = (saved/"README.md").read_text()
    assert "## Foretold and measured" in page and f"| {name} |" in page
    assert f"protected: {', '.join(found.protection.protected)}" in str(found)


def test_nothing_is_foretold_unasked(tiny):
    plain = erased(tiny, None)
    assert plain.protection is None and "protected" not in str(plain)
    assert "Foretold" not in model_card(plain)
    with pytest.raises(ValueError, match="erase with protect=20"): str(plain.harm)
    told = erased(tiny, 0)
    assert not told.protection.protected
    assert (told.protection.table["without"] == told.protection.table["foretold"]).all()


def test_a_method_that_trains_says_that_it_is_a_guess(tiny):
    found = erased(tiny, 0, method="esd", settings=dict(num_train_steps=1, num_inference_steps=1))
    assert not found.protection.exact and "by the closed form of UCE in its place" in str(found)


@pytest.mark.parametrize("given,line", [
    (dict(protect=99), "protect asks for 99 names, and the vocabulary has 5"),
    (dict(protect=-1), "at least 0, got -1"),
    (dict(vocabulary=["key", float("nan")]), "number 1 is nan, which is no text"),
    (dict(vocabulary=[]), "the vocabulary has 0"),
    (dict(vocabulary=["fox", "red foxes", "🦊"]), "the vocabulary has 0"),
    (dict(protect=None, vocabulary=["key"]), "say how many: protect=20"),
    (dict(settings=dict(retain_weight=0)), "retain_weight is 0"),
])
def test_what_cannot_be_is_said_before_anything_is_drawn(tiny, given, line):
    with pytest.raises((ValueError, TypeError), match=line) as raised: erased(tiny, **given)
    assert "\n" not in str(raised.value)


def test_what_is_left_out_is_said(tiny):
    found = erased(tiny, 1, vocabulary=["red fox", "🦊", "book", "moon"])
    assert found.protection.left_out["the concept itself"] == ["red fox"]
    assert "left out of the vocabulary, not read by the text encoder: 1 (🦊)" in found.foretold


def test_files_of_words(tmp_path):
    path = tmp_path/"words.txt"
    path.write_text("\ufeff# things\n\nkey\n  red   apple \nKey\n", encoding="utf-8")
    assert read_vocabulary(path) == ["key", "red apple"]
    wrong = {b"": "holds no name", b"# only\n": "holds no name", b"\xff\xfe\x00k": "UTF-8"}
    for content, line in wrong.items():
        path.write_bytes(content)
        with pytest.raises(ForeignFileError, match=line): read_vocabulary(path)
    with pytest.raises(FileNotFoundError): read_vocabulary(tmp_path/"none.txt")


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    (tmp_path/"empty.txt").write_text("\n")
    begin = f"erase --concept fox --out {tmp_path}/new"
    assert "holds no name" in refused(f"{begin} --protect 2 --vocabulary {tmp_path}/empty.txt", capsys)
    assert "none.txt" in refused(f"{begin} --protect 2 --vocabulary {tmp_path}/none.txt", capsys)
    assert "--protect" in refused(f"{begin} --protect -1", capsys)
