"""Result templates and their statistics: what would read badly as a lesson."""
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from vision_unlearning.interference.stats import mantel
from vision_unlearning.intervals import pair_correlation_interval
from vision_unlearning.plotting import heatmap, image_grid, save_figure
from vision_unlearning.results.alignment import ResultTemplateMetricSimilarityAlignment
from vision_unlearning.results.base import ResultTemplate, pair_files, read_pairs, simulate_store
from vision_unlearning.results.comparison import ResultTemplateMethodComparisonByMetricEntity
from vision_unlearning.results.matrix import ResultTemplateInterferenceMatrix, ResultTemplateSimilarityMatrix
from vision_unlearning.results.visual import (
    ResultTemplateInterferenceVisualSummary,
    ResultTemplateUnlearningVisualSummary,
)
from vision_unlearning.store import ForeignFileError, MissingSessionError, Store, read_json, write_json
from vision_unlearning.unlearners.methods import known_methods

uce = dict(unlearning_algorithm="uce")
questions = [
    (ResultTemplateInterferenceMatrix, dict(**uce, interference_pair="ssim")),
    (ResultTemplateSimilarityMatrix, dict(similarity_metric="attr")),
    (ResultTemplateInterferenceVisualSummary, dict(**uce, interference_pair="rmse", entity_index=2)),
    (ResultTemplateUnlearningVisualSummary, dict(**uce)),
    (
        ResultTemplateMethodComparisonByMetricEntity,
        dict(interference_entity="receiver_average_clip_diff", unlearning_algorithm_list=["uce"]),
    ),
    (
        ResultTemplateMetricSimilarityAlignment,
        dict(**uce, interference_pair="clip_diff", similarity_metric="jacc", n_permutations=99),
    ),
]
# A figure that matplotlib could not lay out is a figure that nobody can read.
pytestmark = pytest.mark.filterwarnings("error:constrained_layout")
each = pytest.mark.parametrize(
    "template,arguments", questions, ids=lambda q: getattr(q, "__name__", "").removeprefix("ResultTemplate")
)


@pytest.fixture(scope="module", params=["emoji_canvas", "emoji_people"])
def world(request, tmp_path_factory):
    return request.param, simulate_store(
        Store(tmp_path_factory.mktemp("world")), task=request.param, emitters=[2, 5], pictures=(2, 5)
    )


@pytest.mark.long
@each
def test_every_template_on_every_task(world, template, arguments, tmp_path):
    "The answer is JSON, comes back from disk as it was, and is drawn without a store."
    task, store = world
    question = template(task=task, base_folder=store.base, **arguments)
    data = question.compute()
    assert question.model == "emoji-sd" and data["metadata"]["task"] == task
    text = json.dumps(data, allow_nan=False)
    assert question.compute() == json.loads(text)
    assert (
        save_figure(template.plot(json.loads(text)), tmp_path / "figure.png", close=True).stat().st_size < 2e5
    )


@each
def test_fields_of_the_published_api(template, arguments):
    published = {
        "recompute_if_exists": False,
        "save_outputs": True,
        "base_folder": "assets",
        "remote_repository_name": "LeonardoBenitez/VisionUnlearningEvaluationTestbeds",
    }
    question = template(**arguments)
    assert published.items() <= question.model_dump().items()
    assert question.model == "sd1.4" and question.task == (
        "scenes" if template is ResultTemplateSimilarityMatrix else "people"
    )
    with pytest.raises(ValueError, match="unknown .* setting 'max_identites'"):
        template(**arguments, max_identites=3)


@each
def test_nothing_is_written_where_nothing_was_computed(template, arguments, tmp_path):
    with pytest.raises((MissingSessionError, FileNotFoundError)):
        template(task="emoji", base_folder=tmp_path, **arguments).compute()
    assert not list(tmp_path.rglob("*.*"))


def test_save_outputs_off_writes_no_answer(world):
    task, store = world
    question = ResultTemplateInterferenceMatrix(
        task=task, base_folder=store.base, interference_pair="judge_diff", save_outputs=False, **uce
    )
    question.compute()
    assert not (store.base / "results" / "InterferenceMatrix").exists() or "judge_diff" not in str(
        list((store.base / "results" / "InterferenceMatrix").iterdir())
    )


