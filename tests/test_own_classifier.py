"A classifier method of one's own comes in by the door of the others: by a shell, to page, status and report."
import json
import sys

import pytest
from shell import refused, vu

from vision_unlearning import tasks
from vision_unlearning.oracle import classification
from vision_unlearning.oracle.class_interference import class_interference
from vision_unlearning.oracle.tuned import askable, comparable
from vision_unlearning.results.base import read_pairs
from vision_unlearning.running.classifiers import classifier_status, stored_runs
from vision_unlearning.running.notebooks import execute, run_pipeline
from vision_unlearning.running.stages import check_parameters
from vision_unlearning.store import Store, read_json, read_record
from vision_unlearning.unlearners.methods import (
    CLASSIFIER_METHODS,
    METHODS,
    check_known_method,
    known_methods,
    method_color,
    method_label,
)

MINE = '''
from typing import ClassVar
import torch
from vision_unlearning.unlearners.base import Unlearner, WeightEdit, denoiser
from vision_unlearning.unlearners.classifiers.base import ClassifierUnlearner
from vision_unlearning.unlearners.diffusion.uce import projections, stored_values


class Shrink(ClassifierUnlearner):
    "Makes the weights small by which the forgotten classes are answered."
    name: ClassVar[str] = "shrink"
    label: ClassVar[str] = "Shrinking"
    color: ClassVar[str] = "#AA00AA"
    sides: ClassVar[tuple] = ("forget",)
    factor: float = .5  # of the weights

    def change(self, run, callbacks):
        with torch.no_grad(): list(run.student.parameters())[-2][run.forget.classes()] *= self.factor


class Fade(Unlearner):
    "Makes the cross-attention weaker, whatever is asked for."
    name: ClassVar[str] = "fading"
    label: ClassVar[str] = "Fading"
    kind: ClassVar[str] = "text-to-image"
    reads: ClassVar[str] = "names"
    strength: float = .5  # 0 leaves all, 1 takes all

    def unlearn(self, model, forget, retain=None, *, generator=None, callbacks=()):
        network = denoiser(model)
        weaker = {n: w.detach()*(1 - self.strength) for n, w in projections(network).items()}
        tensors = stored_values(network, projections(network), weaker)
        return WeightEdit(tensors, {"method": self.name, "settings": self.model_dump(mode="json")})
'''
QUICK = "-p kinds=class -p seeds=0"


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    "Each test opens its own base folders, and nothing was brought before."
    monkeypatch.setattr(tasks, "_opened", {})
    for door in (METHODS, CLASSIFIER_METHODS): monkeypatch.setattr(door, "brought", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    short = classification.PROTOCOLS["digits"].model_copy(update=dict(num_epochs=1))
    monkeypatch.setitem(classification.PROTOCOLS, "digits", short)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A working folder with a file."
    (tmp_path/"mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path/"mine.py"


@pytest.mark.long(8)
def test_through_a_shell_to_page_status_and_report(mine, capsys):
    batch = f"batch --task digits --methods mine.py:Shrink,finetune {QUICK} --base-folder out -q"
    page, table = vu(batch, capsys).split()
    assert "shrink is mine.py:Shrink (sha256 " in open(page).read() and "shrink" in open(table).read()
    rows = {row["method"]: row for row in stored_runs("digits", "out/classification")}
    assert set(rows) == {"original", "other_oracle", "finetune", "shrink"}
    assert rows["shrink"]["settings"]["factor"] == .5
    assert rows["shrink"]["method_from"]["reference"] == "mine.py:Shrink"
    assert "shrink" in askable("random") and "shrink" not in comparable("random")
    # another process knows it by its card, and imports nothing
    CLASSIFIER_METHODS.brought.clear()
    mine.unlink()
    assert (method_label("shrink"), method_color("shrink")) == ("Shrinking", "#AA00AA")
    assert {row["method"] for row in stored_runs("digits", "out/classification")} == set(rows)
    assert classifier_status("out").loc[0, "methods"] == 4
    assert "shrink" in open(vu("report --task digits --base-folder out", capsys).split()[0]).read()
    said = refused(f"batch --task digits --methods shrink {QUICK} --base-folder out -q", capsys)
    assert "shrink, from mine.py:Shrink, was brought by name; name it so again" in said


@pytest.mark.long(5)
def test_another_version_of_a_file_is_not_mixed_with_the_first(mine, capsys):
    batch = f"batch --task digits --methods mine.py:Shrink {QUICK} --base-folder out -q"
    vu(batch, capsys)
    mine.write_text(MINE.replace("factor: float = .5", "factor: float = .6"))
    assert "has results of the classifier method 'shrink' from mine.py:Shrink" in refused(batch, capsys)


@pytest.mark.parametrize("words, said", [
    ("batch --task digits --methods mine.py:Shrunk", "did you mean 'Shrink'?"),
    ("batch --task digits --methods mine.py:Fade", "a classifier benchmark takes methods for classifiers"),
    ("batch --task emoji --methods mine.py:Shrink", "a task of pictures takes text-to-image methods"),
    ("batch --task digits --methods thief.py:Shrink", "as a classifier method of the library"),
    ("batch --task digits --methods scrubb", "unknown classifier method 'scrubb'; did you mean 'scrub'?"),
    ("report --task digits --methods mine.py:Shrunk", "did you mean 'Shrink'?"),
    ("run classifiers -p task=digits -p methods=mine.py:Shrunk", "did you mean 'Shrink'?"),
])
def test_what_cannot_come_in_is_one_line_and_nothing_is_written(mine, capsys, words, said):
    (mine.parent/"thief.py").write_text(MINE.replace('"shrink"', '"scrub"'))
    before = sorted(mine.parent.iterdir())
    assert said in refused(f"{words} --base-folder out", capsys)
    assert sorted(mine.parent.iterdir()) == before


@pytest.mark.filterwarnings("ignore:here destroyed")
def test_a_class_of_a_notebook_in_python(tmp_path):
    from typing import ClassVar

    from vision_unlearning.unlearners.classifiers.base import ClassifierUnlearner

    class Here(ClassifierUnlearner):
        "Turns all answers around."
        name: ClassVar[str] = "here"
        label: ClassVar[str] = "Here"
        def change(self, run, callbacks):
            for p in list(run.student.parameters())[-2:]: p.data.neg_()

    comparison = classification.Comparison("digits", "class", 0, tmp_path)
    row = classification.run_method(comparison, Here)
    original = classification.run_method(comparison, "original")
    assert row["method"] == "here" and row["numbers"]["retain"] < original["numbers"]["retain"]
    assert row["method_from"]["reference"].endswith(":Here")
    with pytest.raises(ValueError, match="%%writefile here.py"): CLASSIFIER_METHODS.command("here")


def test_tables_of_who_was_harmed(mine):
    "The results of I-CARE read them by name, also where only the card is known."
    store, short = Store("out"), dict(num_epochs=1)
    assert class_interference(store, "mine.py:Shrink", {}, ["fox"], changes=short) == 1
    CLASSIFIER_METHODS.brought.clear()
    assert check_known_method("shrink") == "shrink" and "shrink" in known_methods()
    assert len(read_pairs(store, "emoji_classes", "shrink").names) == 100
    mine.write_text(MINE.replace("factor: float = .5", "factor: float = .6"))
    with pytest.raises(ValueError, match="has results of the classifier method 'shrink'"):
        class_interference(store, "mine.py:Shrink", {}, ["wolf"], changes=short)


@pytest.mark.long(40)
def test_both_kinds_in_a_real_kernel(mine):
    "Papermill starts a process of its own, which has to bring in what this one was given."
    store = Store(mine.parent/"out")
    asked = dict(method="mine.py:Fade", entities=["fox"], model="tiny")
    executed = run_pipeline("unlearn", asked, store, progress=False)
    (path,) = store.base.glob("models/*/record.json")
    record = read_record(path)
    assert record["method_from"]["reference"] == "mine.py:Fade" and record["status"] == "unlearned"
    cells = [cell for cell in read_json(executed)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert f"{mine}:Fade" in json.dumps(cells)
    training = dict(num_epochs=2)  # of a kernel, which knows nothing of this test
    asked = dict(task="digits", methods=["mine.py:Shrink"], kinds=["class"], seeds=[0], training=training)
    asked = check_parameters("classifiers", asked | {"base_folder": str(store.base)})
    execute("classifiers", asked, mine.parent/"classifiers.ipynb", progress=False)
    (path,) = store.base.glob("classification/runs/*_shrink_*.json")
    assert read_json(path)["method_from"]["reference"] == "mine.py:Shrink"
