"""A disk that is full, a folder that may not be written, a name that is too long: one line, exit code 2, and
nothing under a real name that is not whole."""
import contextlib
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from kills import in_this_process

from vision_unlearning.core import UnknownNameError
from vision_unlearning.running.cli import main
from vision_unlearning.store import Store, write_json
from vision_unlearning.tasks import get_task


@contextlib.contextmanager
def full_disk(size):
    "No file grows beyond so many bytes: what a write finds where there is no room."
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)


def stopped(capsys, *words):
    "The line that a command stops with."
    with pytest.raises(SystemExit) as stop: main(list(map(str, words)))
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: "), err
    assert "not foreseen" not in err
    return err


def whole(folder):
    "Names below a folder, without unfinished ones; those of JSON can be read."
    found = [p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith(".")]
    for path in found:
        if path.suffix in (".json", ".ipynb"): json.loads(path.read_text())
    return sorted(p.name for p in found)


def test_a_stage_on_a_full_disk(tmp_path, capsys):
    with in_this_process(), full_disk(4000):
        said = stopped(capsys, "run", "prepare", "-q", "--base-folder", tmp_path)
    assert "File too large" in said and whole(tmp_path) == []


@pytest.mark.long(20)
def test_an_erasure_on_a_full_disk(tmp_path, capsys):
    "The folder is there whole or not at all."
    asked = ("--model tiny --clip tiny --num-inference-steps 1 --preserve crab --candidates crab,key,bell "
             "--merge").split()
    with full_disk(10_000):
        said = stopped(capsys, "erase", "--concept", "fox", "--out", tmp_path/"new", *asked)
    assert "too large" in said.lower() and whole(tmp_path) == []


@pytest.mark.parametrize("words", [
    "run prepare -q --base-folder HERE/LONG",
    "run unlearn -q -p entities=LONG --base-folder HERE",
    "batch -q --entities LONG --base-folder HERE",
    "run explore -q -p clip=LONG --base-folder HERE",
    "run unlearn -q -p model=LONG --base-folder HERE",
    "run prepare -q -p task=LONG --base-folder HERE",
    "erase --concept fox --out HERE/LONG --model tiny --clip tiny",
    "erase --concept LONG --out HERE/new --model LONG",
    "report --base-folder HERE/LONG",
    "status --base-folder HERE/LONG",
])
def test_a_name_that_is_too_long(words, tmp_path, capsys):
    asked = words.replace("HERE", str(tmp_path)).replace("LONG", "x"*300).split()
    stopped(capsys, *asked)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnknownNameError, match="did you mean 'emoji'"): get_task("emojy")


def test_an_entity_with_a_name_that_is_too_long(tmp_path, capsys):
    store = Store(tmp_path)
    write_json(
        store.metadata("people"), [{"name": name, "index": i} for i, name in enumerate(("b", "x" * 300))]
    )
    asked = "run unlearn -q -p task=people -p model=tiny -p entities=b --base-folder".split()
    assert "230 bytes" in stopped(capsys, *asked, tmp_path)


@contextlib.contextmanager
def nobody():
    "Without the rights of root, who may write anywhere."
    root = os.geteuid() == 0
    if root: os.seteuid(65534)
    try: yield
    finally:
        if root: os.seteuid(0)


@pytest.mark.parametrize("below", ["", "new"])
def test_a_folder_that_may_not_be_written(below, tmp_path, tmp_path_factory, capsys):
    asked = "run prepare -q --base-folder".split()
    readable = tmp_path
    while readable != readable.parent and readable.stat().st_uid == os.getuid():
        readable.chmod(readable.stat().st_mode | 0o055)
        readable = readable.parent
    tmp_path.chmod(0o555)
    with in_this_process():
        main([*asked, str(tmp_path_factory.mktemp("first"))])  # what it imports, nobody may not read
        capsys.readouterr()
        with nobody(): said = stopped(capsys, *asked, tmp_path/below)
    assert "Permission denied" in said and list(tmp_path.iterdir()) == []
