"""What is true of every data set and of the testbeds of scenes and objects, beyond their lessons."""
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data import objects, scenes
from vision_unlearning.data.dataset import UnlearnDataset
from vision_unlearning.data.parts import for_classifiers
from vision_unlearning.data.preparation import fetch_sources, published_entities
from vision_unlearning.data.testbed import read_split, write_splits
from vision_unlearning.store import Store


def made(seed, size=6):
    "Pictures of several shapes and modes, with labels of unequal frequency, an order, and dates."
    random = np.random.default_rng(seed)
    count = int(random.integers(30, 60))
    pictures = [
        random.integers(0, 256, (size, size + i % 3, 3) if i % 4 else (size, size), np.uint8)
        for i in range(count)
    ]
    labels = random.choice(["a", "b", "c"], count, p=[.6, .3, .1])
    labels[:6] = ["a", "b", "c"] * 2
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(random.permutation(count), "D")
    return UnlearnDataset.from_arrays(
        pictures,
        label=labels,
        text=[f"An image of {label}" for label in labels],
        place=random.permutation(count),
        made=days,
    )


def splits_of(data, seed):
    rows = np.random.default_rng(seed).permutation(len(data))[:5]
    return [
        data.split("class", classes=["c"], test=0.3, validation=0.2, seed=seed),
        data.split("class", classes=["An image of a"], by="text"),
        data.split("random", ratio=0.3, test=0.2, seed=seed),
        data.split("random", ratio=0.1, validation=0.3, seed=seed),
        data.split("temporal", column="place", cutoff=len(data) // 3, test=0.2, seed=seed),
        data.split("temporal", column="made", cutoff="2024-01-15", forget="from"),
        data.split("indices", indices=rows),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_a_partition(seed):
    data = made(seed)
    for split in splits_of(data, seed):
        rows = np.concatenate(list(split.parts.values()))
        assert (
            sorted(rows) == list(range(len(data)))
            and len(split.parts["forget"])
            and len(split.parts["retain"])
        )
        assert all(r.dtype == np.int64 and (np.diff(r) > 0).all() for r in split.parts.values())
        side = lambda name, split=split: set(split.table["label"].iloc[split.parts.get(name, [])])
        if split.kind == "class" and split.settings["by"] is None:
            assert not {"c"} & (side("retain") | side("test") | side("validation"))


@pytest.mark.parametrize("seed", range(2))
def test_the_same_request_is_the_same_split_after_a_round_trip(seed, tmp_path):
    data = made(seed)
    hashes = [s.hash for s in splits_of(data, seed)]
    assert len(set(hashes)) == len(hashes)
    back = UnlearnDataset.load(data.save(tmp_path / "set"))
    assert back.hash == data.hash and [s.hash for s in splits_of(back, seed)] == hashes
    assert all(
        np.array_equal(np.asarray(back.picture(i)), np.asarray(data.picture(i)))
        and back.picture(i).mode == data.picture(i).mode
        for i in range(len(data))
    )
    # copied, not encoded a second time
    again = UnlearnDataset.load(back.split("indices", indices=[0]).save(tmp_path / "again"))
    assert (
        again.fingerprint == data.fingerprint
        and (tmp_path / "again/images/000/000000.png").read_bytes()
        == (tmp_path / "set/images/000/000000.png").read_bytes()
    )


def test_a_changed_pixel_a_changed_cell_and_a_changed_order_are_another_set():
    data = made(0)
    pixel = [np.array(data.picture(i)) for i in range(len(data))]
    pixel[4][0, 0] ^= 1
    other = [
        UnlearnDataset(pixel, data.table),
        UnlearnDataset(data.pictures, data.table.assign(place=[*data.table["place"][:-1], -1])),
        UnlearnDataset(data.pictures[::-1], data.table[::-1]),
    ]
    assert len({d.fingerprint for d in [data, *other]}) == 4


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, int])
def test_rows_of_every_integer_type(kind):
    data = made(1)
    assert data.split("indices", indices=[kind(2), kind(7)]).parts["forget"].tolist() == [2, 7]
    assert data.split("indices", indices=kind(2)).parts["forget"].tolist() == [2]


