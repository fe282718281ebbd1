"""The network of a worker goes away for longer than a lease lasts: another takes the session over, and who
comes back writes over nothing, does nothing twice and reports nothing as its own."""
import builtins
import errno
import os
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from kills import Kill, Run, differs, held

from vision_unlearning import leases
from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.files import atomic_folder, atomic_path
from vision_unlearning.leases import LostLeaseError, alone, patiently, take
from vision_unlearning.running.plan import Batch
from vision_unlearning.running.runs import attempt, clear_runs, new_run
from vision_unlearning.running.worker import do_all, serve
from vision_unlearning.store import Store, read_json, write_json

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks that are stopped")
SMALL = dict(model="tiny", seeds=[42], num_inference_steps=1, clip="tiny", metrics=["clip_diff"], embed=False)
ASKED = Batch("emoji", ("uce",), ("fox",), {}, ("unlearn", "generate", "interference"), SMALL)


@pytest.fixture
def short(monkeypatch):
    "Leases that last a second, and a store that is asked often."
    monkeypatch.setattr(leases, "LASTS", 1.)
    monkeypatch.setattr(leases, "BEAT", .2)
    monkeypatch.setattr(leases, "ASK_AGAIN", .05)


def begun(folder, **options):
    store = Store(folder)
    write_json(store.metadata("emoji"), emoji_entities("emoji"))
    return new_run(store, ASKED, threads=1, **options)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    "What one worker leaves."
    from vision_unlearning.interference import pair  # noqa: F401
    from vision_unlearning.models import tiny  # noqa: F401
    folder = tmp_path_factory.mktemp("one")
    run = begun(folder)
    assert Run(lambda folder: serve(str(folder), run.name), folder).end()
    clear_runs(Store(folder))
    return held(folder)


@linux
@pytest.mark.long(10)
@pytest.mark.parametrize("event, about", [
    (1, "/record.json"),  # in a folder that has no name yet
    (1, "/emoji_fox_uce_000"),  # between the look at the lease and the name of the folder
    (2, "/record.json"),  # between the look and what the record says of the pictures
    (40, "/on_"),  # while pictures get their names
])
def test_a_worker_that_is_stopped_for_longer_than_its_lease(tmp_path, short, wanted, event, about):
    "Before a rename; another does the rest, and then the first one goes on."
    run = begun(tmp_path, retries=1)
    work = lambda folder: serve(str(folder), run.name)
    first = Run(work, tmp_path, Kill(event=event, about=about, number=signal.SIGSTOP))
    assert first.is_stopped(), f"there is no event {event} of {about}"
    assert Run(work, tmp_path).end()
    outcomes, store = run.outcomes(), held(tmp_path)
    first.go_on()
    assert first.end()
    assert {outcome["state"] for outcome in outcomes} == {"done"} and run.outcomes() == outcomes
    assert held(tmp_path) == store
    clear_runs(Store(tmp_path))
    assert not differs(tmp_path, wanted)


def silent(lease):
    "What a long sleep makes of a lease, and another who takes it."
    lease.touched -= leases.LASTS + 1
    lease.let_go.set()  # no signs of life
    return take(lease.path, now=leases.read_lease(lease.path).touched + leases.LASTS + 1)


def test_who_lost_a_lease_gives_nothing_a_name(tmp_path):
    write_json(tmp_path / "a.json", "the other's")
    with atomic_folder(tmp_path / "folder") as place: write_json(place / "b.json", "the other's")
    with alone(tmp_path / "a.json") as lease:
        write_json(tmp_path / "mine.json", 1)
        other = silent(lease)
        with pytest.raises(LostLeaseError, match="taken over a.json"): write_json(tmp_path / "a.json", "mine")
        with pytest.raises(LostLeaseError):
            with atomic_folder(tmp_path / "folder") as place: (place / "c.txt").touch()
    assert read_json(tmp_path / "a.json") == "the other's" and other.mine()
    other.release()
    write_json(tmp_path / "a.json", "mine again")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "b.json", "folder", "mine.json"]


def test_a_folder_that_is_not_replaced(tmp_path):
    for number in (1, 2):
        with atomic_folder(tmp_path / "folder", replace=False) as place: write_json(place / "a.json", number)
    assert read_json(tmp_path / "folder" / "a.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_who_lost_a_unit_reports_nothing_of_it(tmp_path):
    run, leased = begun(tmp_path, retries=1), []
    def works(): return 1
    def fails(): raise RuntimeError("as the store was away")
    def sleeping(end):
        def work():
            (lease,) = leases.HELD.get()
            leased.append(silent(lease))
            return end()
        return work
    for unit, end in (("a", works), ("b", fails)): assert attempt(run, unit, sleeping(end), 1) is None
    assert run.states() == {}
    for lease in leased: lease.release()
    do_all(run, {"a": works, "b": works}, 1)
    assert run.states() == {"a": "done", "b": "done"}


class Away:
    "A store whose every file answers with an error for a while."
    def __init__(self, monkeypatch, folder):
        self.until, self.answers = 0., 0
        for module, name in ((builtins, "open"), (os, "open"), (os, "stat"), (os, "listdir"), (os, "mkdir"),
                             (os, "utime"), (os, "replace"), (os, "link"), (os, "unlink"), (os, "lstat")):
            monkeypatch.setattr(module, name, self.answering(getattr(module, name), str(folder)))

    def answering(self, real, folder):
        def call(path, *given, **named):
            ours = isinstance(path, (str, Path)) and str(path).startswith(folder)
            if not ours or time.monotonic() > self.until: return real(path, *given, **named)
            self.answers += 1
            number = (errno.EIO, errno.ESTALE, errno.ENOTCONN)[self.answers % 3]
            raise OSError(number, os.strerror(number), str(path))
        return call


def test_a_store_that_is_away_for_longer_than_a_lease(tmp_path, monkeypatch, short, capfd):
    "The unit fails once, with the reason, and is tried again when the store is back."
    run, away, tried = begun(tmp_path, retries=1), Away(monkeypatch, tmp_path), []
    def draws():
        tried.append(1)
        if len(tried) == 1: away.until = time.monotonic() + 1.5
        with atomic_path(tmp_path / "picture.txt") as path: path.write_text("whole")
        return 1
    do_all(run, {"a": draws, "b": lambda: 1}, 1)
    assert away.answers > 3 and len(tried) == 2
    tries = {outcome["unit"]: (outcome["state"], outcome["tries"]) for outcome in run.outcomes()}
    assert tries == {"a": ("done", 2), "b": ("done", 1)}
    assert (tmp_path / "picture.txt").read_text() == "whole"
    (line,) = set(capfd.readouterr().err.splitlines())
    assert "asking again for 600 seconds" in line and str(tmp_path) in line
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".running"]


def test_a_store_that_does_not_come_back(tmp_path, monkeypatch, short):
    monkeypatch.setattr(leases, "PATIENCE", .2)
    run, away = begun(tmp_path), Away(monkeypatch, tmp_path)
    def goes():
        away.until = time.monotonic() + 60
        return (tmp_path / "a.txt").read_text()
    with pytest.raises(OSError, match=r"\[Errno \d+\].*") as error: do_all(run, {"a": goes}, 1)
    assert error.value.errno in leases.AWAY and str(tmp_path) in str(error.value)
    away.until = 0.
    assert run.states() == {}
    with mock.patch.object(leases.Holder, "has_ended", lambda holder: True): do_all(run, {"a": lambda: 1}, 1)
    assert run.states() == {"a": "done"}


def test_errors_that_are_answers_are_not_asked_again():
    with pytest.raises(FileNotFoundError): patiently(os.stat, "nowhere")
