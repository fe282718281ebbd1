"""The real testbeds from raw sources to the report, offline on stand-ins: every line of their pipelines."""
import json

import pandas as pd
import pytest
from kills import in_this_process

from vision_unlearning.data.testbed import read_split
from vision_unlearning.running.answers import ask_all
from vision_unlearning.running.page import answers_path, report_path
from vision_unlearning.running.session import recorded_sessions
from vision_unlearning.running.smoke import SMOKE, run_smoke
from vision_unlearning.running.stages import STAGES
from vision_unlearning.running.testbeds import find_testbeds
from vision_unlearning.store import Store, read_entities, read_json

METHODS = {
    "people": ["uce", "munba", "distil"],
    "breeds": ["distil"],
    "scenes": ["esd"],
    "objects": ["uce"],
    "art": ["rece"],
}
IN_A_KERNEL = "breeds"  # as a user's batch runs; the others spare themselves the imports


@pytest.mark.long(25)
@pytest.mark.parametrize("task", find_testbeds())
def test_smoke(tmp_path, task):
    # every question is asked of the tasks with one method; the one with three ends with the report
    asked = len(METHODS[task]) == 1
    as_a_user = task == IN_A_KERNEL
    if as_a_user: run_smoke(task, METHODS[task], tmp_path, progress=False, max_figures=1)
    else:
        with in_this_process():
            run_smoke(task, METHODS[task], tmp_path, progress=False, stages=STAGES[:-1])
    store = Store(tmp_path / "smoke")
    assert [p.name for p in tmp_path.iterdir()] == ["smoke"], "stand-ins stay in a folder of their own"
    names = [e["name"] for e in read_entities(store, task)]
    sessions = recorded_sessions(store, task)
    assert [r["status"] for r in sessions.values()] == ["complete"] * 2 * len(METHODS[task])
    assert {s.entity for s in sessions} == set(names[:2])
    for session in sessions:
        assert set(read_json(store.pair(task, session.index, session.method, session.epochs))) == set(names)
    if task in ("people", "breeds"):
        forget, retain = read_split(store, task, names[0])
        assert (
            len(retain) == (len(names) - 1) * len(forget)
            and {"people": "An image of a child", "breeds": "An image of a cat"}[task] in forget["overwrite"]
        )
    page = report_path(store, task, "tiny").read_text(encoding="utf-8")
    assert names[0].replace("_", " ") in page.replace("_", " ")
    if asked:
        if as_a_user: answers = pd.read_csv(answers_path(store, task, "tiny").with_suffix(".csv"))
        else: answers, _ = ask_all(store, task, n_permutations=SMOKE["n_permutations"])
        assert answers["file"].notna().sum() > len(answers) / 3, answers["skipped"].dropna().tolist()
    for path in (store.base / "notebooks").glob("*.ipynb"):
        assert not path.stem.endswith("failed") and not any(
            o["output_type"] == "error"
            for c in json.loads(path.read_text())["cells"]
            for o in c.get("outputs", [])
        )
