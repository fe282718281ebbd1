"""Every parameter of every stage changes what a finished store holds, or is refused; those that say how a run
goes, and not what comes out, change nothing.

One small store of the tiny pipeline is made once, through all stages.
Each parameter is then changed in a copy of it, where everything is there already: a stage that took what is
there for what was asked would be seen."""
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from kills import content, held, in_this_process
from PIL import Image

from vision_unlearning import tasks
from vision_unlearning.models import embedded_path
from vision_unlearning.running import questions
from vision_unlearning.running.notebooks import HOW, run_pipeline
from vision_unlearning.running.own import new_task
from vision_unlearning.running.stages import STAGES, pipeline_parameters
from vision_unlearning.store import Store

SHAPES = [
    {"name": f"{colour} {shape}", "colour": colour, "corners": corners}
    for colour in ("red", "blue")
    for shape, corners in (("triangle", 3), ("square", 4))
]
METHODS = ("uce", "prompt_filter")
OF_METHOD = dict(method="uce", entities=["red triangle", "blue square"], model="tiny")
# what the store was made with
MADE = {
    "prepare": {},
    "explore": dict(clip="tiny"),
    "unlearn": OF_METHOD,
    "generate": OF_METHOD | dict(seeds=[1], num_inference_steps=1),
    "interference": OF_METHOD | dict(seeds=[1], clip="tiny", judge="clip", encoder="emoji-clip"),
    "results": dict(model="tiny", n_permutations=19),
    "report": dict(model="tiny"),
    "answers": dict(model="tiny", n_permutations=19),
}
# No seconds: tests that are dealt to both workers would make the store in both.
pytestmark = pytest.mark.long
CLIP = str(embedded_path("emoji-clip"))
OTHER = dict(entities=["red square"])  # an emitter that nobody has asked for
OF_SESSIONS = OTHER | dict(
    task="emoji", method="sld", overrides=dict(lamb=1.), model="tiny-sd2", revision="main",
    variant="fp16", retain="half-a",
)
# stage -> parameter -> another value
CHANGED = {
    "prepare": dict(task="emoji_canvas", sources={"x": "y"}, scale="smoke", legacy=True),
    "explore": dict(task="emoji", clip="emoji-clip", attention_seeds=[1]),
    "unlearn": OF_SESSIONS | dict(dtype="bfloat16"),
    "generate": OF_SESSIONS | dict(
        dtype="bfloat16", seeds=[2], num_inference_steps=2, guidance_scale=2., height=40, width=40,
        scheduler="EulerDiscreteScheduler",
    ),
    "interference": OF_SESSIONS | dict(
        seeds=[2], metrics=["clip_diff"], clip="emoji-clip", judge="emoji-judge", encoder=CLIP
    ),
    "results": dict(
        task="emoji", methods=["uce"], entities=["blue square"], pair_metrics=["rmse"], similarities=["act"],
        entity_metric="emitter_average_rmse", n_permutations=29, model="emoji-sd", retain="half-a",
    ),
    "report": dict(
        task="emoji", methods=["uce"], entities=["blue square"], model="emoji-sd", notes=["x"], title="x",
        retain="half-a",
    ),
    "answers": dict(
        task="emoji", methods=["uce"], n_permutations=29, max_figures=0, model="emoji-sd", notes=["x"],
        templates=["SimilarityMatrix"], retain="half-a",
    ),
}
# how a run goes: another value, and what has to be asked besides so that there is something to do
HOWS = {
    "explore": (dict(device="cpu:0"), dict(clip="emoji-clip")),
    "results": (dict(device="cpu:0"), dict(n_permutations=29)),
    "answers": (dict(device="cpu:0"), dict(n_permutations=29)),
    "unlearn": (dict(device="cpu:0", offload="model"), OTHER),
    "generate": (
        dict(device="cpu:0", batch_size=3, offload="model", attention_slicing=True, compiled=True),
        dict(seeds=[2]),
    ),
    "interference": (dict(device="cpu:0", batch_size=1), dict(metrics=["rmse", "clip_diff"])),
}
# what a finished store does not show, since it is there already
APART = {("interference", "embed"), ("explore", "dtype")}


def few_questions(*asked):
    "Of each of three templates the first question that `answers` asks."
    asked = questions.questions(*asked)
    few = {question[0]: question for question in reversed(asked)}
    wanted = ("MetricSimilarityAlignment", "InterferenceMatrix", "SimilarityMatrix")
    return [few[name] for name in wanted if name in few]


