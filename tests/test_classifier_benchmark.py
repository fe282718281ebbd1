"""The benchmark of classifiers: runs, the page, the search, and what a shell may ask."""
import shutil

import pandas as pd
import pytest
from kills import in_this_process

from vision_unlearning.models.classifiers import logits
from vision_unlearning.oracle.classification import PROTOCOLS, Comparison
from vision_unlearning.oracle.evidence import layer_table
from vision_unlearning.oracle.tuned import comparable, tuned_classifier, tuned_path
from vision_unlearning.running.classifier_evidence import EVIDENCE, as_frame, evidence_table
from vision_unlearning.running.classifiers import (
    batch_classifiers,
    classifier_status,
    report_classifiers,
    run_classifier_stage,
    run_classifiers,
    write_classifier_report,
)
from vision_unlearning.running.tuning.search import search_space
from vision_unlearning.running.tuning.search_classifiers import OracleObjective, tune_classifiers
from vision_unlearning.store import read_json
from vision_unlearning.unlearners.classifiers.base import get_classifier_method

pytestmark = pytest.mark.long

SHORT = dict(num_epochs=1, optimizer="Adam(lr=0.003)", schedule="Linear")
FAILED = dict(method="neggrad", kind="class", seed=0, error="the loss is nan")


@pytest.fixture(scope="module")
def place(tmp_path_factory): return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def rows(place):
    return run_classifiers("digits", ["finetune"], ["class"], [0], place, progress=False, changes=SHORT)


@pytest.mark.long(5)
def test_runs_are_read_the_second_time(rows, place):
    again = run_classifiers("digits", ["finetune"], ["class"], [0], place, progress=False, changes=SHORT)
    assert again == rows and [r["method"] for r in rows] == ["original", "other_oracle", "finetune"]


@pytest.mark.long
@pytest.mark.parametrize("method, changed", [("ssd", dict(threshold=1e9)), ("gkt", dict(threshold=0.))])
def test_a_method_that_changes_nothing_is_a_row_with_its_reason(rows, place, method, changed):
    changed |= dict(num_rounds=2) if method == "gkt" else {}
    ask = dict(progress=False, changes=SHORT, overrides={method: changed})
    found = run_classifiers("digits", [method], ["class"], [0], place, **ask)
    assert "changed none" in found[-1]["error"] or "no picture passed" in found[-1]["error"]
    assert found[:2] == rows[:2]


@pytest.mark.long
def test_the_page_names_what_failed(rows, place):
    page, table = write_classifier_report("digits", [*rows, FAILED], place, SHORT)
    text = page.read_text(encoding="utf-8")
    assert "the loss is nan" in text and "other_oracle" in text and 'src="http' not in text
    assert ">NaN<" not in text and "Mean of 1 seed," in text and "<td>yes</td>" in text
    assert len(pd.read_csv(table)) == len(rows)
    with pytest.raises(ValueError, match="no run of digits succeeded: bad"):
        write_classifier_report("digits", [dict(FAILED, error="bad")], place)


@pytest.mark.parametrize(
    "methods, kinds, said",
    [
        (["unsir"], ["random"], "unknown method for random forgetting"),
        (["scrubb"], ["class"], "did you mean 'scrub'"),
    ],
)
def test_methods_that_cannot_take_part(methods, kinds, said, tmp_path):
    with pytest.raises(ValueError, match=said): run_classifiers("digits", methods, kinds, folder=tmp_path)


@pytest.mark.parametrize(
    "parameter, said",
    [
        ("seed=1", "did you mean 'seeds'"),
        ("seeds=a", r"must be list\[int\]"),
        ("kinds", "write -p name=value"),
        ("overrides={\"finetune\": {\"lerning_rate\": 1}}", "did you mean 'learning_rate'"),
        ("forget=eleven", "class"),
        ("architecture=alexnett", "did you mean 'alexnet'"),
    ],
)
def test_wrong_parameters_of_a_shell(parameter, said, tmp_path):
    with pytest.raises(ValueError, match=said): batch_classifiers("digits", [], [parameter], tmp_path)


@pytest.fixture
def short(monkeypatch):
    "The protocol of the digits is a short one."
    monkeypatch.setitem(PROTOCOLS, "digits", PROTOCOLS["digits"].model_copy(update=SHORT))


@pytest.fixture
def trained(short, rows, place, tmp_path):
    "A store with what the short protocol has trained and run."
    shutil.copytree(place, tmp_path / "classification")
    return tmp_path


