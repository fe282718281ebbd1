"""The explorer: its numbers are those of the tables, and a real browser finds its way on the page."""
from __future__ import annotations

import csv
import functools
import importlib.util
import io
import json
import shutil

import numpy as np
import pytest

from vision_unlearning.interference.pair_metrics import PAIR_METRICS
from vision_unlearning.interference.stats import benjamini_hochberg
from vision_unlearning.results.alignment import ResultTemplateMetricSimilarityAlignment
from vision_unlearning.results.base import read_pairs, read_similarity, simulate_store
from vision_unlearning.results.cut import ResultTemplateMinimumCutInterference
from vision_unlearning.running.explorer_data import Asked, explorer_data, unpacked
from vision_unlearning.store import Store, read_entities, write_json

EMITTERS = [6, 19, 40, 77]  # fox, wolf, automobile, volleyball
METRICS = ["clip_diff", "rmse", "ssim"]
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Two methods with four emitters, pictures of the fox, and an attribute with a value that is HTML."
    made = Store(tmp_path_factory.mktemp("explorer"))
    simulate_store(made, effects={"uce": 1.2, "distil": .3}, emitters=EMITTERS, pictures=(6,))
    rows = read_entities(made, "emoji")
    for k, row in enumerate(rows): row["label"] = NASTY if k % 2 else "plain"
    write_json(made.metadata("emoji"), rows)
    return made


ASKED = Asked(metrics=METRICS, n_permutations=49)


@pytest.fixture(scope="module")
def data(store): return json.loads(json.dumps(explorer_data(store, "emoji", ASKED), default=str))


def test_the_numbers_are_those_of_the_tables(store, data):
    for method in data["methods"]:
        table = read_pairs(store, "emoji", method["name"])
        for metric in METRICS:
            seen = unpacked(method["values"][metric], 100)
            assert seen.tobytes() == np.ascontiguousarray(table.matrix(metric)[EMITTERS], "<f8").tobytes()
    for similarity in data["similarities"]:
        expected = read_similarity(store, "emoji", similarity["name"])
        assert (
            unpacked(similarity["values"], 100).tobytes() == np.ascontiguousarray(expected, "<f8").tobytes()
        )
        assert sorted(similarity["order"]) == list(range(100))


def test_the_tests_are_those_of_the_templates(store, data):
    tests = [t for t in data["tests"] if t["template"] == "MetricSimilarityAlignment"]
    assert len(tests) == 2 * 3 * 2
    one = next(t for t in tests if (t["method"], t["metric"], t["by"]) == ("uce", "rmse", "attr"))
    asked = dict(unlearning_algorithm="uce", interference_pair="rmse", similarity_metric="attr")
    where = dict(task="emoji", base_folder=store.base, n_permutations=49)
    result = ResultTemplateMetricSimilarityAlignment(**where, **asked).compute()["result"]
    assert (one["pvalue"], one["r"]) == (result["mantel_pvalue"], result["mantel_statistic"])
    adjusted = benjamini_hochberg([t["pvalue"] for t in tests])
    assert np.allclose([t["adjusted"] for t in tests], adjusted)


@pytest.mark.skipif(not importlib.util.find_spec("vl_convert"), reason="the extra explore is not installed")
def test_a_page_obeys_its_limit_and_says_what_it_cost(store, tmp_path):
    from vision_unlearning.running import explorer
    megabytes = 1.5
    path = explorer.write_explorer(
        store, "emoji", tmp_path / "x.html", metrics=METRICS, quick=True, megabytes=megabytes
    )
    assert path.stat().st_size < megabytes*1e6
    assert "are shown at" in path.read_text(encoding="utf-8")


# In a real browser

def chromium():
    "Debian's, or another one that is called so."
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str:
    "Why no browser can be asked; empty where one can."
    if not importlib.util.find_spec("playwright"): return "playwright is not installed"
    if not importlib.util.find_spec("vl_convert"):
        return "vl-convert-python (the extra explore) is not installed"
    return "" if chromium() else "no chromium on PATH: apt-get install chromium"


browsed = pytest.mark.skipif(bool(missing()), reason=missing() or "never")


