"""Ctrl-C is one line and exit code 130: while Python imports, and whatever a library makes of it."""
import subprocess
import sys

import pytest

START = "from vision_unlearning.running.start import start\n"
STATUS = "sys.argv = ['vu', 'status', '--base-folder', sys.argv[1]]\nstart()\n"
# a shell tells what it starts in the background to ignore Ctrl-C, and whoever starts this may be there
INTERRUPT = """import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
"""
AT_IMPORT = """
def listen(event, about):
    if event == 'import' and about[0] == WHEN: interrupt()
sys.addaudithook(listen)
"""
CARELESS = """
import vision_unlearning.running.batch as batch
def status(*_):
    try: interrupt()
    except: HOW
    time.sleep(60)
batch.batch_status = status
"""


def run(program, folder):
    "Exit code and what was said."
    command = [sys.executable, "-c", INTERRUPT + program, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("module", ["vision_unlearning.running.cli", "typer", "pydantic", "inspect"])
def test_while_python_imports(module, tmp_path):
    listening = AT_IMPORT.replace("WHEN", repr(module))
    assert run(START + listening + STATUS, tmp_path) == (130, "stopped; nothing was begun\n")


@pytest.mark.parametrize("how", ["raise ImportError('half a library')", "pass"])
def test_whatever_becomes_of_the_exception(how, tmp_path):
    assert run(START + CARELESS.replace("HOW", how) + STATUS, tmp_path) == (130, "stopped\n")


def test_who_was_told_to_ignore_it(tmp_path):
    ignoring = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code, said = run(ignoring + START + AT_IMPORT.replace("WHEN", "'typer'") + STATUS, tmp_path)
    assert (code, said) == (0, "")
