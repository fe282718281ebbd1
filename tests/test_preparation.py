"""From folders of pictures to a prepared task: bad pictures, bad tables, bad sources, and asking again."""
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data import breeds, objects, scenes
from vision_unlearning.data.emoji import emoji_drawings, emoji_entities
from vision_unlearning.data.preparation import (
    TestbedData,
    choose_balanced,
    choose_published,
    compare_with_published,
    fetch_sources,
    picture_root,
    preparation_notes,
    prepared_entities,
    published_attributes,
    published_entities,
    source_settings,
    standin_pictures,
    write_prepared,
)
from vision_unlearning.data.testbed import (
    picture_folders,
    read_split,
    sound_pictures,
    split_fingerprint,
    store_pictures,
    write_entities,
    write_splits,
)
from vision_unlearning.download import Source
from vision_unlearning.store import Store, read_json


def cut_off(path, lost=200): path.write_bytes(path.read_bytes()[:-lost])


# Pictures in folders

NAMES = ["castle", "fox", "red_apple", "rose"]


@pytest.fixture
def raw(tmp_path):
    "Four entities of four JPEG pictures, one with a capital suffix, and a folder of git."
    images, rows = emoji_drawings("emoji")
    for name in NAMES:
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True)
        mine = images[(rows["name"] == name.replace("_", " ")).to_numpy()][:4]
        for i, tile in enumerate(mine):
            suffix = "JPG" if i == 3 else "jpg"
            Image.fromarray(tile).save(folder / f"Image_{i}.{suffix}", "JPEG", quality=95)
    (tmp_path / "raw/.git").mkdir()
    return tmp_path / "raw"


def test_folders_are_entities(raw, tmp_path):
    assert {n: len(p) for n, p in picture_folders(raw, "*.jpg").items()} == dict.fromkeys(NAMES, 4)
    with pytest.raises(FileNotFoundError, match="is not a folder"): picture_folders(tmp_path / "nowhere")


def test_what_is_no_picture_is_named(raw):
    (raw / "fox/Image_0.jpg").write_text("<html>404</html>")
    with pytest.raises(ForeignFileError, match="Image_0.jpg is not a picture"): picture_folders(raw, "*.jpg")
    broken = []
    pictures = picture_folders(raw, "*.jpg", broken)
    assert len(broken) == 1 and "fox/Image_0.jpg is not a picture" in broken[0]
    with pytest.raises(ValueError, match="'fox' has 3 pictures, but 5 are needed"):
        sound_pictures("fox", pictures["fox"], 5)


def test_a_picture_that_is_cut_off_is_passed_over(raw):
    cut_off(raw / "rose/Image_1.jpg", 300)
    roses = picture_folders(raw, "*.jpg")["rose"]
    with pytest.raises(ForeignFileError, match="Image_1.jpg is not a whole picture"):
        sound_pictures("rose", roses, 2)
    broken = []
    whole = sound_pictures("rose", roses, 3, broken)
    assert [p.name for p in whole] == ["Image_0.jpg", "Image_2.jpg", "Image_3.JPG"]
    assert len(broken) == 1 and "Image_1.jpg is not a whole picture" in broken[0]


# Training folders

@pytest.fixture
def chosen(raw):
    pictures = picture_folders(raw, "*.jpg")
    return {name: sound_pictures(name, pictures[name], 3, []) for name in NAMES}


@pytest.fixture
def store(chosen, tmp_path):
    "A store with the table and the pictures of the four."
    store = Store(tmp_path / "assets")
    write_entities(store, "objects", pd.DataFrame({"name": NAMES, "dataset_n_original": 4}))
    store_pictures(store, "objects", chosen)
    return store


def test_training_folders_are_read_back(store):
    write_splits(store, "objects", None, "red_apple", 3, overwrite="An image of food")
    forget, retain = read_split(store, "objects", "red_apple")
    assert (len(forget), len(retain)) == (3, 9)
    assert set(forget["text"]) == {"An image of a red apple"}
    assert set(forget["overwrite"]) == {"An image of food"}
    assert retain.column_names == ["image", "text"]