@pytest.fixture(scope="module")
def address(store, tmp_path_factory):
    "The page as a file."
    from vision_unlearning.running.explorer import write_explorer
    path = tmp_path_factory.mktemp("page")/"page.html"
    write_explorer(store, "emoji", path, metrics=METRICS, n_permutations=49)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu"]
        started = play.chromium.launch(executable_path=chromium(), args=flags)
        yield started
        started.close()


@pytest.fixture
def visit(browser, address):
    "Open the page at a link; an error of its script, or anything it asks of a network, fails the test."
    wrong, contexts = [], []

    def opened(link="", width=1400, height=1000, **how):
        context = browser.new_context(viewport={"width": width, "height": height}, **how)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append("an alert"))
        page.on("request", lambda r: wrong.append(r.url) if r.url.startswith("http") else None)
        page.goto(address + link)
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts: context.close()
    assert not wrong


def pair(page): return page.inner_text("#from"), page.inner_text("#to")


def becomes(page, script):
    "Wait for what the pointer does: a browser passes its moves on with the next frame."
    page.wait_for_function(f"document.getElementById('to').textContent {script}", timeout=5000)


def told(page) -> str: return page.text_content("#spoken")


def downloaded(page, name) -> list[dict]:
    with page.expect_download() as waiting: page.click(f'[data-csv="{name}"]')
    text = waiting.value.path().read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


@browsed
def test_a_deep_link_shows_its_pair_and_a_click_another(visit):
    page = visit("#metric=rmse&order=table&methods=uce&from=fox&to=wolf")
    assert pair(page) == ("fox", "wolf")
    assert page.input_value("#metric") == "rmse"
    tiles = page.locator("[data-sheet] .tile")
    assert tiles.count() == 2 * 3  # two seeds: without, and with either method
    assert page.locator(".tile.absent").count() == 0
    shown = page.locator(".tile").first.evaluate("t => getComputedStyle(t).backgroundImage")
    assert shown.startswith('url("blob:')
    box = page.locator(".plot canvas").bounding_box()
    third_row = box["y"] + box["height"] * .62
    page.mouse.click(box["x"] + box["width"] - 7, third_row)
    becomes(page, "=== 'telescope'")
    assert pair(page)[0] == "automobile" and "to=telescope" in page.url
    page.mouse.move(box["x"] + box["width"] * .6, third_row)
    becomes(page, "!== 'telescope'")
    assert pair(page)[0] == "automobile"
    page.mouse.move(5, 5)
    becomes(page, "=== 'telescope'")  # what was clicked stays


