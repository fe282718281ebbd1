"Names that others wrote stay inside of the base folder; a folder that is being filled is nobody's leftover."
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict

import pandas as pd
import pytest

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.testbed import write_entities
from vision_unlearning.files import clear_leftovers, recover
from vision_unlearning.running.notebooks import run_pipeline
from vision_unlearning.running.session import claim_baseline, plan_sessions, recorded_sessions
from vision_unlearning.store import Session, Store, read_entities, write_json

CLIMBING = "x/../../../outside"


@pytest.fixture
def store(tmp_path): return Store(tmp_path / "base")


@pytest.mark.parametrize(
    "path",
    [
        lambda s: s.metadata(CLIMBING),
        lambda s: s.similarity(CLIMBING, "emoji"),
        lambda s: s.split("emoji", "..", "forget"),
        lambda s: s.split("emoji", "fox", CLIMBING),
        lambda s: s.model(Session("emoji", "fox", 0, CLIMBING)),
        lambda s: s.generated(Session(CLIMBING, "fox", 0, "uce")),
        lambda s: s.pair("emoji", CLIMBING, "uce", 0),
        lambda s: s.pair("emoji", 0, "uce", CLIMBING),
        lambda s: s.result("Matrix", CLIMBING),
        lambda s: s.embeddings("emoji", Session("emoji", "a/b", 0, "uce")),
        lambda s: s.features("emoji", CLIMBING),
        lambda s: s.executed(CLIMBING),
    ],
)
def test_no_path_leaves_the_base_folder(store, path):
    with pytest.raises(ValueError, match="cannot be a file name"): path(store)


def test_a_foreign_index_does_not_become_a_path(store):
    write_json(store.metadata("people"), [{"name": "a", "index": CLIMBING, "dataset_n_original": 1}])
    with pytest.raises(ForeignFileError, match="metadata_people_2.* index"):
        plan_sessions(store, "people", "uce", ["a"], "tiny")
    # published tables have no index: it is the place
    write_json(store.metadata("people"), [{"name": "a"}, {"name": "b"}])
    assert [s.index for s in plan_sessions(store, "people", "uce", [], "tiny")] == [0, 1]


def test_a_record_is_about_its_own_folder(store):
    (session,) = plan_sessions(store, "emoji", "uce", ["fox"], "tiny")
    record = dict(key=session.key, session={**asdict(session), "method": CLIMBING}, status="unlearned")
    cost = dict(seconds=1., peak_memory={"bytes": 1, "kind": "x"}, edit_bytes=1, generator_seed=1)
    write_json(store.record(session), {**record, "stages": {"unlearn": cost}})
    with pytest.raises(ForeignFileError, match="is not about 'emoji_fox_uce_000'"): recorded_sessions(store)


@pytest.mark.parametrize("names", [["Fox", "fox"], ["a_b", "a b"], ["Zo\u00eb", "Zoe\u0308"]])
def test_two_names_are_two_files_on_every_system(store, names):
    table = pd.DataFrame({"name": names, "dataset_n_original": 1})
    with pytest.raises(ForeignFileError, match="rename one"): write_entities(store, "people", table)
    write_json(store.metadata("people"), [{"name": name} for name in names])
    with pytest.raises(ForeignFileError, match="rename one"): read_entities(store, "people")


def test_the_base_folder_is_taken_as_a_shell_would(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/runs").base == tmp_path / "runs"
    for empty in ("", " "):
        with pytest.raises(ValueError, match="base_folder is empty"): Store(empty)


@pytest.mark.parametrize("name", ["runs_{task}", "{x}", "a{}b", "a}b"])
def test_braces_in_the_base_folder_mean_themselves(tmp_path, monkeypatch, name):
    import papermill
    written = []

    def execute(notebook, output, parameters, **options):
        "What papermill does with its paths."
        path = output.format(**parameters)
        notebook.format(**parameters)
        written.append(path)
        with open(path, "w") as file: json.dump({"cells": [], "metadata": {}}, file)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    made = run_pipeline("prepare", {"task": "emoji"}, Store(tmp_path / name), progress=False)
    assert made.parent == tmp_path / name / "notebooks" and made.is_file() and written
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_mark_of_the_baseline_survives_a_kill(store):
    store.baseline("emoji").mkdir(parents=True)  # killed before the mark
    claim_baseline(store, "emoji", "A")
    with pytest.raises(ValueError, match="other weights"): claim_baseline(store, "emoji", "B")
    (store.baseline("emoji") / "weights.json").unlink()
    (store.baseline("emoji") / "off_42_An image of fox.png").touch()  # published pictures have no mark
    claim_baseline(store, "emoji", "B")
    assert not (store.baseline("emoji") / "weights.json").exists()


FILLS = """
import sys, time
from vision_unlearning.files import atomic_folder
with atomic_folder(sys.argv[1]) as place:
    (place/"deep").mkdir()
    (place/"deep"/"a.txt").write_text("a")
    print(place, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")
def test_a_folder_that_another_worker_fills_is_left_alone(tmp_path):
    command = [sys.executable, "-c", FILLS, str(tmp_path / "slow")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        place = worker.stdout.readline().strip()
        for folder, _, names in os.walk(place, topdown=False):
            for path in (folder, *(os.path.join(folder, n) for n in names)): os.utime(path, (0, 0))
        assert clear_leftovers(tmp_path) == 0
        worker.communicate("\n")
    assert (tmp_path / "slow" / "deep" / "a.txt").read_text() == "a"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        worker.stdout.readline()
        worker.kill()
    assert clear_leftovers(tmp_path) == 0 and clear_leftovers(tmp_path, 0) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["slow"]


def test_a_folder_that_stepped_aside_comes_back(tmp_path):
    for number, age in (("00000001", 100), ("00000002", 0)):
        folder = tmp_path / f".replaced-{number}-my edit"
        folder.mkdir()
        (folder / "a.txt").write_text(number)
        os.utime(folder, (time.time() - age,) * 2)
    assert not recover(tmp_path / "edit")
    assert recover(tmp_path / "my edit") and (tmp_path / "my edit" / "a.txt").read_text() == "00000002"
    assert clear_leftovers(tmp_path, 0) == 1 and [p.name for p in tmp_path.iterdir()] == ["my edit"]
