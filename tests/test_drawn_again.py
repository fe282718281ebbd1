"""Pictures that were lost are drawn and scored again; a session does not stay unfinished."""
import shutil

import pytest
from kills import in_this_process

from vision_unlearning.running.batch import Workers, run_batch
from vision_unlearning.running.session import plan_sessions
from vision_unlearning.store import Store, read_record, write_json

SMALL = dict(model="tiny", clip="tiny", seeds=[42], num_inference_steps=1, metrics=["clip_diff"], embed=False)


@pytest.mark.parametrize("engine", ["local", ""])
def test_lost_pictures_are_drawn_and_scored_again(tmp_path, engine):
    store, stages = Store(tmp_path), ("unlearn", "generate", "interference")
    write_json(store.metadata("emoji"), [dict(name=name, index=i) for i, name in enumerate(("fox", "key"))])
    how = Workers(engine) if engine else None
    asked = ("emoji", ["uce"], ["fox"], store)
    def batch():
        with in_this_process(): return run_batch(*asked, stages=stages, progress=False, how=how, **SMALL)
    batch()
    (session,) = plan_sessions(store, "emoji", "uce", ["fox"], "tiny")
    scores = store.scores(session).read_bytes()
    assert read_record(store.record(session))["status"] == "complete"
    shutil.rmtree(store.generated(session))
    batch()
    record = read_record(store.record(session))
    assert record["status"] == "complete" and record["stages"]["generate"]["images"] == 2
    assert store.scores(session).read_bytes() == scores
    batch()
    assert read_record(store.record(session)) == record, "nothing was left to do"