@pytest.mark.long
def test_a_batch_that_was_stopped(trained):
    "Seed 1 of the first method is missing, so the page is about seed 0."
    page, table = batch_classifiers("digits", ["finetune"], ["kinds=class", "seeds=0"], trained, False)
    assert run_classifier_stage("unlearn", "digits", ["cf_k"], ["kinds=class", "seeds=0,1"], trained, False)
    assert run_classifier_stage("report", "digits", [], [], trained)[0] == page
    assert classifier_status(trained).iloc[0].tolist()[:5] == ["digits", "class", "0, 1", 4, 7]
    assert set(pd.read_csv(table).seed) == {0}
    with pytest.raises(FileNotFoundError, match="run `vu batch --task cifar10` first"):
        report_classifiers("cifar10", base_folder=trained)
    with pytest.raises(ValueError, match="known: 'unlearn', 'report'"):
        run_classifier_stage("generate", "digits", [], [], trained)


@pytest.mark.long
def test_from_a_shell(trained):
    from typer.testing import CliRunner

    from vision_unlearning.running.cli import app
    words = "batch --task digits --methods finetune,cf_k -p seeds=0 -p kinds=class --quiet --base-folder"
    ask = [*words.split(), str(trained)]
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.output
    page, table = done.output.split()
    assert "cf_k" in open(page, encoding="utf-8").read() and table.endswith(".csv")
    wrong = CliRunner().invoke(app, [*ask, "-p", "seed=1"])
    assert wrong.exit_code != 0 and "seeds" in str(wrong.output) + str(wrong.exception)


@pytest.mark.long
def test_evidence_from_a_shell(trained, short):
    "Tables beside the runs, shown by batch and report, made once; what cannot be asked is refused."
    ask = ["kinds=random", "seeds=0", "evidence=layers,klom", "num_models=2"]
    page, _ = batch_classifiers("digits", ["finetune"], ask, trained, False)
    text = page.read_text(encoding="utf-8")
    for name in ("layers", "klom"): assert EVIDENCE[name].title in text
    folder = trained/"classification"
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix != ".html"}
    assert len([path for path in made if path.parent.name == "evidence"]) == 2
    batch_classifiers("digits", ["finetune"], ask, trained, False)
    changed = {path for path, when in made.items() if path.is_file() and path.stat().st_mtime_ns != when}
    assert {path.suffix for path in changed} <= {".csv"}
    assert report_classifiers("digits", base_folder=trained)[0].read_text(encoding="utf-8").count("<h2>") == 4
    with pytest.raises(ValueError, match="predictions is asked of class forgetting"):
        batch_classifiers("digits", ["finetune"], [*ask, "evidence=predictions"], trained, False)


def test_evidence_says_what_the_tables_say(place, rows):
    "The numbers of the page are those of the functions that are asked one by one."
    comparison = Comparison("digits", "class", 0, place, changes=SHORT)
    settings = {"finetune": rows[-1]["settings"]}
    shown = as_frame(evidence_table(comparison, "layers", settings))
    pd.testing.assert_frame_equal(shown, layer_table(comparison, settings), check_names=False)
    went = as_frame(evidence_table(comparison, "predictions", settings)).droplevel("class")
    forgotten = comparison.data.classes[comparison.split.forget_classes[0]]
    model, loader = comparison.oracle, comparison.sides["test_forget"]
    called = logits(model, loader)[0].argmax(1).bincount(minlength=10)/len(comparison.split.test_forget)
    assert went.loc["oracle", comparison.data.classes].tolist() == pytest.approx(called.tolist(), abs=1e-6)
    assert went.loc["oracle", forgotten] == 0 and went.loc["oracle", "apart"] == 0


# The search

@pytest.fixture(scope="module")
def objective(place): return OracleObjective("digits", "class", (0,), place, changes=SHORT)


@pytest.mark.long
def test_a_search_keeps_what_the_objective_says(objective, place):
    ask = dict(budget=2, methods=["random_label", "fisher"], folder=place, objective=objective)
    found = tune_classifiers("digits", "class", **ask)
    trials = found["random_label"]["trials"]
    told = objective(get_classifier_method("random_label")(**found["random_label"]["settings"]))
    best = max(trials, key=lambda trial: trial["score"])
    assert len(trials) == 2
    assert [told["forgetting"], told["retained"]] == pytest.approx([best["forgetting"], best["retained"]])
    assert best["score"] == pytest.approx(min(told.values()))
    assert found["fisher"]["settings"] == get_classifier_method("fisher").fixed
    assert found["random_label"]["fixed"] == {"max_grad_norm": 1., "lr_scheduler": "Cosine"}
    assert tune_classifiers("digits", "class", **ask) == found