def test_equal_folders_are_left_alone(store, chosen):
    folders = write_splits(store, "objects", None, "red_apple", 3, overwrite="An image of food")
    mark, before = split_fingerprint(folders), [f.stat().st_ino for f in folders]
    write_splits(store, "objects", chosen, "red_apple", 3, overwrite="An image of food")
    assert [f.stat().st_ino for f in folders] == before and split_fingerprint(folders) == mark
    write_splits(store, "objects", None, "red_apple", 2)
    assert [len(d) for d in read_split(store, "objects", "red_apple")] == [2, 6]
    assert split_fingerprint(folders) != mark
    assert not any(f.is_symlink() for folder in folders for f in folder.iterdir())


def test_a_split_that_cannot_be_written_or_read(store, chosen):
    with pytest.raises(ValueError, match="did you mean 'red_apple'"):
        write_splits(store, "objects", None, "red aple")
    with pytest.raises(ValueError, match="'fox' has 3 pictures, but 4 are needed"):
        write_splits(store, "objects", chosen, "fox", 4)
    with pytest.raises(FileNotFoundError, match="write the training folders"):
        read_split(store, "objects", "fox")


def test_folders_in_the_published_form(store):
    "With labels for texts and no `overwrite`."
    listed = write_splits(store, "objects", None, "red_apple", 2)[0] / "metadata.jsonl"
    listed.write_text('{"file_name": "red_apple_0001.jpg", "text": "red_apple"}\n')
    assert read_split(store, "objects", "red_apple")[0][0]["text"] == "red_apple"
    listed.write_text('{"file_name": "gone.jpg", "text": "x"}\n')
    with pytest.raises(ForeignFileError, match="'gone.jpg' is not in the folder"):
        read_split(store, "objects", "red_apple")


# Sources and choices

@pytest.fixture
def sixty(tmp_path):
    "(table, folder of pictures): sixty emoji, three pictures each."
    entities = [e for e in emoji_entities("emoji") if e["domain"] in ("food", "nature", "travel")]
    standin_pictures(tmp_path / "download/deeper/raw", [e["name"] for e in entities], 3)
    table = pd.DataFrame(entities)[["name", "domain", "colour", "detail"]].assign(dataset_n_original=3)
    return table, picture_root(tmp_path / "download")


def prepare(store, task, table, raw, settings):
    data = TestbedData(task, table, picture_folders(raw))
    chosen = choose_balanced(data, ["domain"], "detail", target=12, per_entity=3)
    return write_prepared(store, data, table, *chosen, settings)


def test_a_prepared_task_is_read_the_second_time(sixty, tmp_path):
    table, raw = sixty
    store = Store(tmp_path / "assets")
    settings = {"target": 12, "sources": source_settings({"pictures": raw})}
    assert prepared_entities(store, "objects", settings) is None
    written = prepare(store, "objects", table, raw, settings)
    assert list(written.columns[:4]) == ["name", "index", "is_unlearned", "dataset_n_original"]
    assert prepared_entities(store, "objects", settings).equals(written)
    assert len(read_json(store.enriched("objects"))) == len(table)
    with pytest.raises(ValueError, match="other settings"):
        prepared_entities(store, "objects", {**settings, "target": 13})
    write_splits(store, "objects", None, written["name"][0], 2)
    assert [len(side) for side in read_split(store, "objects", written["name"][0])] == [2, 22]


def test_sources_at_hand_packed_or_not(sixty, tmp_path):
    raw = sixty[1]
    asked = {"a": Source("a", "", "none"), "raw": Source("b", "", "none")}
    assert fetch_sources(asked, tmp_path, {"raw": raw}) == {"raw": raw}
    archive = shutil.make_archive(tmp_path / "packed", "gztar", tmp_path / "download")
    packed = fetch_sources(asked, tmp_path / "kept", {"raw": archive})["raw"]
    assert list(picture_folders(picture_root(packed))) == list(picture_folders(raw))
    with pytest.raises(FileNotFoundError, match="source 'table'"):
        source_settings({"table": tmp_path / "no.csv"})
    with pytest.raises(ValueError, match="unknown source 'b'"): fetch_sources(asked, tmp_path, {"b": raw})


