"A method, a pair metric and a template of one's own: from a file, through a shell, to report and answers."
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from kills import in_this_process
from shell import refused, vu

from vision_unlearning import brought, tasks
from vision_unlearning.core import UnknownNameError
from vision_unlearning.interference.pair_metrics import PAIR_METRICS, PairMetric
from vision_unlearning.running.session import finished, plan_sessions, read_scores
from vision_unlearning.running.stages import check_parameters
from vision_unlearning.running.templates import RESULT_TEMPLATES
from vision_unlearning.running.values import as_typed
from vision_unlearning.store import Store, read_record
from vision_unlearning.unlearners.base import Unlearner, configured, get_method
from vision_unlearning.unlearners.methods import METHODS, known_methods, method_color, method_label

pytestmark = pytest.mark.long

MINE = '''
from pathlib import Path
from typing import ClassVar
import torch
from vision_unlearning.interference.pair_metrics import PairMetric
from vision_unlearning.results.base import ResultTemplate, read_pairs, pair_files
from vision_unlearning.unlearners.base import Unlearner, WeightEdit, denoiser
from vision_unlearning.unlearners.diffusion.uce import projections, stored_values


class Fade(Unlearner):
    "Makes the cross-attention weaker, whatever is asked for."
    name: ClassVar[str] = "fading"
    label: ClassVar[str] = "Fading"
    color: ClassVar[str] = "#AA00AA"
    kind: ClassVar[str] = "text-to-image"
    reads: ClassVar[str] = "names"
    tuning: ClassVar[dict] = dict(strength=dict(low=0.1, high=1.0))
    strength: float = .5  # 0 leaves all, 1 takes all

    def unlearn(self, model, forget, retain=None, *, generator=None, callbacks=()):
        network = denoiser(model)
        weaker = {n: w.detach()*(1 - self.strength) for n, w in projections(network).items()}
        tensors = stored_values(network, projections(network), weaker)
        return WeightEdit(tensors, {"method": self.name, "settings": self.model_dump(mode="json")})


def look(scorers, images, receivers, prompts):
    return {"brightness": images.double().mean((1, 2, 3))}


BRIGHT = PairMetric("brightness", "brightness change", higher_is_better=True,
                    scorer="bright", look=look, feature="brightness")


class ResultTemplateDarkest(ResultTemplate):
    "Who became darkest?"
    task: str
    unlearning_algorithm: str

    @classmethod
    def grid(cls, about):
        for method in about.methods: yield dict(unlearning_algorithm=method)

    def inputs(self):
        tables = pair_files(self.store, self.task, self.unlearning_algorithm)[1].values()
        return [self.store.metadata(self.task), *tables]

    def _compute_from_scratch(self):
        table = read_pairs(self.store, self.task, self.unlearning_algorithm)
        change = table.matrix("brightness")[next(iter(table.rows))]
        return {"darkest": table.names[int(change.argmin())], "change": float(change.min())}

    @classmethod
    def plot(cls, data, ax=None):
        from vision_unlearning.plotting import new_axes
        ax = new_axes((3, 2), ax)
        ax.bar([data["result"]["darkest"]], [data["result"]["change"]])
        return ax
'''
SHAPES = [
    {"name": f"{colour} {shape}", "colour": colour}
    for colour in ("red", "green") for shape in ("triangle", "square", "hexagon", "circle", "star", "cross")
]


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    "Each test opens its own base folders, and nothing was brought before."
    monkeypatch.setattr(tasks, "_opened", {})
    for door in (METHODS, PAIR_METRICS, RESULT_TEMPLATES): monkeypatch.setattr(door, "brought", {})
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A working folder with a file and a table."
    (tmp_path/"mine.py").write_text(MINE)
    pd.DataFrame(SHAPES).to_csv(tmp_path/"shapes.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path/"mine.py"


BATCH = """batch --task shapes -q --methods mine.py:Fade --metrics clip_diff,mine.py:BRIGHT
    --templates mine.py:ResultTemplateDarkest
    -p seeds=42 -p num_inference_steps=1 -p embed=false -p n_permutations=19 -p max_figures=1"""


@pytest.mark.long(35)
def test_through_a_shell_to_the_report_and_the_answers(mine, capsys):
    vu("task new shapes --table shapes.csv --model tiny --clip tiny --judge= --base-folder out", capsys)
    with in_this_process(): vu(f"{BATCH} --entities red_cross,green_star --base-folder out", capsys)
    store = Store("out")
    (session,) = plan_sessions(store, "shapes", "fading", ["green star"])
    record = read_record(store.record(session))
    assert session.slug == "shapes_green star_fading_000" and record["status"] == "complete"
    assert record["method_from"]["reference"] == "mine.py:Fade" and len(record["method_from"]["sha256"]) == 64
    assert record["stages"]["interference"]["metrics_from"]["brightness"]["reference"] == "mine.py:BRIGHT"
    assert set(read_scores(store, session)["metric"]) == {"clip_diff", "brightness"}
    pages = {path.name: path.read_text() for path in Path("out").rglob("*.html")}
    assert any("Fading: brightness change" in page for page in pages.values())
    assert any("Fading is mine.py:Fade (sha256 " in page for page in pages.values())
    assert any("Who became darkest?" in page for page in pages.values())
    (answer,) = Path("out/results/Darkest").glob("*.json")
    about = json.loads(answer.read_text())["metadata"]
    assert about["brought"]["reference"] == "mine.py:ResultTemplateDarkest"
    # another process knows names, labels and directions by the cards, and imports nothing
    for door in (METHODS, PAIR_METRICS, RESULT_TEMPLATES): door.brought.clear()
    mine.unlink()
    assert (method_label("fading"), method_color("fading")) == ("Fading", "#AA00AA")
    assert "fading" in known_methods() and PAIR_METRICS["brightness"].higher_is_better
    vu("report --task shapes --quick --base-folder out", capsys)
    said = refused("batch --task shapes --methods fading --base-folder out", capsys)
    assert "fading, from mine.py:Fade, was brought by name; name it so again" in said


@pytest.mark.parametrize("words, said", [
    ("batch --methods nowhere.py:Fade", "nowhere.py is no file"),
    ("batch --methods mine.py:Fad", "unknown name in mine.py 'Fad'; did you mean 'Fade'?"),
    ("batch --methods no_such_module:Fade", "there is no module 'no_such_module'"),
    ("batch --methods mine.py:BRIGHT", "mine.py:BRIGHT is no method"),
    ("batch --methods mine.py:", "names no class"),
    ("batch --methods uce --metrics mine.py:Fade", "mine.py:Fade is no pair metric"),
    ("batch --methods uce --templates mine.py:Fade", "mine.py:Fade is no template"),
    ("batch --methods broken.py:Fade", "broken.py cannot be imported: SyntaxError"),
    ("batch --methods stops.py:Fade", "stops.py cannot be imported: SystemExit: 3"),
    ("batch --methods thief.py:Fade", "is called 'uce', as a method of the library; choose another name"),
    ("batch --methods odd.py:Fade", "is called '../up'; the name of a method has small letters"),
    ("batch --methods os:system", "os:system is no method"),
    ("batch --methods collections.abc:Mapping", "is no method"),
    ("run unlearn -p method=mine.py:Fad", "did you mean 'Fade'?"),
    ("report --methods mine.py:Fad", "did you mean 'Fade'?"),
    ("erase --concept fox --method mine.py:Fad --out erased", "did you mean 'Fade'?"),
])
def test_what_cannot_come_in_is_one_line_and_nothing_is_written(mine, capsys, words, said):
    (mine.parent/"broken.py").write_text("class Fade(:\n")
    (mine.parent/"stops.py").write_text("raise SystemExit(3)")
    (mine.parent/"thief.py").write_text(MINE.replace('"fading"', '"uce"'))
    (mine.parent/"odd.py").write_text(MINE.replace('"fading"', '"../up"'))
    before = sorted(mine.parent.iterdir())
    base = [] if words.startswith("erase") else ["--base-folder", "out"]
    assert said in refused(" ".join([words, *base]), capsys)
    assert sorted(mine.parent.iterdir()) == before


def test_names_of_records_and_tables_import_nothing(mine):
    with pytest.raises(UnknownNameError): get_method(f"{mine}:Fade")
    with pytest.raises(UnknownNameError): brought.check_name("pair metric", f"{mine}:BRIGHT", PAIR_METRICS)
    assert method_label(f"{mine}:Fade") == f"{mine}:Fade" and not METHODS.brought


def test_another_version_of_a_file_is_not_mixed_with_the_first(mine, tmp_path):
    store = Store(tmp_path/"out")
    METHODS.keep_card(store, METHODS.take("mine.py:Fade"))
    mine.write_text(MINE.replace("strength: float = .5", "strength: float = .6"))
    for ask in (
        lambda: check_parameters("unlearn", {"method": "mine.py:Fade", "base_folder": str(store.base)}),
        lambda: plan_sessions(store, "emoji", "mine.py:Fade"),
    ):
        with pytest.raises(ValueError, match="has results of the method 'fading' from mine.py") as refusal:
            ask()
        assert "\n" not in str(refusal.value)
    assert get_method("fading")().strength == .6
    new = Store(tmp_path/"new")
    assert finished(new, plan_sessions(new, "emoji", "fading")[0], "x") is None


def test_a_kernel_is_told_where_it_is(mine):
    "A real process, started in the working folder, brings in what the first was given."
    asked = check_parameters("unlearn", {"method": "mine.py:Fade", "base_folder": str(mine.parent/"out")})
    assert asked["method"] == "fading"
    typed = as_typed(asked)
    assert typed["method"] == f"{mine}:Fade" and typed["base_folder"] == asked["base_folder"]
    code = ("import sys; from vision_unlearning.unlearners.methods import METHODS; "
            "print(METHODS.take(sys.argv[1]))")
    python = [sys.executable, "-c", code.replace("; ", "\n"), typed["method"]]
    done = subprocess.run(python, cwd="/", capture_output=True, text=True)
    assert done.stdout.strip() == "fading", done.stderr


def test_a_class_and_an_instance_in_python(tmp_path):
    from typing import ClassVar

    class Here(Unlearner):
        "Changes nothing."
        name: ClassVar[str] = "here"
        label: ClassVar[str] = "Here"
        kind: ClassVar[str] = "text-to-image"
        reads: ClassVar[str] = "names"
        strength: float = 1.
        def unlearn(self, model, forget, retain=None, *, generator=None, callbacks=()): return None

    session = plan_sessions(Store(tmp_path), "emoji", Here(strength=2.), ["fox"])[0]
    assert (session.method, session.settings) == ("here", {"strength": 2.})
    assert configured(Here).strength == 1. and get_method("here") is Here
    assert METHODS.take(get_method("uce")) == "uce"
    with pytest.raises(ValueError, match="%%writefile here.py"): METHODS.command("here")


def test_an_entry_point_of_a_package(mine, tmp_path, monkeypatch):
    folder = tmp_path/"site"
    (folder/"fading_package-1.2.dist-info").mkdir(parents=True)
    (folder/"fading_package.py").write_text(MINE)
    about = folder/"fading_package-1.2.dist-info"
    (about/"METADATA").write_text("Metadata-Version: 2.1\nName: fading-package\nVersion: 1.2\n")
    (about/"top_level.txt").write_text("fading_package\n")
    (about/"entry_points.txt").write_text(
        "[vision_unlearning.methods]\nfading = fading_package:Fade\nother = fading_package:Fade\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    brought._installed_by.cache_clear()
    assert METHODS.take("fading") == "fading"
    origin = METHODS.origin("fading")
    assert str(origin) == "fading_package:Fade (fading-package 1.2)"
    assert METHODS.command("fading") == "fading_package:Fade"
    METHODS.brought.clear()
    with pytest.raises(ValueError, match="calls itself 'fading'; they must agree"): METHODS.take("other")


def test_a_metric_keeps_what_it_saw_in_a_file_of_its_own(mine):
    assert PAIR_METRICS.take("mine.py:BRIGHT") == "brightness"
    assert PAIR_METRICS["brightness"].scorer == "own_brightness" and not PAIR_METRICS["brightness"].default
    for name in ("v2", "mean_without_self", "Bright"):
        with pytest.raises(ValueError, match="small letters and underscores"):
            PAIR_METRICS.take(PairMetric(name, "x", True, compare=print))
    with pytest.raises(ValueError, match="as a pair metric of the library"):
        PAIR_METRICS.take(PairMetric("ssim", "x", True, compare=print))
    assert os.getcwd() == str(mine.parent)
