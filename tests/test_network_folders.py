"""A folder on a network file system, and a disk without room.

No links, no locks, no swap of two names, times of two seconds, handles that are stale when a file is first
opened, renames whose answer is lost: what is written is whole nevertheless, and read as it is.
"""
import builtins
import errno
import io
import os
import subprocess
import threading
from pathlib import Path

import pandas as pd
import pytest

from vision_unlearning import files
from vision_unlearning.files import (
    atomic_folder,
    atomic_path,
    clear_leftovers,
    is_settled,
    rename_over,
    signature,
)
from vision_unlearning.leases import alone, read_lease, steadily, take
from vision_unlearning.packed import archive_of, pack_folder, read_bytes, unpack_folder
from vision_unlearning.store import read_json, write_json

COARSE = 2_000_000_000  # nanoseconds


def coarse(about):
    "The same facts from a clock that knows every second second."
    times = {f"st_{kind}time_ns": getattr(about, f"st_{kind}time_ns")//COARSE*COARSE for kind in "amc"}
    seconds = {name.removesuffix("_ns"): ns/1e9 for name, ns in times.items()}
    return os.stat_result((*about[:7], *(int(seconds[f"st_{kind}time"]) for kind in "amc")), times | seconds)


class Network:
    "What the calls of the system answer; `lost` and `stale` count the bad answers."
    def __init__(self, monkeypatch, folder):
        self.lost, self.stale, self.seen = 0, 0, set()
        real = dict(stat=os.stat, fstat=os.fstat, replace=os.replace, open=builtins.open)

        def renamed(old, new, **named):
            if os.path.dirname(os.path.abspath(old)) != os.path.dirname(os.path.abspath(new)):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            real["replace"](old, new, **named)
            self.lost += 1
            raise FileNotFoundError(errno.ENOENT, "the answer was lost", str(old))

        def opened(file, mode="r", *given, **named):
            ours = isinstance(file, (str, Path)) and str(file).startswith(str(folder))
            if ours and not set(mode) & set("wax+") and os.path.exists(file) and str(file) not in self.seen:
                self.seen.add(str(file))
                self.stale += 1
                raise OSError(errno.ESTALE, "Stale file handle", str(file))
            return real["open"](file, mode, *given, **named)

        def no(*_, **__): raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        def bad(*_): raise OSError(errno.EBADF, "Bad file descriptor")
        monkeypatch.setattr(os, "stat", lambda *given, **named: coarse(real["stat"](*given, **named)))
        monkeypatch.setattr(os, "fstat", lambda handle: coarse(real["fstat"](handle)))
        for name in ("replace", "rename"): monkeypatch.setattr(os, name, renamed)
        monkeypatch.setattr(os, "link", no)
        if files.fcntl is not None: monkeypatch.setattr(files.fcntl, "flock", bad)
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
        for module in (builtins, io): monkeypatch.setattr(module, "open", opened)


@pytest.fixture
def network(monkeypatch, tmp_path): return Network(monkeypatch, tmp_path)


def test_files_and_folders_are_whole(network, tmp_path):
    for number in range(3):
        write_json(tmp_path / "a.json", [number])
        assert read_json(tmp_path / "a.json") == [number]
        with atomic_folder(tmp_path / "folder") as place: write_json(place / "b.json", [number])
        assert read_json(tmp_path / "folder" / "b.json") == [number]
    assert network.lost >= 9 and network.stale >= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "folder"]
    (tmp_path / ".partial-old").mkdir()
    os.utime(tmp_path / ".partial-old", (1, 1))
    assert clear_leftovers(tmp_path) == 1


def test_a_rename_that_did_not_happen_is_an_error(network, tmp_path):
    (tmp_path / "b").write_text("another's")
    with pytest.raises(FileNotFoundError): rename_over(tmp_path / "a", tmp_path / "b")
    (tmp_path / "deep").mkdir()
    with pytest.raises(OSError, match="cross-device"): rename_over(tmp_path / "b", tmp_path / "deep" / "b")


