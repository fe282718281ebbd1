"What is sent to a hub comes back checked; a leaderboard is made of files that anybody can compute again."
import json

import pytest
from kills import in_this_process
from PIL import Image

from vision_unlearning import tasks
from vision_unlearning.core import ForeignFileError
from vision_unlearning.running.cli import main
from vision_unlearning.running.own import new_task
from vision_unlearning.running.tuning.sharing import fetch_published, publish
from vision_unlearning.running.tuning.submissions import (
    hashes_of,
    leaderboards,
    make_submission,
    measured_again,
    read_submission,
    shipped_submissions,
    write_leaderboard,
)
from vision_unlearning.store import Store, read_entities, write_json
from vision_unlearning.unlearners.tuned import held_out_record

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    "Each test opens its own base folders."
    monkeypatch.setattr(tasks, "_opened", {})


@pytest.fixture
def at(hub, monkeypatch, tmp_path):
    "Where to send, and an empty cache."
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path/"cache"))
    return {"token": "writer", "endpoint": hub.url}


@pytest.fixture
def made(tmp_path):
    return write_json(tmp_path/"uce.json", make_submission(held_out_record("emoji", "uce"), "us"))


# Submissions

def with_hash(made):
    "A row is changed, and the hash of the table with it."
    made["record"]["rows"][0]["after"] = .5
    made["hashes"]["table"] = hashes_of(made["record"])["table"]


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda m: m["record"]["rows"][3].update(other_after=77.), "its table is not what was hashed"),
        (lambda m: m["record"]["rows"].pop(), "its asked is not what was hashed"),
        (lambda m: m["record"]["settings"].update(lamb=.2), "its settings is not what was hashed"),
        (lambda m: m["record"].update(seeds=[43]), "its asked is not what was hashed"),
        (lambda m: m.update(format=2), "has format 2; this version reads 1"),
        (lambda m: m["record"].update(rows=[]), "has no rows"),
        (lambda m: m["record"]["rows"][0].update(after="none"), "record > rows > 0 > after"),
        (lambda m: m.pop("hashes"), "hashes: Field required"),
    ],
)
def test_a_changed_submission_is_refused_by_the_part_that_was_changed(made, change, said):
    content = json.loads(made.read_text())
    change(content)
    made.write_text(json.dumps(content))
    with pytest.raises(ForeignFileError, match=said): read_submission(made)


def test_what_is_asked_otherwise_stands_in_another_table(made):
    mine = read_submission(made)
    fewer = {**mine["record"], "rows": mine["record"]["rows"][:5]}
    others = [make_submission(fewer, name) for name in ("me", "you")]
    boards = leaderboards([*shipped_submissions(), *others])
    assert [len(table) for _, table in boards] == [14, 2]
    assert boards[1][1]["by"].tolist() == ["me", "you"] and len(boards[1][0]["emitters"]) == 5


@pytest.mark.long(15)
def test_measured_again_by_the_shell(tmp_path, capsys):
    base, file = str(tmp_path/"store"), tmp_path/"mine.json"
    asked = ["--task", "emoji_canvas", "--by", "me", "--out", str(file), "--base-folder", base]
    again = ["recompute", str(file), "--rows", "1", "--base-folder", str(tmp_path/"other")]
    with in_this_process():
        main(["submit", "uce", *asked, "--emitters", "bear", "--num-inference-steps", "1"])
        made = read_submission(file)
        assert [row["emitter"] for row in made["record"]["rows"]] == ["bear"]
        main(again)
        assert "all counts are the same" in capsys.readouterr().out
        with_hash(made)
        write_json(file, made)
        assert measured_again(made, Store(tmp_path/"other"), 1).index.tolist() == [("bear", "after")]
        with pytest.raises(SystemExit) as left: main(again)
    assert left.value.code == 1 and "bear" in capsys.readouterr().out


def test_a_leaderboard_by_the_shell(made, tmp_path, capsys):
    (tmp_path/"board").mkdir()
    made.rename(tmp_path/"board/uce.json")
    main(["leaderboard", str(tmp_path/"board"), "--out", str(tmp_path/"page.html")])
    assert "page.html" in capsys.readouterr().out and (tmp_path/"page.html").read_text().count("<tr>") == 15
    with pytest.raises(SystemExit): main(["leaderboard", str(tmp_path/"nothing")])
    assert "holds no submission" in capsys.readouterr().err


