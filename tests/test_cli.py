"""A wrong name, as a shell sees it: one line on stderr, nothing on stdout, exit code 2, nothing on disk."""
import pytest

from vision_unlearning.running.cli import main


@pytest.fixture
def shell(capsys):
    "A function of the words of a command: exit code, stdout, stderr."
    def run(*words):
        code = 0
        try: main(list(map(str, words)))
        except SystemExit as stop: code = stop.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "words",
    [
        "run unlern",
        "run unlearn -p entitys=fox",
        "run unlearn -p entities=foxx",
        "batch --methods ucee",
        "batch -p taks=emoji",
        "batch --task people --scale smok",
        "batch --task people --scale smoke --entities x",
        "batch --task digits --scale smoke",
        "run generate --task digits",
        "report --task digits --entities fox",
        "report --task emojis",
        "report",
    ],
)
def test_a_wrong_name_is_one_line(words, shell, tmp_path):
    code, out, err = shell(*words.split(), "--base-folder", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["--method", "ucee"],
        ["--settings", "{"],
        ["--settings", '{"lam":1}'],
        ["--clip", "nowhere", "--model", "nowhere"],
    ],
)
def test_a_wrong_erasure_is_one_line(words, shell, tmp_path):
    code, out, err = shell("erase", "--concept", "fox", "--out", tmp_path / "new", *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not list(tmp_path.iterdir())


def test_the_right_name_is_suggested(shell, tmp_path):
    said = "error: unknown entity 'foxx'; did you mean 'fox' or 'frog'?\n"
    assert shell("run", "unlearn", "-p", "entities=foxx", "--base-folder", tmp_path) == (2, "", said)
    with pytest.raises(ValueError, match="did you mean 'unlearn'"): main(["run", "unlern", "--traceback"])


def test_an_empty_store_has_a_status(shell, tmp_path):
    code, out, err = shell("status", "--base-folder", tmp_path)
    assert (code, err) == (0, "") and "no session" in out


def test_the_help_is_one_screen_and_nothing_is_cut(shell, monkeypatch):
    from typer.main import get_command

    from vision_unlearning.running.cli import app
    from vision_unlearning.running.screen import COMMAND_GROUPS
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = shell("--help")
    lines = out.rstrip("\n").splitlines()
    assert (code, err) == (0, "") and len(lines) <= 30 and max(map(len, lines)) <= 80
    assert "..." not in "".join(lines[1:])
    headings = [line[:-1] for line in lines if line.endswith(":")]
    assert headings == list(COMMAND_GROUPS.values())
    for name, command in get_command(app).commands.items():
        if command.hidden: continue
        assert command.rich_help_panel in headings, name
        shown = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(shown) == 1 and shown[0].endswith(f"  {command.short_help}"), name
        assert command.short_help[0].isupper() and command.short_help.endswith((".", "?")), name
