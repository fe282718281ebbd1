"""Leases: workers step on each other between any two calls of the file system, die there, and one at most
holds a lease."""
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import pytest

from vision_unlearning import leases
from vision_unlearning.files import clear_leftovers
from vision_unlearning.leases import Holder, Lease, read_lease, take, this_holder


class Killed(BaseException): "What ends a worker where it stands."


class Stage:
    "Workers of which one moves at a time, by one call of the file system."
    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.turn = threading.Condition()
        self.waiting, self.chosen, self.running = set(), None, 0
        self.dead, self.inside, self.most, self.times = set(), set(), 0, 0

    def step(self):
        "Wait for one's turn; now and then it is one's last."
        name = threading.current_thread().name
        if not name.startswith("worker"): return
        with self.turn:
            self.waiting.add(name)
            self.turn.notify_all()
            self.turn.wait_for(lambda: self.chosen == name)
            self.chosen = None
            self.waiting.discard(name)
        if self.draw.random() < .02: raise Killed

    def work(self, path, rounds=3):
        name = threading.current_thread().name
        try:
            for _ in range(rounds):
                self.step()
                lease = take(path, name)
                if lease is None: continue
                self.inside.add(name)
                self.times += 1
                self.most = max(self.most, len(self.inside))
                self.step()
                self.inside.discard(name)
                lease.release()
        except Killed: pass
        finally:
            with self.turn:
                self.inside.discard(name)
                self.dead.add(name)
                self.running -= 1
                self.turn.notify_all()

    def play(self, path, workers=3):
        names = [f"worker{i}" for i in range(workers)]
        threads = [threading.Thread(target=self.work, args=(path,), name=name) for name in names]
        self.running = workers
        for thread in threads: thread.start()
        with self.turn:
            while self.running:
                self.turn.wait_for(lambda: len(self.waiting) == self.running and self.chosen is None)
                if not self.running: break
                self.chosen = self.draw.choice(sorted(self.waiting))
                self.waiting.discard(self.chosen)
                self.turn.notify_all()
        for thread in threads: thread.join()

    def stepping(self, real):
        def call(*arguments, **options):
            self.step()
            return real(*arguments, **options)
        return call


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_one_at_most_whoever_dies_where(tmp_path, links):
    taken_over = 0
    for seed in range(80):
        stage, path = Stage(seed), tmp_path / f".lock-{seed}"
        if seed % 2: path.write_text(take_over_me())
        dead = lambda holder, stage=stage: holder.what in stage.dead or holder.what == "long gone"
        link = os.link if links else mock.Mock(side_effect=OSError("no links here"))
        with (
            mock.patch.object(leases, "_link", stage.stepping(leases._link)),
            mock.patch.object(leases, "read_lease", stage.stepping(read_lease)),
            mock.patch.object(leases.os, "replace", stage.stepping(os.replace)),
            mock.patch.object(Path, "unlink", stage.stepping(Path.unlink)),
            mock.patch.object(leases.os, "link", link),
            mock.patch.object(Holder, "has_ended", dead),
            mock.patch.object(Lease, "_keep", lambda self: None),
        ):
            stage.play(path)
            assert stage.most <= 1, seed
            with mock.patch.object(Holder, "has_ended", lambda holder: True):
                if last := take(path): taken_over += last.last is not None
                last.release()
        assert stage.times or stage.dead
    assert taken_over, "some died while they held it"
    with mock.patch.object(Holder, "has_ended", lambda holder: True): clear_leftovers(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def take_over_me() -> str:
    "A lease of somebody who is gone."
    return json.dumps(asdict(this_holder("long gone")))


HOLDS = """
import sys
from vision_unlearning.leases import take
lease = take(sys.argv[1], "slow work")
print(lease.token, flush=True)
sys.stdin.readline()
"""


def holding(path):
    command = [sys.executable, "-c", HOLDS, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_is_followed_at_once(tmp_path):
    path = tmp_path / ".lock-a"
    with holding(path) as worker:
        token = worker.stdout.readline().strip()
        assert take(path) is None and clear_leftovers(tmp_path, 0) == 0
        worker.kill()
        worker.wait()
        lease = take(path)
        assert lease.last.token == token and lease.last.what == "slow work"
    lease.release()
    assert not list(tmp_path.iterdir())


def test_another_machine_is_followed_when_it_was_silent(tmp_path):
    path = tmp_path / ".lock-a"
    with mock.patch.object(leases, "this_machine", lambda: "far away"): far = take(path)
    seen = read_lease(path).touched
    assert take(path, now=seen + leases.LASTS - 1) is None
    os.utime(path, (seen + 50, seen + 50))  # a sign of life
    assert take(path, now=seen + leases.LASTS + 1) is None
    near = take(path, now=seen + 50 + leases.LASTS + 1)
    assert near.last.host == "far" and not far.touch() and near.touch()
    far.release()
    assert near.mine()
    near.release()


def test_who_was_silent_too_long_removes_nothing(tmp_path):
    lease = take(tmp_path / ".lock-a")
    lease.touched -= leases.LASTS
    lease.release()
    assert (tmp_path / ".lock-a").exists(), "it may be another's by the time it is removed"


def test_an_unreadable_lease_ages(tmp_path):
    path = Path(tmp_path / ".lock-a")
    path.touch()  # an older version, or killed while it was written
    assert take(path) is None
    take(path, now=path.stat().st_mtime + leases.LASTS + 1).release()
    assert not path.exists()