def test_a_changed_table_is_answered_anew_and_a_null_stays_missing(tmp_path):
    store = simulate_store(Store(tmp_path), task="emoji_canvas", emitters=[0])
    question = ResultTemplateInterferenceMatrix(
        task="emoji_canvas", base_folder=tmp_path, interference_pair="clip_diff", **uce
    )
    before = question.compute()
    path = pair_files(store, "emoji_canvas", "uce")[1][0]
    row = read_json(path)
    receiver = list(row)[7]
    row[receiver]["clip_diff"] = None
    write_json(path, row)
    after = question.compute()
    assert before["result"][0][receiver] is not None and after["result"][0][receiver] is None
    ResultTemplateInterferenceMatrix.plot(after)
    path.write_text('{"half')
    with pytest.raises(ForeignFileError, match=path.name): question.compute()


def test_published_tables_with_nan_and_underscores(tmp_path):
    store = Store(tmp_path)
    write_json(store.metadata("people"), [{"name": "George_W_Bush"}, {"name": "Tony_Blair"}])
    store.pair("people", 1, "munba", 100).parent.mkdir()
    store.pair("people", 1, "munba", 100).write_text(
        '{"George W Bush": {"dino_diff": NaN}, "Tony Blair": {"dino_diff": 0.4}}'
    )
    table = read_pairs(store, "people", "munba")
    assert (
        table.epochs == 100
        and np.isnan(table.matrix("dino_diff")[1, 0])
        and table.matrix("dino_diff")[1, 1] == 0.4
    )


def test_the_base_class_answers_nothing():
    with pytest.raises(TypeError, match="use one of its subclasses"): ResultTemplate().compute()


def test_mantel_does_not_depend_on_the_order_of_entities():
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(2, 15, 15))
    order = generator.permutation(15)
    x[4, 9] = np.nan
    here, there = mantel(x, y, 4000), mantel(x[np.ix_(order, order)], y[np.ix_(order, order)], 4000)
    assert here["statistic"] == pytest.approx(there["statistic"]) and here["pvalue"] == pytest.approx(
        there["pvalue"], abs=0.04
    )
    assert mantel(x, y, 500, seed=1) == mantel(x, y, 500, seed=1)
    assert mantel(x, 3*y + 1, 500)["pvalue"] == mantel(x, y, 500)["pvalue"]
    assert mantel(x, x, 500)["pvalue"] == pytest.approx(1 / 501) and pair_correlation_interval(
        x, x
    ) == pytest.approx((1, 1))


def test_one_list_of_methods():
    base = importlib.import_module("vision_unlearning.unlearners.base")
    looks = [known_methods()[name] for name in base.METHODS]
    assert len({look.label for look in looks}) == len({look.color for look in looks}) == len(base.METHODS)


def test_the_entity_table_of_this_library_is_read(tmp_path):
    "The columns that `interference.entity` writes are those that the comparison finds."
    entity = pytest.importorskip("vision_unlearning.interference.entity")
    store = simulate_store(Store(tmp_path), task="emoji_canvas")
    store.per_entity("emoji_canvas").unlink()
    rows = entity.InterferencePerEntity(task="emoji_canvas", base_folder=str(tmp_path)).compute()
    table = read_pairs(store, "emoji_canvas", "uce").matrix("clip_diff")
    for metric, truth in [
        ("emitter_average_clip_diff", table.mean(1)),
        ("receiver_average_clip_diff", table.mean(0)),
        ("forget_clip_diff", np.diag(table)),
        ("emitter_average_clip_diff_without_self", (table.sum(1) - np.diag(table)) / (len(table) - 1)),
    ]:
        data = ResultTemplateMethodComparisonByMetricEntity(
            task="emoji_canvas",
            base_folder=tmp_path,
            interference_entity=metric,
            unlearning_algorithm_list=["uce"],
        ).compute()
        assert data["result"]["uce"]["values"] == pytest.approx(truth.tolist()) and len(rows) == 20
        ResultTemplateMethodComparisonByMetricEntity.plot(data)


def test_figures_are_the_same_bytes_twice(tmp_path):
    images = [[np.full((8, 8, 3), 90, np.uint8)]*2]
    first, second = (
        save_figure(image_grid(images, ["a"], ["b", "c"]), tmp_path / f"{i}.png", close=True).read_bytes()
        for i in range(2)
    )
    assert first == second
    with pytest.raises(ValueError, match="use .png"):
        save_figure(heatmap(np.eye(3), list("abc")), tmp_path / "x.gif")


def test_templates_import_no_torch():
    modules = ("plotting explore.similarity interference.stats results.base results.matrix results.visual "
               "results.comparison results.alignment").split()
    command = (
        "import sys\n"
        + "\n".join(f"import vision_unlearning.{m}" for m in modules)
        + "\nprint('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )
