"""Workers of a batch: the store of several is that of one, to the bit; killed workers and drivers lose
nothing and do nothing twice; what fails is tried again, told, and stops nobody."""
import contextlib
import ctypes
import dataclasses
import os
import random
import signal
import sys
import time

import pytest
from kills import Run, at_work, differs, held, in_this_process

from vision_unlearning.core import DivergedError
from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.running.batch import FailedSessionsError, Workers, asked_sessions, run_batch
from vision_unlearning.running.batch_table import batch_facts
from vision_unlearning.running.engines.base import Engine, engine_names, make_engine, work_off
from vision_unlearning.running.plan import Batch
from vision_unlearning.running.runs import attempt, begun_run, clear_runs, new_run, runs_of
from vision_unlearning.running.worker import Worker, do_all, serve
from vision_unlearning.store import Store, write_json
from vision_unlearning.unlearners.diffusion.uce import UCE

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks that end with their parent")
SMALL = dict(model="tiny", seeds=[42], num_inference_steps=1, clip="tiny", metrics=["clip_diff"], embed=False)
ASKED = Batch("emoji", ("uce",), ("fox", "key"), {}, ("unlearn", "generate", "interference"), SMALL)


def prepared(folder) -> Store:
    store = Store(folder)
    if not store.metadata("emoji").exists(): write_json(store.metadata("emoji"), emoji_entities("emoji"))
    return store


class Forks(Engine):
    "Forks of this process, which has imported everything; they end with it."
    engine, title = "forks", "forks of a test"

    def start(self, run, number):
        process = os.fork()
        if process: return process
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        try:
            serve(str(run.store.base), run.name)
            os._exit(0)
        finally: os._exit(1)

    def ended(self, worker):
        process, status = os.waitpid(worker, os.WNOHANG)
        if not process: return None
        return "" if status == 0 else f"status {status}"

    def stop(self, worker):
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def by_forks(folder):
    store = prepared(folder)
    with begun_run(store, ASKED, retries=50, threads=1) as run: outcomes = work_off(Forks(2), run, False)
    wrong = [(o["unit"], o["state"], o["reason"], o["traceback"]) for o in outcomes if o["state"] != "done"]
    assert not wrong, wrong


def by_one(folder):
    run = new_run(prepared(folder), ASKED, threads=1)
    serve(str(folder), run.name)
    assert set(run.states().values()) == {"done"}, run.outcomes()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    "What one worker leaves."
    from vision_unlearning.interference import pair  # noqa: F401
    from vision_unlearning.models import tiny  # noqa: F401
    folder = tmp_path_factory.mktemp("one")
    assert Run(by_one, folder).end()
    clear_runs(Store(folder))
    return held(folder)


@linux
@pytest.mark.long(30)
def test_killed_workers_and_drivers(tmp_path, wanted):
    draw, kills = random.Random(0), {"worker": 0, "driver": 0}
    driver = Run(by_forks, tmp_path)
    while sum(kills.values()) < 6 and not has_ended(driver):
        time.sleep(draw.uniform(.05, .3))
        victims = at_work(tmp_path)
        if not victims: continue
        if sum(kills.values()) % 3 == 1:
            os.kill(driver.process, signal.SIGKILL)
            driver.end()
            kills["driver"] += 1
            driver = Run(by_forks, tmp_path)
        else:
            with contextlib.suppress(ProcessLookupError): os.kill(draw.choice(victims), signal.SIGKILL)
            kills["worker"] += 1
    assert driver.end() and all(kills.values()), kills
    clear_runs(Store(tmp_path))
    assert not differs(tmp_path, wanted)


@linux
@pytest.mark.long(20)
def test_two_batches_at_once_do_nothing_twice(tmp_path, wanted, monkeypatch):
    "Each makes a note of every edit that it makes."
    unlearn, log = UCE.unlearn, tmp_path / "edits.txt"
    def noted(self, pipe, forget, *given, **named):
        with open(log, "a") as file: file.write(f"{forget[0]}\n")
        return unlearn(self, pipe, forget, *given, **named)
    monkeypatch.setattr(UCE, "unlearn", noted)
    store = tmp_path / "store"
    runs = [Run(by_forks, store) for _ in range(2)]
    assert all([run.end() for run in runs])
    assert sorted(log.read_text().split()) == ["fox", "key"]
    assert not differs(store, wanted)


@pytest.mark.long(40)
def test_a_batch_of_a_pool_is_a_batch(tmp_path, capfd):
    "The same files as by notebooks alone, executed notebooks too."
    stages = ("prepare", "unlearn", "generate", "interference")
    for folder, how in (("notebooks", None), ("pool", Workers("pool", 2))):
        with in_this_process():
            asked = ("emoji", ["uce"], ["fox", "key"], Store(tmp_path / folder))
            executed = run_batch(*asked, stages=stages, progress=False, how=how, **SMALL)
        assert list(executed) == ["prepare", "unlearn_uce", "generate_uce", "interference_uce"]
    assert not differs(tmp_path / "pool", held(tmp_path / "notebooks"))


def has_ended(run) -> bool:
    "Whether a fork has come to its end; it can still be asked for it."
    return os.waitid(os.P_PID, run.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def run_of(folder, **options): return new_run(prepared(folder), ASKED, **options)


def test_what_fails_is_tried_again_and_stops_nobody(tmp_path):
    run, tried = run_of(tmp_path, retries=2), []
    def work(name, error=None):
        def call():
            tried.append(name)
            if error: raise error
            return 3
        return call
    units = {"a": work("a", OSError(5, "away")), "b": work("b", DivergedError("not finite")), "c": work("c")}
    do_all(run, units, 2)
    assert tried.count("a") == 3 and tried.count("b") == 1 and tried.count("c") == 1
    assert run.states() == {"a": "failed", "b": "failed", "c": "done"}
    said = {outcome["unit"]: outcome for outcome in run.outcomes()}
    assert "away" in said["a"]["reason"] and said["a"]["tries"] == 3 and said["c"]["pictures"] == 3


def test_what_kills_its_worker_is_given_up(tmp_path):
    run = run_of(tmp_path, retries=1)
    for _ in range(2):
        if os.fork() == 0:
            attempt(run, "a", lambda: os._exit(9), 1)
            os._exit(0)
        os.wait()
    assert attempt(run, "a", lambda: 0, 1)["state"] == "failed"
    assert "was killed" in run.outcomes()[0]["reason"]


def test_who_died_in_another_run_is_no_failure(tmp_path):
    if os.fork() == 0:
        attempt(run_of(tmp_path), "a", lambda: os._exit(9), 1)
        os._exit(0)
    os.wait()
    run = run_of(tmp_path)
    assert attempt(run, "a", lambda: 0, 0)["state"] == "done" and run.outcomes()[0]["tries"] == 1
    assert clear_runs(Store(tmp_path)) == 2 and not runs_of(Store(tmp_path))


def test_a_failed_session_is_told_at_the_end(tmp_path, monkeypatch):
    "The other one is complete, and the notebooks are about it."
    prepared(tmp_path)
    unlearn = UCE.unlearn
    def fails(self, pipe, forget, *given, **named):
        if forget == ["key"]: raise RuntimeError("the device is lost")
        return unlearn(self, pipe, forget, *given, **named)
    monkeypatch.setattr(UCE, "unlearn", fails)
    asked = ("emoji", ["uce"], ["fox", "key"], Store(tmp_path))
    how = dict(stages=("unlearn",), progress=False, how=Workers("local", retries=1))
    wrong = r"1 of 2 sessions.*key.*device is lost"
    with in_this_process(), pytest.raises(FailedSessionsError, match=wrong) as stop:
        run_batch(*asked, **how, model="tiny")
    assert list(stop.value.executed) == ["unlearn_uce"]
    sessions = asked_sessions(*asked, model="tiny", how=how["how"])
    facts = batch_facts(asked[-1], sessions, stop.value.executed, stop.value.failed, 1.)
    (failure,) = facts["failed"]
    assert (failure["unit"], failure["reason"]) == ("emoji_key_uce_000", "the device is lost")
    assert facts["methods"]["failed"].tolist() == [1] and facts["report"] is None
    (run,) = runs_of(Store(tmp_path))
    assert run.states() == {"emoji_fox_uce_000": "done", "emoji_key_uce_000": "failed"}
    monkeypatch.setattr(UCE, "unlearn", unlearn)
    with in_this_process(): run_batch(*asked, **how, model="tiny")
    assert not runs_of(Store(tmp_path))


def test_a_run_that_is_looked_after_stays(tmp_path):
    "Of two drivers too, before either has a worker."
    store = prepared(tmp_path)
    with begun_run(store, ASKED) as one, begun_run(store, ASKED) as other:
        assert clear_runs(store) == 0 and one.is_live() and other.is_live()
    assert clear_runs(store) == 2


def test_shards_are_all_sessions_once(tmp_path):
    store, made, all_of_them = prepared(tmp_path), [], dataclasses.replace(ASKED, entities=())
    for number in (1, 2, 3):
        run = new_run(store, all_of_them, shard=(number, 3))
        made += [session.slug for session in Worker(run).sessions]
    everyone = {session.slug for session in all_of_them.sessions(store)}
    assert len(made) == len(everyone) == 100 and set(made) == everyone


def test_engines_refuse_by_name(tmp_path):
    assert {"local", "pool", "ray", "slurm"} <= set(engine_names())
    for name, given, said in (
        ("pool", dict(workers=0), "at least 1"),
        ("local", dict(workers=2), "one worker"),
        ("pool", dict(gpus_per_worker=99.), "fewer workers"),
        ("slurm", dict(gpus_per_worker=.5), "whole GPUs"),
        ("ray", dict(options=("a",)), "name=value"),
    ):
        with pytest.raises(ValueError, match=said): make_engine(name, **given)
    for shard in ("0/2", "3/2", "two"):
        with pytest.raises(ValueError, match="such as 3/10"):
            run_batch("emoji", ["uce"], ["fox"], Store(tmp_path), how=Workers(shard=shard))
    assert not list(tmp_path.iterdir())
