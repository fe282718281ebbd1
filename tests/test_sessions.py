"""A session is done once: its record is read, settings that appeared later are filled in, others refused."""
import pytest

from vision_unlearning.core import MissingSessionError
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.running.session import finished, plan_sessions, require_edits, unlearn_session
from vision_unlearning.store import Store, write_json


@pytest.fixture
def store(tmp_path): return Store(tmp_path)


def plan(store, name, overrides=None):
    return plan_sessions(store, "emoji", "uce", [name], "tiny", overrides or {})[0]


@pytest.fixture
def done(store):
    "(session, record) of a fox that was unlearned."
    session = plan(store, "fox")
    return session, unlearn_session(store, session, tiny_pipeline(), "tiny")


def test_the_second_call_returns_the_same_record(store, done):
    session, record = done
    assert unlearn_session(store, session, tiny_pipeline(), "tiny") == record


def test_a_record_from_before_a_setting_existed(store, done):
    session, record = done
    older = {name: value for name, value in session.settings.items() if name != "positions"}
    write_json(store.record(session), {**record, "session": {**record["session"], "settings": older}})
    assert plan(store, "fox").settings == older
    assert plan(store, "fox", {"positions": "last"}).settings["positions"] == "last"


def test_other_weights_and_other_settings_are_refused(store, done):
    with pytest.raises(ValueError, match="other weights of tiny"): finished(store, done[0], "retrained")
    with pytest.raises(ValueError, match="other settings"):
        finished(store, plan(store, "fox", {"erase_scale": 3}), "tiny")


def test_what_is_missing_or_was_put_there_by_hand(store):
    with pytest.raises(MissingSessionError, match="no edit yet for fox"):
        require_edits(store, [plan(store, "fox")], "tiny")
    violin = plan(store, "violin")
    store.model(violin).mkdir(parents=True)
    with pytest.raises(ValueError, match="has no record.json"):
        unlearn_session(store, violin, tiny_pipeline(), "tiny")
