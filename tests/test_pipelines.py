"""The papermill notebooks, end to end on the tiny pipeline, and what happens when they are asked wrongly or
killed."""
import ast
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from kills import Kill, Run
from PIL import Image

from vision_unlearning.benchmarks import rt_name_to_class
from vision_unlearning.core import ForeignFileError
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.running import notebooks
from vision_unlearning.running.batch import batch_status, run_batch
from vision_unlearning.running.missing import missing_work
from vision_unlearning.running.notebooks import run_pipeline
from vision_unlearning.running.page import answers_path, report_path
from vision_unlearning.running.session import (
    generate_session,
    plan_sessions,
    read_scores,
    recorded_sessions,
    unlearn_session,
)
from vision_unlearning.running.stages import PIPELINES, check_parameters, pipeline_parameters, pipeline_path
from vision_unlearning.running.testbeds import prepare_task
from vision_unlearning.store import Store, image_name, read_json
from vision_unlearning.unlearners.callbacks import Callback

root = Path(__file__).resolve().parents[1]


def files(folder) -> dict:
    "Every file below a folder, with its time of writing."
    return {
        p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """A CLIP and a judge of real classes with random weights: what they say means nothing, but they say it
    the same way."""
    import torch

    from vision_unlearning.data.emoji import emoji_entities
    from vision_unlearning.models import Judge, save_judge
    folder = tmp_path_factory.mktemp("eyes")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge({"emoji": [e["name"] for e in emoji_entities("emoji")]}, widths=(8, 8, 8, 8))
    save_judge(judge, folder / "judge")
    return dict(clip="tiny", judge=str(folder / "judge"))


# The notebooks themselves

@pytest.mark.parametrize("stage", PIPELINES)
def test_parameters_are_typed_and_explained(stage):
    known = pipeline_parameters(stage)
    for name, p in known.items():
        assert p.type != "None" and p.help, f"{name} of {stage} has no type or no comment"
    defaults = {name: p.default for name, p in known.items()}
    # given, not filled in: a default that is not of its own type is refused
    draws = stage in ("generate", "canvas")
    as_the_task_says = {"num_inference_steps": 12, "guidance_scale": 3.} if draws else {}
    assert check_parameters(stage, defaults) == {**defaults, **as_the_task_says}


@pytest.mark.parametrize("stage", PIPELINES)
def test_pipelines_are_thin(stage):
    for cell in json.loads(pipeline_path(stage).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code": continue
        long = [
            n.name
            for n in ast.walk(ast.parse("".join(cell["source"])))
            if isinstance(n, ast.FunctionDef) and n.end_lineno - n.lineno >= 5
        ]
        assert not long, f"{long} belong in the library"


def test_notebooks_are_found_in_a_wheel_and_in_a_checkout(tmp_path):
    package = tmp_path / "vision_unlearning"
    with pytest.raises(FileNotFoundError, match="1_prepare.ipynb is neither in"):
        pipeline_path("prepare", package)
    checkout, wheel = tmp_path / "nbs" / "pipelines", package / "pipelines"
    for folder in (checkout, wheel):
        folder.mkdir(parents=True)
        (folder / "1_prepare.ipynb").touch()
        assert pipeline_path("prepare", package).parent == folder
    assert pipeline_path("prepare") == root / "nbs" / "pipelines" / "1_prepare.ipynb"


# Asked wrongly

@pytest.mark.parametrize("stage, parameters, message", [
    ("unlearn", {"entitis": ["fox"]}, "did you mean 'entities'"),
    ("unlearn", {"entities": "fox"}, r"must be list\[str\]"),
    ("unlearn", {"entities": ["foxx"]}, "did you mean 'fox'"),
    ("unlearn", {"entities": ["fox", "fox"]}, "twice"),
    ("unlearn", {"method": "uec"}, "did you mean 'uce'"),
    ("unlearn", {"task": "emojy"}, "did you mean 'emoji'"),
    ("unlearn", {"overrides": {"erase_scael": 2}}, "did you mean 'erase_scale'"),
    ("unlearn", {"overrides": {"erase_scale": -2}}, "erase_scale: Input should be greater than 0"),
    ("unlearn", {"task": "people", "entities": ["x"]}, "is not prepared"),
    ("generate", {"model": "tiny", "entities": ["fox"]}, "run `vu run unlearn`"),
    ("results", {"methods": ["uec"]}, "did you mean 'uce'"),
])
def test_wrong_parameters_leave_nothing(tmp_path, stage, parameters, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_pipeline(stage, parameters, Store(tmp_path), progress=False)
    assert not files(tmp_path)


@pytest.mark.long(12)
def test_one_line_and_exit_code_2(tmp_path):
    vu = [
        Path(sys.executable).with_name("vu"),
        "run",
        "unlearn",
        "-p",
        "entities=foxx",
        "--base-folder",
        tmp_path,
    ]
    done = subprocess.run(vu, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "error: unknown entity 'foxx'; did you mean 'fox' or 'frog'?\n",
    )


# The whole chain

@pytest.mark.long(45)
def test_chain(tmp_path, eyes, capsys):
    store, emitters = Store(tmp_path), ["fox", "violin"]
    small = dict(
        seeds=[42],
        model="tiny",
        num_inference_steps=2,
        n_permutations=99,
        similarities=["clip"],
        pair_metrics=["clip_diff"],
        max_figures=1,
    )
    batch = lambda: run_batch("emoji", ["uce"], emitters, store, progress=False, **small, **eyes)
    executed = batch()
    assert capsys.readouterr() == ("", ""), "silent means silent"
    assert list(executed) == [
        "prepare",
        "explore",
        "unlearn_uce",
        "generate_uce",
        "interference_uce",
        "results",
        "report",
        "answers",
    ]
    sessions = plan_sessions(store, "emoji", "uce", emitters, "tiny")
    assert [r["status"] for r in recorded_sessions(store).values()] == ["complete"] * 2
    for session in sessions:
        pair = read_json(store.pair("emoji", session.index, "uce", 0))
        assert len(pair) == 100 and len(read_scores(store, session)["receiver"].unique()) == 100
        assert Image.open(store.generated(session) / image_name("on", 42, "An image of crab")).size == (
            16,
            16,
        )
    report = report_path(store, "emoji", "tiny").read_text(encoding="utf-8")
    answers = answers_path(store, "emoji", "tiny")
    for page in (report, answers.read_text(encoding="utf-8")):
        assert all(e in page for e in emitters) and "src=\"http" not in page and "src='http" not in page
    table = pd.read_csv(answers.with_suffix(".csv"))
    assert (
        set(table["template"]) == set(rt_name_to_class)
        and table.loc[table["skipped"].isna() & table["file"].notna(), "file"]
        .map(lambda f: (store.base / f).is_file())
        .all()
    )
    assert batch_status(store).iloc[0].to_dict() == dict(
        model="tiny",
        task="emoji",
        method="uce",
        epochs=0,
        retain="all",
        sessions=2,
        generated=2,
        scored=2,
        unfinished="",
        untouched=98,
    )
    for path in executed.values():
        cells = read_json(path)["cells"]
        assert not any(o["output_type"] == "error" for c in cells for o in c.get("outputs", []))

    before = files(tmp_path)
    assert batch() == executed and files(tmp_path) == before, "a rerun of a complete batch does nothing"

    # One lost picture is all that is missing, and it comes back as it was.
    lost = store.generated(sessions[1]) / image_name("on", 42, "An image of crab")
    bytes_before = lost.read_bytes()
    lost.unlink()
    asked = check_parameters(
        "generate", dict(entities=emitters, seeds=[42], model="tiny", num_inference_steps=2)
    )
    assert missing_work("generate", asked, store) == [f"1 on images of {sessions[1].slug}"]
    assert (
        generate_session(store, sessions[1], tiny_pipeline(), [42], num_inference_steps=2, guidance_scale=3.0)
        == 1
    )
    assert (
        np.abs(
            np.asarray(Image.open(lost), int) - np.asarray(Image.open(io.BytesIO(bytes_before)), int)
        ).max()
        <= 1
    )

    # Other settings under the same name stop, and what is there stays.
    with pytest.raises(ValueError, match="other settings"):
        run_pipeline(
            "unlearn",
            dict(entities=["fox"], model="tiny", overrides={"erase_scale": 2.0}),
            store,
            progress=False,
        )


@pytest.mark.long(5)
def test_failed_notebooks_are_kept_apart(tmp_path):
    store = Store(tmp_path)
    store.metadata("emoji").write_text("[{")
    with pytest.raises(ForeignFileError, match=r"is not JSON .* \(see .*-failed.ipynb\)"):
        run_pipeline("prepare", {}, store, progress=False)
    (kept,) = store.executed("x").parent.iterdir()
    assert kept.stem.endswith("-failed") and any(
        o["output_type"] == "error" for c in read_json(kept)["cells"] for o in c.get("outputs", [])
    )
    store.metadata("emoji").unlink()
    executed = run_pipeline("prepare", {}, store, progress=False)
    assert [executed] == list(kept.parent.iterdir()), "a good run replaces a failed one"


# Killed

def test_a_kernel_that_is_killed_while_it_computes_is_noticed(tmp_path, monkeypatch):
    "As the machine does where memory is out: no message is left behind, and nobody answers any more."
    computing, notebook = tmp_path/"computing", nbformat.v4.new_notebook()
    source = f"import pathlib, time\npathlib.Path({str(computing)!r}).touch()\ntime.sleep(600)"
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    nbformat.write(notebook, tmp_path/"long.ipynb")
    monkeypatch.setattr(notebooks, "pipeline_path", lambda stage: tmp_path/"long.ipynb")
    with notebooks.SharedKernel() as kernel:
        def kill():
            while not computing.exists(): time.sleep(.05)
            os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
        threading.Thread(target=kill, daemon=True).start()
        with pytest.raises(ChildProcessError, match="the Python that runs explore died"):
            notebooks.execute("explore", {}, tmp_path/"kept.ipynb", kernel, progress=False)
    assert not (tmp_path/"kept.ipynb").exists()


class DieAt(Callback):
    "Killed after a step of the training."
    def __init__(self, step): self.step = step
    def after_step(self, state):
        if state.step == self.step: os.kill(os.getpid(), signal.SIGKILL)


def planned(folder):
    "A session that trains, in a store of its own."
    return plan_sessions(Store(folder), "emoji", "distil", ["fox"], "tiny", {"num_train_epochs": 2})[0]


def train_and_draw(folder, *callbacks):
    "The session from its start to its pictures; what is there is not made again."
    store, session, pipe = Store(folder), planned(folder), tiny_pipeline()
    prepare_task(store, "emoji")
    unlearn_session(store, session, pipe, "tiny", callbacks)
    generate_session(store, session, pipe, [42, 43], num_inference_steps=2, batch_size=10)


@pytest.mark.long(10)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork is what is killed")
def test_killed_sessions_continue(tmp_path):
    import torch

    from vision_unlearning.unlearners.base import load_edit
    base, undisturbed = tmp_path / "killed", tmp_path / "whole"
    store, session = Store(base), planned(base)
    assert Run(train_and_draw, undisturbed).end()

    assert not Run(lambda folder: train_and_draw(folder, DieAt(3)), base).end()
    assert not store.model(session).exists(), "half an edit under the name of a whole one"

    assert not Run(train_and_draw, base, Kill(event=400)).end()
    assert read_json(store.record(session))["status"] == "unlearned"
    pictures = list(base.rglob("on_*.png"))
    assert 10 < len(pictures) < 180
    for picture in pictures: Image.open(picture).load()
    kept = [*pictures, *store.model(session).glob("*.safetensors")]
    times = {path: path.stat().st_mtime_ns for path in kept}

    assert Run(train_and_draw, base).end()
    assert not [path for path, time in times.items() if path.stat().st_mtime_ns != time], "made again"
    folder, whole = store.generated(session), Store(undisturbed).generated(session)
    assert sorted(p.name for p in folder.glob("on_*")) == sorted(p.name for p in whole.glob("on_*"))
    # The order of names in a safetensors header is that of the process; the tensors are what counts.
    edits = [load_edit(Store(b).model(session)).tensors for b in (base, undisturbed)]
    assert all(torch.equal(t, edits[1][n]) for n, t in edits[0].items()), (
        "a restarted training gives the edit of an undisturbed one"
    )
    # A picture made in another batch may differ in the last bit of a channel.
    for p in whole.glob("on_*"):
        assert (
            np.abs(np.asarray(Image.open(p), int) - np.asarray(Image.open(folder / p.name), int)).max() <= 1
        )
    assert read_json(store.record(session))["status"] == "generated"
