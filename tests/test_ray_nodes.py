"""A node of a Ray cluster goes in the middle of a session: the batch comes to its end, nothing is lost or
done twice, and the store is that of one worker, to the bit."""
import signal
import sys
import time

import pytest
from kills import begin, cluster_of, differs, ended_well, held, nodes_at_work

from vision_unlearning.running.runs import clear_runs, held_units
from vision_unlearning.store import Store

pytest.importorskip("ray", reason='Ray is not installed: pip install "vision-unlearning[ray]"')
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a node is found by the parent of its worker"),
    pytest.mark.long(60),
]


def first_at_work(cluster, folder, driver):
    "A node in the middle of a session: its worker, and the session."
    while driver.poll() is None:
        units = {held.holder.pid: unit for unit, held in held_units(Store(folder)).items()}
        for pid, node in nodes_at_work(cluster, folder).items():
            if units.get(pid, "").startswith("emoji_"): return pid, node, units[pid]
        time.sleep(.02)
    raise AssertionError(ended_well(driver))


def test_a_node_goes_in_the_middle_of_a_session(tmp_path):
    with cluster_of(2) as cluster:
        driver = begin("ray", tmp_path / "ray", cluster.address)
        try:
            pid, node, unit = first_at_work(cluster, tmp_path / "ray", driver)
            cluster.remove_node(node, allow_graceful=False)
            outcomes = {outcome["unit"]: outcome for outcome in ended_well(driver)}
        finally: driver.send_signal(signal.SIGKILL)
    sessions = [name for name in outcomes if name.startswith("emoji_")]
    assert len(sessions) == 6 and {outcome["state"] for outcome in outcomes.values()} == {"done"}
    tries = {name: outcome["tries"] for name, outcome in outcomes.items() if outcome["tries"] > 1}
    assert tries == {unit: 2} and outcomes[unit]["pid"] != pid
    ended_well(begin("local", tmp_path / "one"))
    assert clear_runs(Store(tmp_path / "ray")) == 0
    assert not differs(tmp_path / "ray", held(tmp_path / "one"))