def test_a_name_is_text_on_the_page(made, tmp_path):
    content = make_submission(held_out_record("emoji", "uce"), "<script>alert(1)</script>")
    page = write_leaderboard([content], tmp_path/"page.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


# Through the hub

def test_submissions_meet_in_one_repository(hub, at, made, tmp_path):
    publish("submission", made, "me/board", **at)
    other = write_json(tmp_path/"rece.json", make_submission(held_out_record("emoji", "rece"), "you"))
    publish("submission", other, "me/board", **at)
    assert hub.repositories["datasets/me/board"].private
    files = fetch_published("submission", "me/board", folder=tmp_path/"got", **at)
    assert sorted(file.name.partition("_")[0] for file in files) == ["rece", "uce"]
    content = json.loads(made.read_text())
    content["record"]["rows"][0]["after"] = .5
    hub.add("me/bad", {"submissions/uce.json": json.dumps(content)})
    with pytest.raises(ForeignFileError, match="its table is not what was hashed"):
        fetch_published("submission", "me/bad", folder=tmp_path/"bad", **at)
    assert not (tmp_path/"bad").exists()


@pytest.fixture
def shapes(tmp_path):
    "A store with a task of two entities and their pictures."
    for name, colour in (("red square", "red"), ("blue square", "blue")):
        (tmp_path/"drawn"/name).mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(tmp_path/"drawn"/name/"1.png")
    store = Store(tmp_path/"here")
    table = [{"name": "red square", "colour": "red"}, {"name": "blue square", "colour": "blue"}]
    new_task(store, "shapes", table, "A drawing of {name}", tmp_path/"drawn")
    return store


def test_a_task_of_ones_own_has_a_board(shapes, tmp_path, monkeypatch):
    row = {**held_out_record("emoji", "uce")["rows"][0], "emitter": "red square"}
    record = {**held_out_record("emoji", "uce"), "task": "shapes", "rows": [row]}
    mine = make_submission(record, "me", store=shapes)
    shapes.task("shapes").unlink()  # whoever reads the file need not have the task
    monkeypatch.setattr(tasks, "_opened", {})
    assert "<h2>Shapes: 1 emitters" in write_leaderboard([mine], tmp_path/"page.html").read_text()
    odd = make_submission({**record, "task": "emoji"}, "me")
    odd["record"]["task"] = "<b>x</b>"
    assert "<b>x</b>" not in write_leaderboard([odd], tmp_path/"page.html").read_text()


def test_a_fetched_task_asks_for_each_entity_by_itself(hub, at, shapes, tmp_path):
    publish("task", "shapes", "me/shapes", store=shapes, **at)
    held = dict(hub.repositories["datasets/me/shapes"].files)
    table = json.loads(held["metadata_shapes_2_enriched_filtered.json"])
    table[1]["name"] = "shapes"  # what stands in for an erased entity
    held["metadata_shapes_2_enriched_filtered.json"] = json.dumps(table).encode()
    hub.add("me/odd", held)
    with pytest.raises(ValueError, match="shapes"):
        fetch_published("task", "me/odd", store=Store(tmp_path/"there"), **at)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_task_goes_and_comes(hub, at, shapes, tmp_path, pictures):
    publish("task", "shapes", "me/shapes", store=shapes, pictures=pictures, licence="cc0-1.0", **at)
    sent = hub.repositories["datasets/me/shapes"].files
    assert b"license: cc0-1.0" in sent["README.md"] and ("pictures/red square/1.png" in sent) == pictures
    there = Store(tmp_path/"there")
    fetch_published("task", "me/shapes", store=there, **at)
    assert read_entities(there, "shapes") == read_entities(shapes, "shapes")
    assert there.pictures("shapes").is_dir() == pictures
    with pytest.raises(ValueError, match="exists; fetch into another base_folder"):
        fetch_published("task", "me/shapes", store=there, **at)


@pytest.mark.parametrize(
    "files, said",
    [
        ({"task_emoji.json": "same"}, "'emoji' is a task of the library|is about 'shapes'"),
        ({"metadata_shapes_2_enriched_filtered.json": '[{"name": "../x"}]'}, "'../x'"),
        ({"task_other.json": "{}"}, "holds 2 tasks"),
        ({"task_shapes.json": "[]"}, "is not a task"),
    ],
)
def test_a_hub_does_not_choose_names_or_paths(hub, at, shapes, tmp_path, files, said):
    publish("task", "shapes", "me/shapes", store=shapes, **at)
    held = dict(hub.repositories["datasets/me/shapes"].files)
    if "task_emoji.json" in files: files = {"task_emoji.json": held.pop("task_shapes.json")}
    hub.add("me/odd", {**held, **files})
    there = Store(tmp_path/"there")
    with pytest.raises(ForeignFileError, match=said): fetch_published("task", "me/odd", store=there, **at)
    assert not there.base.exists() or not [p for p in there.base.rglob("*") if p.is_file()]


def test_an_edit_goes_and_comes_by_the_shell(hub, at, tmp_path, capsys, monkeypatch):
    import torch

    from vision_unlearning.unlearners.base import WeightEdit, load_edit, save_edit
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "writer")
    save_edit(WeightEdit({"a": torch.ones(2)}, {"method": "lesson", "forget": ["fox"]}), tmp_path/"edit")
    main(["publish", "edit", str(tmp_path/"edit"), "--repository", "me/no-fox", "--public"])
    assert "/me/no-fox/tree/" in capsys.readouterr().out and not hub.repositories["models/me/no-fox"].private
    main(["fetch", "edit", "--repository", "me/no-fox", "--folder", str(tmp_path/"got")])
    assert load_edit(tmp_path/"got").tensors["a"].tolist() == [1, 1]
    for words, said in (
        (["fetch", "edit", "--repository", "me/no-fox", "--folder", str(tmp_path/"got")], "exists"),
        (["fetch", "edit", "--repository", "me/nothing", "--folder", str(tmp_path/"x")], "not on the hub"),
        (["publish", "edit", str(tmp_path/"none"), "--repository", "me/x"], "is no folder"),
        (["publish", "edit", str(tmp_path/"edit"), "--repository", "x"], "give owner/name"),
        (["fetch", "edit", "--repository", "me/no-fox"], "--folder"),
        (["fetch", "nothing", "--repository", "me/no-fox"], "unknown kind"),
    ):
        with pytest.raises(SystemExit) as left: main(words)
        assert left.value.code == 2 and said in capsys.readouterr().err
