"A store that was written before settings had one vocabulary is read, and draws what it drew."
import pytest

from vision_unlearning.core import config_hash
from vision_unlearning.running.session import plan_sessions
from vision_unlearning.store import Store, claim, first_settings, write_json
from vision_unlearning.unlearners.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_record_of_the_first_version_is_found(method, tmp_path):
    store = Store(tmp_path)
    (session,) = plan_sessions(store, "emoji", method, ["fox"])
    old = first_settings(method, session.settings)
    identity = dict(task="emoji", entity="fox", method=method, epochs=session.epochs, model=session.model)
    key = config_hash({**identity, "settings": old})
    about = {**identity, "index": session.index, "settings": old}
    stages = {"unlearn": {"seconds": 1.0, "edit_bytes": 64}}
    record = {"key": key, "session": about, "status": "unlearned", "stages": stages}
    write_json(store.record(session), record)
    (again,) = plan_sessions(store, "emoji", method, ["fox"])
    assert again.settings == session.settings
    assert claim(store, again) == record
