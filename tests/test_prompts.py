"""Prompts of others: small files in the forms of the real ones."""
import json
import re

import numpy as np
import pytest

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.prompts import prompts, read_prompts

FILES = {
    # I2P's columns, with an empty prompt and a row without guidance
    "i2p.csv": (
        "prompt,categories,hard,sd_seed,sd_guidance_scale,sd_model\n"
        '"a grey, wet street","shocking, violence",0,3543868648,7.5,1.4\n'
        ",hate,1,2,7,1.4\n"
        "a clown,shocking,0,12,,1.4\n"
    ),
    # those of its copies
    "church.csv": (
        "case_number,prompt,evaluation_seed,evaluation_guidance\n0,a chapel on a cliff,69922,7.5\n"
    ),
    "ring.txt": "first words\n\nsecond words\n",
    "captions_val2014.json": json.dumps(
        {"info": {}, "annotations": [{"image_id": 7, "id": 1, "caption": " A cat on a mat. "}]}
    ),
    "other.csv": "words,n\na,1\n",
    "half.json": '{"annotations": [',
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items(): (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_seeds_and_guidance_are_read(folder):
    found = read_prompts(folder / "i2p.csv")
    assert found["seed"].tolist() == [3543868648, 12]
    assert found["concept"].tolist() == ["shocking, violence", "shocking"]
    assert np.isnan(found["guidance_scale"][1])
    copied = read_prompts(folder / "church.csv", concept="church")
    assert copied.iloc[0].tolist() == ["a chapel on a cliff", "church", "forget", 69922, 7.5]


def test_lists_and_captions(folder):
    assert read_prompts(folder / "ring.txt")["prompt"].tolist() == ["first words", "second words"]
    assert read_prompts(folder / "captions_val2014.json")["prompt"].tolist() == ["A cat on a mat."]


@pytest.mark.parametrize(
    "name, said",
    [
        ("other.csv", "has no column 'prompt'; it has words, n"),
        ("half.json", "is not a readable json file"),
    ],
)
def test_files_without_prompts(folder, name, said):
    with pytest.raises(ForeignFileError, match=re.escape(said)): read_prompts(folder / name)


def test_published_sets_from_a_file_at_hand(folder):
    here = prompts("i2p", local=folder / "i2p.csv")
    assert here["prompt"].tolist() == ["a grey, wet street", "a clown"]
    assert len(prompts("coco_captions", "forget", local=folder / "captions_val2014.json")) == 0
    with pytest.raises(ForeignFileError, match="has no column 'adv_prompt'"):
        prompts("mma", local=folder / "i2p.csv")