def test_a_saved_set_is_an_image_folder(tmp_path):
    from datasets import load_dataset

    data = UnlearnDataset.from_arrays(
        np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3), text=list("abcde"), overwrite=["x"] * 5
    )
    found = load_dataset(
        "imagefolder",
        data_dir=str(data.save(tmp_path / "set")),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert found["text"][:] == list("abcde") and set(found["overwrite"]) == {"x"}
    assert all(
        np.array_equal(np.asarray(row["image"]), np.asarray(data.picture(i))) for i, row in enumerate(found)
    )


def test_a_failed_save_leaves_the_old_one(tmp_path):
    data = made(2)
    data.save(tmp_path / "set")
    before = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(ForeignFileError, match="page.html"):
        UnlearnDataset([data.pictures[0], tmp_path / "page.html"], pd.DataFrame(index=range(2))).save(
            tmp_path / "set"
        )
    (tmp_path / "page.html").unlink()
    assert {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_published_form_with_links(tmp_path):
    "Folders of symbolic links with a label for a text, as others have them."
    raw = tmp_path / "raw"
    raw.mkdir()
    for part, names in {"train_forget": ["fox"], "train_retain": ["owl", "elk"]}.items():
        folder = tmp_path / "fox" / part
        folder.mkdir(parents=True)
        for n in names:
            Image.new("RGB", (8, 8), (len(n), ord(n[0]), 0)).save(raw / f"{n}.jpg")
            os.symlink(raw / f"{n}.jpg", folder / f"{n}_0.jpg")
        (folder / "metadata.jsonl").write_text(
            "".join(json.dumps({"file_name": f"{n}_0.jpg", "text": n}) + "\n" for n in names)
        )
    data = UnlearnDataset.from_folder(tmp_path / "fox")
    assert {k: len(v) for k, v in data.parts.items()} == {"forget": 1, "retain": 2} and data.kind == "given"
    assert not any(p.is_symlink() for p in data.save(tmp_path / "copy").rglob("*"))


def test_classifier_arrays_do_not_depend_on_the_way_there(tmp_path):
    split = made(3).split("class", classes="b", test=.4)
    arrays, indices = for_classifiers(split, size=8, channels=3)
    again, same = for_classifiers(UnlearnDataset.load(split.save(tmp_path / "set")), size=8, channels=3)
    assert (
        arrays.fingerprint == again.fingerprint
        and indices.hash == same.hash
        and indices.forget_classes == [1]
    )


# Scenes

def test_scene_attributes_at_full_size():
    "717 categories of twenty pictures against a reshape."
    random = np.random.default_rng(0)
    votes = random.integers(0, 4, (717*20, 102)) / 3
    names = [f"a/c{i:04d}" for i in range(717)]
    labels = pd.DataFrame(
        votes,
        index=[f"{n}/sun_{i}.jpg" for n in names for i in range(20)],
        columns=scenes.published_attributes("scenes"),
    )
    order = random.permutation(len(labels))
    table = scenes.scene_table(labels.iloc[order])
    assert table["name"].tolist() == [n[2:] for n in names] and set(table["dataset_n_original"]) == {20}
    assert np.array_equal(table.iloc[:, 2:].to_numpy(), (votes.reshape(717, 20, 102) > .5).mean(1) > .5)


@pytest.mark.parametrize(
    "sources, path, variable",
    [
        (scenes.standin_sources, "SUNAttributeDB/attributeLabels_continuous.mat", "labels_cv"),
        (objects.standin_sources, "attrann.mat", "attrann"),
    ],
)
def test_a_cut_off_matlab_file_is_named_wherever_it_was_cut(sources, path, variable, tmp_path):
    sources(tmp_path)
    whole = (tmp_path / path).read_bytes()
    for share in np.linspace(0, .98, 15):
        (tmp_path / path).write_bytes(whole[:int(len(whole)*share)])
        with pytest.raises(ForeignFileError, match=Path(path).name):
            scenes.read_mat(tmp_path / path, variable)


def test_scenes_are_the_same_from_the_same_sources(tmp_path):
    sources = scenes.standin_sources(tmp_path / "raw")
    tables = [scenes.prepare_scenes(Store(tmp_path / n), sources, target=9, per_entity=3) for n in "ab"]
    assert tables[0].equals(tables[1]) and all(
        cell["name"].is_monotonic_increasing for _, cell in tables[0].groupby(["sports", "natural"])
    )
    with pytest.raises(ValueError, match="other settings"):
        scenes.prepare_scenes(
            Store(tmp_path / "a"),
            scenes.standin_sources(tmp_path / "more", categories=40),
            target=9,
            per_entity=3,
        )


def test_the_published_scenes_keep_their_places(tmp_path):
    table = scenes.prepare_scenes(
        Store(tmp_path / "s"),
        scenes.standin_sources(tmp_path / "raw", categories=100),
        per_entity=3,
        legacy=True,
    )
    assert (
        table["name"].tolist() == published_entities("scenes")
        and table["is_unlearned"].all()
        and table["index"].tolist() == list(range(100))
    )


# Objects

def test_objects_go_to_training_folders(tmp_path):
    sources, store = objects.standin_sources(tmp_path / "raw"), Store(tmp_path / "assets")
    victim = sorted((tmp_path / "raw/images").iterdir())[0]
    (victim / "page.JPEG").write_text("<html>")
    table = objects.prepare_objects(store, sources, target=10, per_entity=2)
    write_splits(store, "objects", None, table["name"][3], 2)
    forget, retain = read_split(store, "objects", table["name"][3])
    found = UnlearnDataset.from_folder(store.split("objects", table["name"][3], "forget").parent)
    assert (len(forget), len(retain)) == (2, 18) == tuple(len(found.parts[p]) for p in ("forget", "retain"))
    assert [np.asarray(i).tolist() for i in found["retain"]["image"][:3]] == [
        np.asarray(i).tolist() for i in retain["image"][:3]
    ]
    assert sorted(p.name for p in store.pictures("objects").iterdir()) == sorted(table["name"])


@pytest.mark.parametrize("seed", range(2))
def test_objects_are_even_over_what_was_chosen(seed, tmp_path):
    store = Store(tmp_path / "assets")
    table = objects.prepare_objects(
        store, objects.standin_sources(tmp_path / "raw", seed), target=20, per_entity=3
    )
    sizes = table.groupby(["kind", "shiny"]).size()
    assert len(table) == 20 and sizes.max() - sizes.min() <= 1 and table["name"].is_unique


def test_other_domains_have_kinds_of_their_own(tmp_path):
    data = objects.object_candidates(objects.standin_sources(tmp_path), domains=("animal",), smallest=2)
    assert data.table["kind"].tolist() == ["carnivore"] * 3 + ["other"] and set(data.table["domain"]) == {
        "animal"
    }


@pytest.mark.parametrize(
    "module, prepare, archives",
    [
        (
            scenes,
            scenes.prepare_scenes,
            {"attributes": ("SUNAttributeDB", "gztar"), "images": ("images", "gztar")},
        ),
        (objects, objects.prepare_objects, {"wordnet": ("wordnet", "zip"), "images": ("images", "tar")}),
    ],
)
def test_from_archives_as_they_are_published(module, prepare, archives, tmp_path):
    local = module.standin_sources(tmp_path / "raw") | {
        name: Path(shutil.make_archive(tmp_path / name, kind, tmp_path / "raw", folder))
        for name, (folder, kind) in archives.items()
    }
    # a stand-in has another checksum
    unchecked = {name: replace(source, sha256=None, size=None) for name, source in module.SOURCES.items()}
    tables = [
        prepare(Store(tmp_path / n), sources, target=10, per_entity=2)
        for n, sources in (
            ("a", fetch_sources(unchecked, tmp_path / "kept", local, progress=False)),
            ("b", module.standin_sources(tmp_path / "again")),
        )
    ]
    assert tables[0].equals(tables[1])
    damaged = {name: replace(source, sha256="0" * 64) for name, source in unchecked.items()}
    with pytest.raises(ForeignFileError, match="sha256"):
        fetch_sources(damaged, tmp_path / "other", local, progress=False)


@pytest.mark.parametrize("module", [scenes, objects])
def test_sources_say_what_is_known(module):
    for source in module.SOURCES.values():
        assert source.name and source.licence and source.citation and source.note
        assert source.url.startswith("https://") or not source.url
        assert source.sha256 is None or len(source.sha256) == 64