@browsed
def test_keys_walk_and_the_focus_is_seen(visit):
    page = visit("#order=table&methods=uce&from=fox&to=wolf")
    page.focus(".plot")
    page.keyboard.press("ArrowRight")
    assert pair(page) == ("fox", "red apple") and told(page).startswith("fox forgotten, red apple: ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert pair(page) == ("wolf", "telescope")
    assert "from=wolf" in page.url and "to=telescope" in page.url
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.focus("#tab-matrix")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-similarity", "aria-selected") == "true"


@browsed
def test_methods_and_filters(visit, store):
    page = visit("#metric=clip_diff")
    assert page.locator("figure").count() == 2
    page.locator("#methods input").nth(1).uncheck()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("figure canvas").count() == 1
    only = page.locator("figure").get_attribute("data-method")
    page.select_option("#measured", "colour=red")
    page.select_option("#forgotten", "domain=nature")
    rows = downloaded(page, "matrix")
    entities = {e["name"]: e for e in read_entities(store, "emoji")}
    assert {r["method"] for r in rows} == {only}
    assert {r["forgotten"] for r in rows} == {"fox", "wolf"}
    red = {name for name, e in entities.items() if e["colour"] == "red"}
    assert {r["measured"] for r in rows} == red
    table = read_pairs(store, "emoji", only)
    matrix = table.matrix("clip_diff")
    place = {name: k for k, name in enumerate(table.names)}
    for r in rows:  # to the bit
        assert float(r["value"]) == matrix[place[r["forgotten"]], place[r["measured"]]]


@browsed
def test_orders(visit, store):
    "By an attribute whose values are HTML, by harm, by likeness to the chosen one."
    page = visit("#order=by+label")
    assert page.input_value("#order") == "by label"
    page = visit("#order=near&similarity=attr&methods=uce&from=fox&to=fox&metric=clip_diff")
    alike = read_similarity(store, "emoji", "attr")[6]
    seen = list(dict.fromkeys(r["measured"] for r in downloaded(page, "matrix")))
    names = [e["name"] for e in read_entities(store, "emoji")]
    values = [alike[names.index(name)] for name in seen]
    assert values == sorted(values, reverse=True)
    page.select_option("#order", "harm")
    rows = downloaded(page, "matrix")
    matrix = read_pairs(store, "emoji", "uce").matrix("clip_diff")
    harm = np.nanmean(np.where(np.eye(100, dtype=bool), np.nan, -matrix)[EMITTERS], axis=1)
    expected = [names[EMITTERS[k]] for k in np.argsort(-harm, kind="stable")]
    assert list(dict.fromkeys(r["forgotten"] for r in rows)) == expected


@browsed
def test_similarity_and_its_test_stand_together(visit, store, data):
    page = visit("#view=similarity&metric=clip_diff&similarity=attr&methods=uce&from=fox&to=wolf")
    rows = downloaded(page, "similarity")
    alike, harm = (
        read_similarity(store, "emoji", "attr"),
        read_pairs(store, "emoji", "uce").matrix("clip_diff"),
    )
    names = [e["name"] for e in read_entities(store, "emoji")]
    assert len(rows) == 4 * 99
    for r in rows:
        i, j = names.index(r["forgotten"]), names.index(r["measured"])
        assert (float(r["attr"]), float(r["clip_diff"])) == (alike[i, j], harm[i, j])
    tests = downloaded(page, "tests")
    assert [float(t["pvalue"]) if t["pvalue"] else None for t in tests] == [
        t["pvalue"] for t in data["tests"]
    ]
    words = page.inner_text("#words")
    assert "What it does not show." in words and ResultTemplateMetricSimilarityAlignment.not_shown in words
    assert "p corrected" in words


@browsed
@pytest.mark.parametrize("metric, first, second", [("clip_diff", 6, 19), ("rmse", 40, 77), ("ssim", 19, 3)])
def test_the_cut_is_that_of_the_results(visit, store, metric, first, second):
    names = [e["name"] for e in read_entities(store, "emoji")]
    page = visit(
        f"#view=cut&metric={metric}&methods=uce&from={names[first]}&to={names[second].replace(' ', '+')}"
    )
    edges = [(r["from"], r["to"], float(r["weight"])) for r in downloaded(page, "cut")]
    asked = dict(task="emoji", unlearning_algorithm="uce", interference_pair=metric, base_folder=store.base)
    where = dict(entity_1=names[first], entity_2=names[second])
    result = ResultTemplateMinimumCutInterference(**asked, **where).compute()["result"]
    assert np.isclose(sum(weight for *_, weight in edges), result["cut_value"], rtol=1e-9)
    assert sorted(edges) == sorted((e["from"], e["to"], e["weight"]) for e in result["cut_edges"])
    assert ResultTemplateMinimumCutInterference.not_shown in page.inner_text("#words")


@browsed
def test_a_wrong_link_says_so(visit):
    page = visit("#metric=clop&from=foxx&order=by+colour")
    said = page.inner_text("#said")
    assert "metric=clop" in said and "from=foxx" in said and "colour" not in said


@browsed
def test_a_phone_and_the_dark(visit):
    page = visit("#methods=uce", width=390, height=844, color_scheme="dark", has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    background = functools.partial(page.evaluate, "getComputedStyle(document.body).backgroundColor")
    assert background() == "rgb(22, 24, 28)"
    page.click("#theme")
    assert background() == "rgb(255, 255, 255)"
    page.wait_for_selector("body[data-ready]")
    before = pair(page)
    page.locator(".plot").evaluate("plot => plot.scrollIntoView()")
    box = page.locator(".plot canvas").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * .8, box["y"] + box["height"] * .62)
    becomes(page, f"!== {json.dumps(before[1])}")
    page.click('[title="the one measured before"]')
    assert PAIR_METRICS["clip_diff"].axis_label in page.inner_text("#pair")