def test_an_objective_is_that_of_its_protocol(objective, place):
    assert OracleObjective("digits", "class", (0,), place, changes=SHORT).oracles == objective.oracles
    comparison = objective.comparisons[0]
    assert objective.look(comparison, comparison.oracle) == objective.oracles[0]
    assert objective.description["changes"] == SHORT


def test_what_is_searched_and_who_takes_part():
    space = search_space("scrub", find=get_classifier_method)
    assert set(space) == {"learning_rate", "distillation_weight", "temperature"}
    assert set(comparable("class")) - set(comparable("random")) == {"unsir"}
    with pytest.raises(ValueError, match="did you mean 'scrub'"):
        tuned_classifier("digits", "class", "scrubb")
    with pytest.raises(ValueError, match="did you mean 'digits'"): tuned_path("digit", "class")


# (protocol, kind) of which methods are not searched yet; they run with what they hold fixed
NEW = {"lfssd", "jit", "mumis", "amun"}
UNSEARCHED = {
    ("digits", "class"): set(),
    ("digits", "random"): NEW,
    ("emoji_classes", "class"): NEW,
    ("emoji_classes", "random"): NEW,
}


def test_shipped_settings_are_valid():
    "Tuned settings are accepted by their methods, and every method that can take part has some."
    shipped = [(p, k) for p in ("digits", "emoji_classes") for k in ("class", "random")]
    for protocol, kind in shipped:
        records = read_json(tuned_path(protocol, kind))
        assert set(records) == set(comparable(kind)) - UNSEARCHED[protocol, kind]
        for name, record in records.items(): get_classifier_method(name)(**record["settings"])
        # one budget for everybody
        assert len({len(r["trials"]) for r in records.values() if r["space"]}) == 1


def test_what_a_shell_can_choose(short, tmp_path):
    "Net, class and hyper-parameters, and a method that reads no data."
    chosen = ["forget=3", "seeds=0", 'training={"num_epochs": 1, "optimizer": "Adam(lr=0.003)"}']
    chosen += [
        "architecture=alexnet",
        'options={"width": 2}',
        'overrides={"zero_shot": {"num_train_epochs": 1}}',
    ]
    batch_classifiers("digits", ["zero_shot"], chosen, tmp_path, False)
    (row,) = [read_json(p) for p in (tmp_path / "classification" / "runs").glob("*zero_shot*.json")]
    assert (row["kind"], row["asked"], row["settings"]["num_train_epochs"]) == ("class", ["3"], 1)
    assert row["oracle"]["forget"] == 0
    # A run with a class of one's own is no part of the benchmark's page.
    with pytest.raises(FileNotFoundError, match="run `vu batch --task digits` first"):
        report_classifiers("digits", base_folder=tmp_path)


def test_a_folder_of_pictures_is_a_benchmark(tmp_path):
    "`vu batch --task folder -p folder=...`: pictures in a folder a class."
    import numpy as np
    from PIL import Image
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for label, grey in (("dark", 40), ("bright", 200), ("middle", 120)):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = (grey + random.integers(-30, 30, (32, 32, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / label / f"{i}.png")
    asked = [f"folder={tmp_path / 'data'}", "size=32", "forget=dark", "seeds=0", "architecture=karpathynet"]
    asked += ['options={"width": 2}', 'training={"num_epochs": 1, "batch_size": 8}']
    page, table = batch_classifiers("folder", ["finetune"], asked, tmp_path, False)
    assert set(pd.read_csv(table)["method"]) == {"original", "other_oracle", "finetune"} and page.is_file()


@pytest.mark.long
@in_this_process()
def test_the_notebook_runs(short, tmp_path):
    import papermill

    from vision_unlearning.running.stages import pipeline_path
    asked = dict(methods=["finetune"], forget=["3"], seeds=[0], base_folder=str(tmp_path))
    asked |= dict(training=dict(num_epochs=1))
    papermill.execute_notebook(
        str(pipeline_path("classifiers")), str(tmp_path / "out.ipynb"), asked, progress_bar=False
    )
    assert (tmp_path / "classification" / "report_digits.html").is_file()
