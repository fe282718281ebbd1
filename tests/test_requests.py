"""Several names, several requests, in Python and from a shell: each is erased and checked as what it is."""
import json

import pandas as pd
import pytest

from vision_unlearning.models import tiny_pipeline
from vision_unlearning.running.check import plan_check
from vision_unlearning.running.cli import main
from vision_unlearning.running.erase import unlearn_requests
from vision_unlearning.store import read_json
from vision_unlearning.unlearners.base import attached, get_method

FEW = dict(num_train_steps=1, num_inference_steps=1, rollout_batch_size=1, train_batch_size=1)


def test_a_shell_names_several_requests_and_names_with_commas(tmp_path, capsys):
    out = tmp_path/"two"
    words = ["--concept", "kids | children", "--concept", "Bush, George W", "--out", str(out)]
    words += ["--preserve", '"Blair, Tony"', "--preserve", "key, violin", "--model", "tiny", "--clip", "tiny"]
    words += ["--candidates", "wolf, castle, crab, fox, bell", "--num-inference-steps", "1", "--one-by-one"]
    with pytest.raises(SystemExit) as left: main(["erase", *words, "--json"])
    assert left.value.code in (1, 3)  # random weights draw nothing that could be recognised
    printed = capsys.readouterr().out
    facts = json.loads(printed)
    assert printed.count("\n") == 1 and facts["exit_code"] == left.value.code
    assert facts["verdict"] == {1: "NO-GO", 3: "NO-VERDICT"}[left.value.code]
    assert [criterion["text"] in printed for criterion in facts["criteria"]] and facts["out"] == str(out)
    said, table = read_json(out/"erasure.json"), pd.read_parquet(out/"measurements.parquet")
    assert said["requests"] == [["kids", "children"], ["Bush, George W"]]
    assert said["preserve"] == ["Blair, Tony", "key", "violin"]
    assert said["concept"] == facts["concept"] == "kids | children and Bush, George W"
    assert facts["requests"] == said["requests"] and facts["seconds"] > 0
    assert set(table["request"]) == {"kids | children", "Bush, George W", ""}
    assert sum("in all wordings together" in reason for reason in said["reasons"]) == 2


def test_one_request_is_planned_as_before_there_were_several():
    pipe, candidates = tiny_pipeline(), ["wolf", "castle", "crab", "fox", "bell", "key"]
    plan = plan_check(pipe, "fox", ["violin"], candidates, neighbours=2, others=1, paraphrases=())
    same = plan_check(pipe, [["fox"]], ["violin"], candidates, neighbours=2, others=1, paraphrases=())
    assert plan.table.equals(same.table) and plan.kept == same.kept and plan.neighbours == same.neighbours
    assert plan.table["group"].drop_duplicates().tolist() == ["concept", "neighbour", "preserve", "other"]


def test_many_requests_leave_others_to_look_at():
    requests = [["fox"], ["crab", "lobster"], ["bell"]]
    candidates = ["wolf", "castle", "crab", "fox", "bell", "key", "violin", "kite", "owl"]
    plan = plan_check(tiny_pipeline(), requests, (), candidates, neighbours=8, others=2, paraphrases=())
    near = plan.table[plan.table["group"] == "neighbour"]
    assert len(plan.table[plan.table["group"] == "other"]) >= 2 and set(near["request"]) <= {
        "fox", "crab | lobster", "bell"
    }
    assert not {"fox", "crab", "lobster", "bell"} & {*near["name"], *plan.kept}


@pytest.mark.parametrize("method", ["uce", "esd", "spm"])
def test_one_by_one_is_one_edit_of_the_same_kind(method):
    pipe, cls = tiny_pipeline(), get_method(method)
    unlearner = cls(**{k: v for k, v in FEW.items() if k in cls.model_fields})
    requests = [["red"], ["kids", "children"]]
    edits = [unlearn_requests(pipe, unlearner, requests, ["key"], turn) for turn in (False, True)]
    assert attached(pipe) == [] and edits[0].kind == edits[1].kind
    assert edits[0].info["forget"] == edits[1].info["forget"] == ["red", "kids", "children"]
    with pytest.raises(ValueError, match="belong to one request"):
        unlearn_requests(pipe, unlearner, requests, ["key"], True, ["pictures"])
