"""The command line as a shell sees it, without a process for each command."""
import pytest

from vision_unlearning.running.cli import main


def vu(words, capsys):
    "A command as a shell gives it; what it printed."
    main(words.split())
    return capsys.readouterr().out


def refused(words, capsys):
    "The one line with which a command is refused."
    with pytest.raises(SystemExit) as stop: main(words.split())
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1), err
    return err
