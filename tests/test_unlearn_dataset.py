"""Four things by seven artists as a data set: its forms, its parts, its batches, the disk and back."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.classification import load_classification
from vision_unlearning.data.dataset import UnlearnDataset
from vision_unlearning.data.emoji import emoji_drawings
from vision_unlearning.data.forgetting import class_split, subclass_split
from vision_unlearning.data.parts import for_classifiers
from vision_unlearning.store import read_json, write_json


@pytest.fixture(scope="module")
def four():
    "(pictures, table) of fox, castle, key and rose."
    images, known = emoji_drawings("emoji")
    pick = np.flatnonzero(known["name"].isin(["fox", "castle", "key", "rose"]))
    return images[pick], known.iloc[pick].reset_index(drop=True)


@pytest.fixture(scope="module")
def data(four):
    "With a sentence, a label, an artist, and a year that is made up."
    images, table = four
    return UnlearnDataset.from_arrays(
        images,
        label=table["name"].tolist(),
        text=("An image of " + table["name"]).tolist(),
        artist=table["style"].tolist(),
        year=[2010 + i % 7 for i in range(len(table))],
    )


@pytest.fixture(scope="module")
def sided(four):
    "The same pictures from a source that has a validation side of its own."
    images, table = four
    return UnlearnDataset.from_arrays(images, label=table["name"].tolist(), side=["train", "validation"] * 14)


@pytest.fixture(scope="module")
def dates():
    made = ["2023-12-31", "2024-01-01", "2024-01-01T12:00:00"]
    return UnlearnDataset.from_arrays(np.zeros((3, 64, 64, 3), np.uint8), text=["a", "b", "c"], made=made)


def bytes_of(data): return sorted(map(bytes, data.digests))


def lists(parts): return {name: rows.tolist() for name, rows in parts.items()}


# The forms

@pytest.fixture
def classes(data, tmp_path):
    "A folder a class, with two sides."
    for i in range(len(data)):
        side = "train" if i % 2 == 0 else "val"
        path = tmp_path / "classes" / side / data.table["label"][i] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        data.picture(i).save(path)
    return tmp_path / "classes"


@pytest.fixture
def contract(data, tmp_path):
    "Training folders as a session reads them: fox is forgotten."
    fox = data.table["label"] == "fox"
    for part, keep in (("train_forget", fox), ("train_retain", ~fox)):
        folder = tmp_path / "contract" / part
        folder.mkdir(parents=True)
        for i in np.flatnonzero(keep): data.picture(i).save(folder / f"{i:02d}.png")
        lines = [
            json.dumps({"file_name": f"{i:02d}.png", "text": data.table["text"][i]})
            for i in np.flatnonzero(keep)
        ]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path / "contract"


def test_folders_of_classes(data, classes):
    found = UnlearnDataset.from_folder(classes)
    assert bytes_of(found) == bytes_of(data)
    assert found.table["side"].value_counts().to_dict() == {"train": 14, "validation": 14}


def test_folders_of_the_contract(data, contract):
    found = UnlearnDataset.from_folder(contract, overwrite="An image of wolf")
    assert bytes_of(found) == bytes_of(data)
    assert {k: len(v) for k, v in found.parts.items()} == {"forget": 7, "retain": 21}
    assert set(found["forget"]["overwrite"]) == {"An image of wolf"}
    with pytest.raises(ValueError, match="unknown part 'train'"): found["train"]


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"file_name": "../../secret.png"}', "is not a file in"),
        ('{"file_name": "none.png"}', "is not a file in"),
        ('{"text": "x"}', "has no file_name"),
        ("{", "is not JSON"),
    ],
)
def test_a_list_of_others_is_not_believed(line, said, contract):
    (contract / "train_forget/metadata.jsonl").write_text(line)
    with pytest.raises(ForeignFileError, match=said): UnlearnDataset.from_folder(contract)


def test_half_a_picture_is_named_when_it_is_looked_at(contract):
    victim = next((contract / "train_forget").glob("*.png"))
    victim.write_bytes(victim.read_bytes()[:victim.stat().st_size // 2])
    broken = UnlearnDataset.from_folder(contract)
    with pytest.raises(ForeignFileError, match="is not a whole picture"): str(broken.fingerprint)


def test_what_is_no_data_set(four, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"): UnlearnDataset.from_folder(tmp_path)
    with pytest.raises(ValueError, match="3 pictures but 1 in column 'label'"):
        UnlearnDataset.from_arrays(four[0][:3], label=["a"])


# Parts

@pytest.fixture(scope="module")
def splits(data, sided):
    return {
        "class": data.split("class", classes="fox", test=.25),
        "random": data.split("random", ratio=.2, validation=.25),
        "temporal": data.split("temporal", column="year", cutoff=2012),
        "indices": data.split("indices", indices=[np.int64(3), np.int32(5), 8]),
        "own sides": sided.split("class", classes=["key", "rose"]),
    }


def labels_of(split, part): return set(split.table["label"].iloc[split.parts[part]])


def test_no_picture_is_lost_or_in_two_parts(splits):
    for split in splits.values():
        assert sorted(np.concatenate(list(split.parts.values())).tolist()) == list(range(28))


def test_each_kind_forgets_what_it_says(splits, dates):
    fox, years = splits["class"], splits["temporal"]
    assert labels_of(fox, "forget") == labels_of(fox, "test_forget") == {"fox"}
    assert "fox" not in labels_of(fox, "retain") | labels_of(fox, "test")
    year_of = lambda part: years.table["year"].iloc[years.parts[part]]
    assert max(year_of("forget")) < 2012 <= min(year_of("retain"))
    assert splits["indices"].parts["forget"].tolist() == [3, 5, 8]
    assert len(splits["random"].parts["validation"]) == 7
    newer = dates.split("temporal", column="made", cutoff="2024-01-01", forget="from")
    assert newer.parts["forget"].tolist() == [1, 2]


def test_a_seed_is_a_split(data, splits):
    again = data.split("random", ratio=.2, validation=.25)
    other = data.split("random", ratio=.2, validation=.25, seed=1)
    assert again.hash == splits["random"].hash != other.hash


def test_a_split_comes_back_from_the_disk(splits, tmp_path):
    for name, split in splits.items():
        again = UnlearnDataset.load(split.save(tmp_path / name))
        assert (again.hash, again.kind, again.settings) == (split.hash, split.kind, split.settings)
        assert lists(again.parts) == lists(split.parts)


@pytest.mark.parametrize(
    "request_, said",
    [
        (dict(kind="classes"), "did you mean 'class'"),
        (dict(kind="class"), "needs classes"),
        (dict(kind="class", classes="foxx"), "did you mean 'fox'"),
        (dict(kind="class", classes=range(4)), "nothing left to retain"),
        (dict(kind="temporal", column="year", cutoff=1990), "nothing to forget"),
        (dict(kind="temporal", column="artist", cutoff="2024"), "neither numbers nor dates"),
        (dict(kind="temporal", column="yeer", cutoff=1), "did you mean 'year'"),
        (dict(kind="indices", indices=[28]), r"rows are 0\.\.27"),
        (dict(kind="indices", indices=[True, False]), r"numpy.flatnonzero\(mask\)"),
        (dict(kind="indices", indices=[3, 3]), "give each once"),
        (dict(kind="random", ratio=0.), "between 0 and 1"),
        (dict(kind="random", test=.6, validation=.5), "nothing is left"),
    ],
)
def test_a_split_that_cannot_be(request_, said, data):
    with pytest.raises((ValueError, TypeError), match=said): data.split(**request_)


def test_a_source_with_sides_keeps_them(sided):
    with pytest.raises(ValueError, match="never trained on"): sided.split("indices", indices=[21])
    with pytest.raises(ValueError, match="has its own sides"): sided.split("random", test=.1)


# Batches

def test_batches_for_a_classifier(splits):
    fox = splits["class"]
    loader = fox.get_loader("retain", 4, shuffle=True, generator=torch.Generator().manual_seed(0))
    x, y = next(iter(loader))
    assert x.shape == (4, 3, 64, 64) and 0 <= float(x.min()) <= float(x.max()) <= 1
    dealt = sorted(int(label) for _, y in loader for label in y)
    assert dealt == sorted(fox.classes.index(l) for l in fox.table["label"].iloc[fox.parts["retain"]])


def test_batches_with_sentences(splits):
    words = splits["class"].get_loader("forget", 3, yields="text", size=32)
    first = next(iter(words))
    assert (tuple(first["image"].shape), first["text"]) == ((3, 3, 32, 32), ["An image of fox"] * 3)
    assert len(words) == 2


def test_the_order_is_that_of_seed_and_epoch(data):
    loader = data.get_loader(batch_size=5, shuffle=True, yields="text")
    one, two = ([text for batch in loader for text in batch["text"]] for _ in range(2))
    assert one != two and sorted(one) == sorted(two) == sorted(data.table["text"])
    loader.set_epoch(0)
    assert [text for batch in loader for text in batch["text"]] == one


def test_batches_that_cannot_be(data, dates, four):
    images = four[0]
    with pytest.raises(ValueError, match="no 'label'"): dates.get_loader(yields="label")
    with pytest.raises(ValueError, match="unknown part"): data.get_loader("forget")
    uneven = UnlearnDataset.from_arrays([images[0], images[0][:9]], text=["a", "b"])
    with pytest.raises(ValueError, match="give size=64"): next(iter(uneven.get_loader()))


# To the methods for classifiers

def rows_of(split):
    return {name: getattr(split, name).tolist() for name in ("forget", "retain", "test", "test_forget")}


def test_there_and_back_nothing_changes(splits):
    arrays, split = for_classifiers(splits["class"], "four things", size=32)
    direct = class_split(arrays, "fox")
    assert rows_of(split) == rows_of(direct) and split.forget_classes == direct.forget_classes
    assert split.hash == direct.hash
    with pytest.raises(ValueError, match="split with test=0.2"): for_classifiers(splits["temporal"])


def test_from_arrays_with_classes_within_classes():
    domains = load_classification("emoji", target="domain")
    there = UnlearnDataset.from_classification(domains).split("class", classes="fox", by="entity")
    back, kept = for_classifiers(there, "emoji_domain")
    direct = subclass_split(domains, "fox")
    assert torch.equal(back.train.images, domains.train.images)
    assert torch.equal(back.test.labels, domains.test.labels)
    assert kept.forget.tolist() == direct.forget.tolist() and kept.forget_classes == []
    assert kept.test_forget.tolist() == direct.test_forget.tolist()


# To the disk and back

def given(data):
    "Parts that were chosen by hand."
    return replace(
        data, parts={"forget": range(7), "retain": np.arange(7, 28)}, kind="given", settings={"by": "hand"}
    )


def test_every_form_comes_back(data, classes, contract, tmp_path):
    made = pd.to_datetime(["2023-12-31", "2024-01-01", None])
    forms = {
        "given": given(data),
        "missing values": UnlearnDataset.from_arrays(
            np.zeros((3, 4, 4), np.uint8), made=made, weight=[1, 2.5, None]
        ),
        "contract": UnlearnDataset.from_folder(contract),
        "classes": UnlearnDataset.from_folder(classes),
        "numbers": UnlearnDataset.from_arrays(np.zeros((3, 4, 4), np.uint8), label=[10, 9, 2]),
    }
    for name, one in forms.items():
        again = UnlearnDataset.load(one.save(tmp_path / "saved" / name))
        assert (again.hash, again.kind, again.settings) == (one.hash, one.kind, one.settings)
        assert again.classes == one.classes and lists(again.parts) == lists(one.parts)


def test_a_changed_file_is_noticed(data, tmp_path):
    saved = given(data).save(tmp_path / "set")
    said = read_json(saved / "dataset.json")
    write_json(saved / "dataset.json", {**said, "parts": {**said["parts"], "forget": [1, 2]}})
    with pytest.raises(ForeignFileError, match="the file was changed"): UnlearnDataset.load(saved)
    data.picture(9).save(saved / "images/000/000003.png")
    with pytest.raises(ForeignFileError, match="pictures or metadata.jsonl were changed"):
        UnlearnDataset.load(saved)


def test_nothing_is_half_written_or_overwritten(data, contract, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"): UnlearnDataset.load(tmp_path)
    with pytest.raises(FileExistsError, match="not a saved data set"): data.save(tmp_path)
    before = sorted(tmp_path.iterdir())
    listed = contract / "train_forget/metadata.jsonl"
    half = UnlearnDataset([data.picture(0), listed], pd.DataFrame({"text": ["a", "b"]}))
    with pytest.raises(ForeignFileError, match="is not a picture"): half.save(tmp_path / "half")
    assert sorted(tmp_path.iterdir()) == before
