"A task that the library has never heard of, through a shell to the report; what is wrong with one is a line."
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from kills import in_this_process
from PIL import Image, ImageDraw

from vision_unlearning import tasks
from vision_unlearning.core import ForeignFileError, MissingSessionError, UnknownNameError
from vision_unlearning.data.testbed import stored_pictures, write_splits
from vision_unlearning.running.cli import main
from vision_unlearning.running.own import new_task
from vision_unlearning.running.session import plan_sessions, read_record
from vision_unlearning.running.stages import as_declared, check_parameters, pipeline_parameters
from vision_unlearning.store import Store, read_entities
from vision_unlearning.tasks import get_task

CORNERS = {"triangle": 3, "square": 4, "hexagon": 6}
COLOURS = ("red", "green", "blue", "orange")
SHAPES = [
    {"name": f"{colour} {shape}", "colour": colour, "corners": corners}
    for colour in COLOURS
    for shape, corners in CORNERS.items()
]


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    "Each test opens its own base folders."
    monkeypatch.setattr(tasks, "_opened", {})


@pytest.fixture
def drawn(tmp_path):
    "A folder of pictures, one folder an entity, and a table beside it."
    for shape in SHAPES:
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).regular_polygon((32, 32, 24), shape["corners"], fill=shape["colour"])
        place = tmp_path/"drawn"/shape["name"]
        place.mkdir(parents=True)
        picture.save(place/"1.png")
    pd.DataFrame(SHAPES).to_csv(tmp_path/"shapes.csv", index=False)
    return tmp_path


def bring(drawn, *more):
    table, pictures, base = (str(drawn/name) for name in ("shapes.csv", "drawn", "results"))
    main(["task", "new", "shapes", "--table", table, "--pictures", pictures, "--base-folder", base, *more])
    return Store(base)


def test_a_task_is_brought_by_one_command(drawn, capsys):
    store = bring(drawn, "--template", "A drawing of {name}")
    said = capsys.readouterr().out
    assert "shapes: 12 entities, 12 pictures" in said
    assert "corners: numerical, 3 to 6" in said and "colour: categorical" in said
    assert get_task("shapes").template == "A drawing of {name}"
    assert [e["name"] for e in read_entities(store, "shapes")] == [s["name"] for s in SHAPES]
    (session,) = plan_sessions(store, "shapes", "uce", ["red square"])
    assert session.slug == "shapes_red square_uce_000"


