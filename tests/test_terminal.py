"What a command says: bars on a terminal, lines in a file, and with --json one line that a program can read."
import contextlib
import io
import json
import sys

import pytest
from kills import in_this_process
from typer.main import get_command

from vision_unlearning.running.bars import nested_bars
from vision_unlearning.running.batch import run_batch
from vision_unlearning.running.cli import app, main
from vision_unlearning.store import Store


class Terminal(io.StringIO):
    def isatty(self): return True


def lines_of(text: str) -> list[str]:
    "What stays on a terminal: a line that was written over is what was written last."
    return [line.rpartition("\r")[2].replace("\x1b[A", "").rstrip() for line in text.split("\n")]


def no_number(word): raise AssertionError(f"{word} is no JSON")


def said(capsys, *words) -> tuple[dict, str, int]:
    "The JSON of a command, what it said on stderr, and its exit code."
    code = 0
    try: main([*map(str, words), "--json"])
    except SystemExit as stop: code = stop.code
    out, err = capsys.readouterr()
    assert out.count("\n") == 1, "one line, and nothing beside it"
    return json.loads(out, parse_constant=no_number), err, code


def every_command(group, before=()):
    "Name and click command of all commands, those of groups too."
    for name, command in group.commands.items():
        if hasattr(command, "commands"): yield from every_command(command, (*before, name))
        elif not command.hidden: yield " ".join((*before, name)), command


def test_every_command_that_finds_something_has_json():
    without = [name for name, command in every_command(get_command(app))
               if "--json" not in [flag for option in command.params for flag in option.opts]]
    assert without == ["app"], "it serves a page until it is stopped"


def test_json_is_alone_on_stdout(capsys, tmp_path):
    found, err, code = said(capsys, "run", "generate", "--list")
    assert (err, code, found["stage"]) == ("", 0, "generate")
    assert found["parameters"]["seeds"]["default"] == [42, 43, 44, 45] or "seeds" in found["parameters"]
    assert said(capsys, "status", "--base-folder", tmp_path)[0] == {"sessions": [], "runs": []}


def test_what_stops_a_command_is_no_json(capsys):
    with pytest.raises(SystemExit) as stop: main(["run", "unlern", "--list", "--json"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)


@in_this_process()
def test_a_stage_is_said_on_stderr_and_its_notebook_on_stdout(capsys, tmp_path):
    asked = ("run", "prepare", "--task", "emoji", "--base-folder", tmp_path)
    found, err, _ = said(capsys, *asked)
    assert "prepare" in err and "done in" in err
    assert found["notebook"].endswith(".ipynb") and Store(tmp_path).metadata("emoji").is_file()
    found, err, _ = said(capsys, *asked, "--quiet")
    assert err == ""


@in_this_process()
def test_a_batch_has_bars_on_a_terminal_and_lines_in_a_file(tmp_path):
    for stream, folder in ((Terminal(), "a"), (io.StringIO(), "b")):
        with contextlib.redirect_stderr(stream):
            run_batch("emoji", ["uce"], ["fox"], Store(tmp_path/folder), stages=("prepare",))
        text = stream.getvalue()
        assert ("batch of emoji" in text) == stream.isatty()
        lines = lines_of(text)
        assert any(line.startswith("prepare") and "done in" in line for line in lines), lines


def test_a_bar_of_another_process_is_drawn_below():
    "As a kernel sends it: with the moves of a nested bar, and lines between, of which none is lost."
    terminal = Terminal()
    with contextlib.redirect_stderr(terminal), nested_bars(2, "batch"):
        relay, seen = sys.stderr, []
        first, second, third = "images:  10%|#  | 1/9", "images:  20%|## | 2/9", "  steps:  38%|###| 3/8"
        pieces = ["warned\n", f"\r{first}", f"\r{second}", f"\n\n\r{third}", "\x1b[A\x1b[A"]
        pieces += ["key failed", "\n", f"\r{second}", "\r" + 30*" " + "\rfox failed\n", f"\r{first}", "\n"]
        for piece in pieces:
            relay.write(piece)
            seen.append(relay.below.desc)
    assert seen == ["", first, second, third, third, third, third, second, "", first, ""]
    said = ["warned", "key failed", "fox failed"]
    assert [line for line in lines_of(terminal.getvalue()) if line in said] == said


def test_nested_bars_give_stderr_back_when_a_step_fails():
    before = sys.stderr
    with pytest.raises(KeyError), contextlib.redirect_stderr(Terminal()) as terminal:
        with nested_bars(1, "batch"): raise KeyError("step")
    assert sys.stderr is before and terminal.getvalue()