def test_beside_the_published_list(sixty, tmp_path):
    "Three emoji play people of the published list: chosen, with a missing picture, and behind the others."
    table, raw = sixty
    ranked = table.sort_values("detail", ascending=False)["name"].tolist()
    cut_off(raw / ranked[0] / "Image_2.jpg")
    (raw / ranked[1] / "Image_1.jpg").unlink()
    best = prepare(Store(tmp_path / "first"), "objects", table, raw, {})["name"][0]
    roles = {best: "Tony_Blair", ranked[0]: "Colin_Powell", ranked[-1]: "Tiger_Woods"}
    for name, role in roles.items(): (raw / name).rename(raw / role)
    people, store = table.replace({"name": roles}), Store(tmp_path / "assets")
    prepare(store, "people", people, raw, {})
    compared = compare_with_published(store, "people").set_index("name")
    assert len(compared) == 111
    assert compared.at["Tony_Blair", "reason"] == "in both"
    assert "2 pictures, but 3 are needed" in compared.at["Colin_Powell", "reason"]
    assert compared.at["Tiger_Woods", "reason"] == "less priority than the others of its cell"
    legacy = TestbedData("people", people, picture_folders(raw))
    hundred, some = choose_published(legacy, 3)
    assert hundred["name"].tolist() == published_entities("people")
    assert sorted(some) == ["Colin_Powell", "Tiger_Woods", "Tony_Blair"]
    assert len([n for n in legacy.notes if "keeps its index" in n["reason"]]) == 97
    assert hundred["dataset_n_original"].sum() == 9
    with pytest.raises(ValueError, match="no list of 'objects' was ever published"):
        choose_published(TestbedData("objects", table, {}), 3)


# Scenes

def test_scenes_with_a_lost_and_a_cut_picture(tmp_path):
    sources, store = scenes.standin_sources(tmp_path / "raw"), Store(tmp_path / "assets")
    found = sorted((sources["images"] / "a").rglob("*.jpg"))
    bad = {scenes.scene_name(p.relative_to(sources["images"]).as_posix()) for p in (found[0], found[3])}
    found[0].unlink()
    cut_off(found[3])
    table = scenes.prepare_scenes(store, sources, target=12, per_entity=3)
    assert sorted(table.groupby(["sports", "natural"]).size()) == [4, 4, 4]
    assert len(bad) == 2 and not bad & set(table["name"])
    assert set(preparation_notes(store, "scenes")["name"]) == bad
    assert scenes.prepare_scenes(store, sources, target=12, per_entity=3).equals(table)
    assert len(read_json(store.enriched("scenes"))) == 36
    write_splits(store, "scenes", None, table["name"][0], 3)
    assert [len(side) for side in read_split(store, "scenes", table["name"][0])] == [3, 33]
    with pytest.raises(ValueError, match="other settings"):
        scenes.prepare_scenes(store, sources, target=9, per_entity=3)


def test_scenes_that_cannot_be_prepared(tmp_path):
    sources, store = scenes.standin_sources(tmp_path / "raw"), Store(tmp_path / "assets")
    with pytest.raises((KeyError, ValueError, FileNotFoundError), match="images"):
        scenes.prepare_scenes(store, {"attributes": tmp_path})
    with pytest.raises(ValueError, match="did you mean 'sports'"):
        scenes.prepare_scenes(store, sources, balance=("sport", "natural"))


# Objects

@pytest.fixture
def things(tmp_path): return objects.standin_sources(tmp_path / "raw")


def test_an_offset_of_wordnet_is_a_position(things):
    nouns, raw = objects.read_nouns(things["wordnet"]), (things["wordnet"] / "data.noun").read_bytes()
    assert all(raw[int(offset):].startswith(offset.encode()) for offset in nouns.synsets)
    fox = next(o for o, s in nouns.synsets.items() if s.words == ("fox",))
    path = [nouns.synsets[o].words[0] for o in nouns.path(fox)]
    assert path == ["fox", "carnivore", "animal", "object", "entity"]
    # the first sense of "bell" is a sound
    bell = next(o for o, s in nouns.synsets.items() if s.words == ("bell",) and s.domain == "artifact")
    assert (nouns.name(fox), nouns.name(bell)) == ("fox", None)