@pytest.fixture(scope="module", autouse=True)
def here():
    "Notebooks run in this process, on tasks that no other test has opened."
    with (
        in_this_process(),
        mock.patch.object(tasks, "_opened", {}),
        mock.patch("vision_unlearning.running.answers.questions", few_questions),
    ):
        yield


def run(stage, folder, **changed):
    "A stage on a store, as it was made or changed."
    asked = {"task": "shapes", **MADE[stage], **changed}
    run_pipeline(stage, asked, Store(folder), progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, here):
    "A store in which every stage has run."
    folder = tmp_path_factory.mktemp("finished")
    new_task(Store(folder), "shapes", SHAPES, model="tiny")
    for stage in STAGES:
        for method in METHODS if "method" in MADE[stage] else [None]:
            run(stage, folder, **(dict(method=method) if method else {}))
    return folder


def copied(finished, folder):
    "The same store elsewhere."
    shutil.copytree(finished, folder/"store")
    return folder/"store"


CASES = [(stage, name) for stage in STAGES for name in pipeline_parameters(stage)]
CASES = [case for case in CASES if case[1] not in HOW and case not in APART]


@pytest.mark.parametrize("stage,name", CASES)
def test_a_parameter_of_a_stage_acts(stage, name, finished, tmp_path):
    assert name in CHANGED[stage], f"say in this file what else {name} of {stage} may be"
    folder = copied(finished, tmp_path)
    try: run(stage, folder, **{name: CHANGED[stage][name]})
    except (ValueError, OSError) as error:
        assert "\n" not in str(error).strip()
        print(error)
        return
    before, after = held(finished), held(folder)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in changed if not path.startswith("notebooks/")}


def test_fingerprints_are_read_in_the_format_that_is_asked(finished, tmp_path):
    folder = copied(finished, tmp_path)
    found = []
    for dtype in ("auto", "bfloat16"):
        run("explore", folder, attention_seeds=[1], dtype=dtype)
        found.append(content(next(folder.glob("act_fingerprints_*.json"))))
    assert found[0] != found[1] and "bfloat16" in str(found[1])


def test_embeddings_are_kept_where_they_are_asked_for(finished, tmp_path):
    folder = copied(finished, tmp_path)
    for path in folder.rglob("embeddings_*.json"): path.unlink()
    run("interference", folder, embed=False, encoder="")
    assert not list(folder.rglob("embeddings_*.json"))
    run("interference", folder)
    assert len(list(folder.rglob("embeddings_*.json"))) == 3  # of the baseline and of two sessions


# a record says how pictures were drawn
NOTED = re.compile(r"'(?:batch_size|offload|attention_slicing|compiled)': [^,}]*,? ?")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def alike(one: Path, other: Path) -> bool:
    "The same file, up to one grey level of a picture and the last digits of a number."
    if one.suffix == ".png":
        a, b = (np.asarray(Image.open(path)).astype(int) for path in (one, other))
        return abs(a - b).max() <= 1
    a, b = (NOTED.sub("", str(content(path))) for path in (one, other))
    if NUMBER.sub("#", a) != NUMBER.sub("#", b): return False
    return np.allclose(*(np.array(NUMBER.findall(text), float) for text in (a, b)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stage,name", [(stage, name) for stage, (hows, _) in HOWS.items() for name in hows])
def test_how_a_run_goes_changes_nothing(stage, name, finished, tmp_path):
    "Nor does where the store lies; what needs a GPU is refused without one."
    hows, what = HOWS[stage]
    plain, other = (copied(finished, tmp_path/part) for part in ("plain", "other"))
    try: run(stage, other, **what, **{name: hows[name]})
    except ValueError as error:
        assert "\n" not in str(error) and name in ("offload", "compiled")
        return
    run(stage, plain, **what)
    before, after = held(plain), held(other)
    assert before.keys() == after.keys() != held(finished).keys() or stage == "interference"
    assert [p for p in before if before[p] != after[p] and not alike(plain/p, other/p)] == []


def test_every_way_to_go_is_asked():
    "`track` needs a package of an extra, and logs beside the results."
    ways = {(stage, name) for stage in STAGES for name in pipeline_parameters(stage) if name in HOW}
    asked = {(stage, name) for stage, (hows, _) in HOWS.items() for name in hows}
    assert {case for case in ways - asked if case[1] != "base_folder"} == {("unlearn", "track")}