@pytest.mark.parametrize(
    "asked, error",
    [
        (dict(name="../up"), "cannot be a file name"),
        (dict(name="Shapes"), "cannot name a task"),
        (dict(name="emoji"), "is a task of the library"),
        (dict(template="A shape"), "has no {name}"),
        (dict(template="A {size} {name}"), "asks for ['size']"),
        (dict(template="What is {name}?"), "cannot be a file name"),
        (dict(table=[*SHAPES, {"name": "Red_Square"}]), "same words"),
        (dict(table=[{"shape": "square"}]), "no column 'name'"),
        (dict(table=[{"name": "square"}]), "two entities or more"),
        (dict(clip="emoji-klip"), "unknown CLIP 'emoji-klip'"),
        (dict(judge="emoji-judge"), "does not know 'red triangle'"),
        (dict(substitute="red square"), "would also take the place"),
        (dict(pictures="nowhere"), "no folder, no .parquet file and no hub id"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, asked, error):
    store = Store(tmp_path/"results")
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        new_task(store, **{"name": "shapes", "table": SHAPES, **asked})
    assert error in str(refused.value) and "\n" not in str(refused.value)
    assert not store.base.exists()


def test_a_task_file_is_refused_for_what_it_may_not_say(drawn):
    store = bring(drawn)
    about = json.loads(store.task("shapes").read_text())
    for change in ({"colour": "red"}, {"article": "yes"}, {"name": "forms"}, {"embedded": True}):
        store.task("shapes").write_text(json.dumps({**about, **change}))
        with pytest.raises(ForeignFileError, match="task_shapes.json"): get_task("shapes")


def test_two_tasks_of_one_name_are_not_mixed(tmp_path):
    for folder, noun in (("one", "shape"), ("two", "shape"), ("three", "form")):
        new_task(Store(tmp_path/folder), "mixed", SHAPES, noun=noun)
        if folder != "three": assert get_task("mixed").noun == "shape"
    with pytest.raises(ValueError, match="two tasks of one name"): get_task("mixed")


def test_an_unknown_task_says_how_to_bring_one():
    with pytest.raises(UnknownNameError, match="vu task new"): get_task("logos")


def test_without_pictures_a_method_that_reads_them_is_refused(tmp_path):
    store = Store(tmp_path)
    new_task(store, "bare", SHAPES)
    assert len(plan_sessions(store, "bare", "uce")) == 12
    with pytest.raises(ValueError, match="--pictures"): plan_sessions(store, "bare", "munba")


def test_who_misses_pictures_or_the_table_of_a_task_that_was_brought(drawn):
    "Preparing brings neither."
    some = [drawn/"drawn"/shape["name"] for shape in SHAPES[1:]]
    for place in some: shutil.rmtree(place)
    store = bring(drawn)
    again = "delete .*task_shapes.json and bring the task again: `vu task new shapes --table TABLE --pictures"
    with pytest.raises(MissingSessionError, match=f"'red square' .*has no pictures; {again}"):
        write_splits(store, "shapes", None, "red square")
    shutil.rmtree(store.pictures("shapes"))
    with pytest.raises(MissingSessionError, match=again): stored_pictures(store, "shapes")
    store.metadata("shapes").unlink()
    with pytest.raises(MissingSessionError, match=again): read_entities(store, "shapes")
    with pytest.raises(MissingSessionError, match="vu run prepare"): read_entities(store, "people")


def test_what_a_stopped_command_left_is_not_taken_for_something_else(drawn):
    "A table and pictures without a task: the same command goes on, another one is refused."
    store = bring(drawn)
    store.task("shapes").unlink()
    other = [{**SHAPES[0], "colour": "blue"}, *SHAPES[1:]]
    for asked in (dict(table=SHAPES), dict(table=other, pictures=drawn/"drawn")):
        with pytest.raises(ValueError, match="delete it"): new_task(store, "shapes", **asked)
    bring(drawn)
    assert get_task("shapes").judge == "clip"


def test_pictures_of_a_dataset(tmp_path, drawn):
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture
    paths = sorted(str(path) for path in (drawn/"drawn").rglob("*.png"))
    names = [path.split("/")[-2] for path in paths]
    features = Features({"picture": Picture(), "shape": Value("string")})
    data = Dataset.from_dict({"picture": paths, "shape": names}, features=features)
    data.to_parquet(str(tmp_path/"shapes.parquet"))
    columns = dict(picture_column="picture", name_column="shape")
    brought = new_task(Store(tmp_path/"x"), "parquet", SHAPES, pictures=tmp_path/"shapes.parquet", **columns)
    assert (brought.pictures, brought.without) == (12, ())


def test_its_prompts_are_a_set_of_prompts(tmp_path):
    from vision_unlearning.data.prompts import prompts
    new_task(Store(tmp_path), "worded", SHAPES, "A drawing of {name}")
    found = prompts("worded", "retain", concept="red square")
    assert len(found) == 11 and found["prompt"][0] == "A drawing of red triangle"


def test_sampling_is_the_tasks_own(tmp_path):
    store = Store(tmp_path)
    new_task(store, "steps", SHAPES, num_inference_steps=7, guidance_scale=2.)
    asked = {"task": "steps", "base_folder": str(tmp_path)}
    found = check_parameters("generate", asked)
    assert (found["num_inference_steps"], found["guidance_scale"]) == (7, 2.)
    assert check_parameters("generate", {**asked, "num_inference_steps": 3})["num_inference_steps"] == 3
    assert check_parameters("generate", {})["num_inference_steps"] == 12
    people = check_parameters("generate", {"task": "people"})
    assert (people["num_inference_steps"], people["guidance_scale"]) == (50, 7.5)
    by_hand = {name: parameter.default for name, parameter in pipeline_parameters("generate").items()}
    assert as_declared("generate", {**by_hand, **asked})["num_inference_steps"] == 7


@pytest.mark.long(15)
@in_this_process()
def test_to_the_report_and_the_answers(drawn, capsys):
    store = bring(drawn)
    base = ["--base-folder", str(store.base)]
    quick = dict(seeds=42, num_inference_steps=2, n_permutations=99, max_figures=1)
    drawing = [word for name, value in quick.items() for word in ("-p", f"{name}={value}")]
    asked = ["batch", "--task", "shapes", "--methods", "uce", "--entities", "red square"]
    asked += [*drawing, *base, "-q"]
    capsys.readouterr()
    main([*asked, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["asked"], facts["failed"], [row["done"] for row in facts["methods"]]) == (1, [], [1])
    (row,) = facts["sessions"]
    assert (row["method"], row["emitter"]) == ("uce", "red square")
    assert Path(facts["report"]).is_file() and Path(facts["answers"]).is_file()
    main(asked)  # nothing is left to do, and the table is the same
    said = capsys.readouterr().out
    assert "shapes, emoji-sd: 1 of 1 sessions are complete" in said and facts["report"] in said
    (session,) = plan_sessions(store, "shapes", "uce", ["red square"])
    scored = read_record(store.record(session))["stages"]["interference"]
    assert scored["named_by"] == "zero-shot by emoji-clip" and 0 <= scored["named_right_off"] <= 1
    pages = [path.read_text() for path in store.base.rglob("*.html")]
    report, answers = sorted(pages, key=lambda page: "Every question about" in page)
    beside = "zero-shot by emoji-clip, right about"
    assert report.count(beside) >= 3 and "chance: 8%" in report
    assert answers.count(f"Pictures are named {beside}") > 3


FRUIT = [
    {"name": name, "colour": colour}
    for name, colour in {
        "banana": "yellow", "red apple": "red", "strawberry": "red", "lemon": "yellow", "cherries": "red",
        "pineapple": "yellow", "watermelon": "green", "broccoli": "green",
    }.items()
]


@pytest.mark.long(40)
def test_a_search_and_a_held_out_test(tmp_path):
    from kills import in_this_process

    from vision_unlearning.running.tuning.held_out import held_out, held_out_emitters, tuning_emitters
    from vision_unlearning.running.tuning.objective import JudgeObjective
    from vision_unlearning.running.tuning.search import tune
    store = Store(tmp_path)
    new_task(store, "fruit", FRUIT, num_inference_steps=6)
    emitters = held_out_emitters("fruit")
    assert len(emitters) == 4 and not set(emitters) & set(tuning_emitters("fruit"))
    objective = JudgeObjective("fruit", ["banana"], receivers=2, seeds=(42,))
    assert objective.description["name"] == "probability, zero-shot by emoji-clip"
    assert objective.description["num_inference_steps"] == 6
    record = tune("uce", "fruit", 1, tmp_path/"tuning", objective=objective)
    assert record["best"]["forgetting"] > .5
    with in_this_process(): tested = held_out("uce", "fruit", store, ["banana"])
    (row,) = tested["rows"]
    assert tested["num_inference_steps"] == 6 and row["emitter"] == "banana" and row["other_before"] > 0


def test_a_search_needs_somebody_who_names(tmp_path):
    from vision_unlearning.running.tuning.objective import JudgeObjective
    new_task(Store(tmp_path), "unnamed", SHAPES, judge="")
    with pytest.raises(ValueError, match="nobody names the pictures of unnamed"): JudgeObjective("unnamed")