def test_attribute_labels(things):
    labels = objects.read_attribute_labels(things["attributes"])
    assert labels.shape == (34 * 25, 25) and list(labels.columns) == sorted(objects.LOOKS)
    cut_off(things["attributes"], things["attributes"].stat().st_size // 2)
    with pytest.raises(ForeignFileError, match="not a whole MATLAB file"):
        objects.read_attribute_labels(things["attributes"])


def test_a_wordnet_that_is_not_whole(things, tmp_path):
    for file in ("data.noun", "index.noun"):
        good = (things["wordnet"] / file).read_bytes()
        for part in (good[:len(good) // 2], good[:good.rindex(b"\n", 0, -1) + 1], good[:-30]):
            (things["wordnet"] / file).write_bytes(part)
            with pytest.raises(ForeignFileError, match="not a whole WordNet"):
                objects.read_nouns(things["wordnet"])
        (things["wordnet"] / file).write_bytes(good)
    with pytest.raises((ForeignFileError, FileNotFoundError), match="has no data.noun"):
        objects.read_nouns(things["images"])
    word = lambda offset, parent: objects.Synset(offset, ("a",), "artifact", (parent,))
    with pytest.raises(ForeignFileError, match="a circle"):
        objects.Nouns({"1": word("1", "2"), "2": word("2", "1")}, {}).path("1")


def test_objects_are_even_and_read_the_second_time(things, tmp_path):
    store = Store(tmp_path / "assets")
    table = objects.prepare_objects(store, things, target=20, per_entity=3)
    counts = table.groupby(["kind", "shiny"]).size().unstack(fill_value=0)
    assert set(counts.to_numpy().ravel()) == {2}
    notes = preparation_notes(store, "objects").query("step == 'balance'")
    assert notes["name"].tolist() == ["kind", "shiny"]
    assert objects.prepare_objects(store, things, target=20, per_entity=3).equals(table)
    with pytest.raises(ValueError, match="other settings"):
        objects.prepare_objects(store, things, target=10, per_entity=3)
    with pytest.raises(ValueError, match="no list of 'objects' was ever published"):
        objects.prepare_objects(Store(tmp_path / "b"), things, legacy=True)


# Breeds

@pytest.fixture(scope="module")
def dogs(tmp_path_factory):
    "(store, sources, table) of a prepared task of twelve."
    folder: Path = tmp_path_factory.mktemp("dogs")
    sources, store = breeds.standin_sources(folder / "sources"), Store(folder / "assets")
    return store, sources, breeds.prepare_breeds(store, sources, target=12, per_entity=6)


def test_breeds_are_even(dogs):
    table = dogs[2]
    cells = table.groupby(["group", "grooming_frequency_category_binary"]).size()
    assert len(table) == 12 and cells.max() - cells.min() <= 1
    ranks = table["popularity"].dropna().tolist()
    assert ranks == sorted(ranks) and len(ranks) > 6
    known = [a for a in published_attributes("breeds") if a in table.columns]
    assert list(table.columns[4:]) == ["description", *known]


def test_the_popular_of_a_cell_come_first(dogs):
    store, sources, table = dogs
    data, everything = breeds.breed_candidates(sources, 6)
    assert len(data.table) == 16 and "Unwanted" not in everything
    for _, cell in data.table.groupby(["group", "grooming_frequency_category_binary"]):
        best = cell.sort_values("popularity", kind="stable")["name"]
        taken = np.isin(best, table["name"]).tolist()
        assert taken == sorted(taken, reverse=True)
    corgi = everything.set_index("name").loc["welsh corgi (cardigan) dog"]
    origin = corgi[["name_akc", "Origin", "group_pawsome"]].tolist()
    assert origin == ["Cardigan Welsh Corgi", "Wales", "Herding"]


def test_every_breed_that_was_lost_is_noted(dogs):
    notes = preparation_notes(dogs[0], "breeds")
    lost = notes[notes["lost"]]
    assert dict(zip(lost["name"], lost["step"])) == {
        "unknown mongrel dog": "FCI",
        "bouvier des ardennes dog": "AKC",
        "alpine dachsbracke dog": "AKC",
        "afghan hound dog": "group",
    }
    assert notes["reason"].str.contains("'of' is no number").any()


def test_a_folder_of_links_is_a_folder_of_pictures(tmp_path):
    "A link that stands for a file elsewhere would lead nowhere from a store."
    from vision_unlearning.data.testbed import link_or_copy
    (tmp_path/"a/deep").mkdir(parents=True)
    (tmp_path/"a/x.png").write_bytes(b"x")
    (tmp_path/"a/deep/link.png").symlink_to("../x.png")
    link_or_copy(tmp_path/"a/deep/link.png", tmp_path/"here.png")
    assert not (tmp_path/"here.png").is_symlink() and (tmp_path/"here.png").read_bytes() == b"x"