def test_one_worker_at_a_time(network, tmp_path):
    number = tmp_path / "number.json"
    write_json(number, 0)
    def count():
        for _ in range(3):
            with alone(number): write_json(number, read_json(number) + 1)
    workers = [threading.Thread(target=count) for _ in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert read_json(number) == 12
    with take(tmp_path / ".lock-x") as lease:
        assert take(tmp_path / ".lock-x") is None and read_lease(lease.path).holder.token == lease.token
    assert sorted(path.name for path in tmp_path.iterdir()) == ["number.json"]


def test_links_that_nobody_counts(tmp_path, monkeypatch):
    real = os.stat
    def uncounted(*given, **named):
        about = real(*given, **named)
        return os.stat_result((*about[:3], 1, *about[4:10]))
    monkeypatch.setattr(os, "stat", uncounted)
    with take(tmp_path / ".lock-x") as lease: assert lease.mine() and take(tmp_path / ".lock-x") is None


def test_packing(network, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "abc": (folder / f"{name}.png").write_bytes(name.encode()*99)
    assert pack_folder(folder) == 3 and read_bytes(folder / "b.png") == b"b"*99
    assert unpack_folder(folder) == 3 and read_bytes(folder / "b.png") == b"b"*99
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_nothing_is_remembered_within_a_tick(network, tmp_path):
    write_json(tmp_path / "a.json", [1])
    found = signature(tmp_path / "a.json")
    assert found[1] % COARSE == 0 and not is_settled(found) and is_settled(found, found[1] + COARSE + 1)


def test_another_error_is_not_asked_again():
    asked = []
    def away():
        asked.append(1)
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output"): steadily(away)
    def stale():
        asked.append(1)
        raise OSError(errno.ESTALE, "Stale file handle")
    with pytest.raises(OSError, match="Stale"): steadily(stale)
    assert len(asked) == 5


@pytest.fixture
def small_disk(tmp_path):
    "A file system of one megabyte, where the system lets us have one."
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if made.returncode: pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def text(path): path.write_text("x"*300_000)
def table(path): pd.DataFrame({"n": range(60_000)}).astype(str).to_parquet(path, compression=None)


@pytest.mark.skipif(os.name == "nt", reason="there is no mount")
@pytest.mark.parametrize("write", [text, table])
def test_a_full_disk(write, small_disk):
    with atomic_path(small_disk / "old.bin") as path: path.write_text("old")
    (small_disk / "filler").write_bytes(b"0"*850_000)
    with pytest.raises(OSError) as error:
        with atomic_path(small_disk / "old.bin") as path: write(path)
    assert error.value.errno == errno.ENOSPC and error.value.filename.endswith("old.bin"), error.value
    assert "make room and run the same again" in str(error.value) and "\n" not in str(error.value)
    assert (small_disk / "old.bin").read_text() == "old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "old.bin"]
    (small_disk / "filler").unlink()
    with atomic_path(small_disk / "old.bin") as path: write(path)
    assert (small_disk / "old.bin").stat().st_size > 100_000


@pytest.mark.skipif(os.name == "nt", reason="there is no mount")
def test_packing_on_a_full_disk(small_disk):
    folder = small_disk / "pictures"
    folder.mkdir()
    for i in range(5): (folder / f"{i}.png").write_bytes(bytes([i])*100_000)
    (small_disk / "filler").write_bytes(b"0"*250_000)
    with pytest.raises(OSError, match="make room") as error: pack_folder(folder)
    assert error.value.filename.endswith("pictures.zip")
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "pictures"]
    (small_disk / "filler").unlink()
    assert pack_folder(folder) == 5
    (small_disk / "filler").write_bytes(b"0"*300_000)
    with pytest.raises(ValueError, match="more than there is room for|No space"): unpack_folder(folder)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "pictures.zip"]
    (small_disk / "filler").unlink()
    assert unpack_folder(folder) == 5 and not archive_of(folder).exists()
