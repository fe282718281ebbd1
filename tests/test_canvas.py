"""UnlearnCanvas: its definitions against numpy, its layout, its table, and its command."""
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from shell import refused, vu

from vision_unlearning.canvas.grid import Theme, cell_table, find_grid, find_theme
from vision_unlearning.canvas.judges import VisionTransformer
from vision_unlearning.canvas.published import published_rows
from vision_unlearning.canvas.scores import grid_answers, theme_scores
from vision_unlearning.data.canvas import CANVAS_OBJECTS, CANVAS_STYLES
from vision_unlearning.running.canvas import canvas_sessions, canvas_store, plan_canvas, run_canvas
from vision_unlearning.store import read_record

STYLES, THINGS = ["Monet", "Seed_Images", "Van_Gogh"], ["Cats", "Dogs"]


class Planted:
    "A judge that errs where it was told to, whatever the pictures show."
    name = "planted"

    def __init__(self, grid, seen):
        self.classes = dict(style=list(grid.styles), object=list(grid.objects))
        self.seen, self.place = seen, 0

    def probabilities(self, images):
        part = slice(self.place, self.place + len(images))
        self.place += len(images)
        return {d: torch.eye(len(names))[self.seen[d][part]] for d, names in self.classes.items()}


def by_hand(grid, seen, theme):
    "UA, IRA, CRA and CRA_rest by numpy alone."
    cells = cell_table(grid)
    names = dict(style=np.array(grid.styles), object=np.array(grid.objects))
    asked = {d: cells[d].to_numpy() for d in names}
    right = {d: names[d][seen[d]] == asked[d] for d in names}
    own, other = theme.domain, "object" if theme.domain == "style" else "style"
    mine = asked[own] == theme.name
    def mean(domain, among):
        kept = [name for name in names[domain] if (among & (asked[domain] == name)).any()]
        return np.mean([right[domain][among & (asked[domain] == name)].mean() for name in kept])

    return [
        1 - right[own][mine].mean(),
        mean(own, ~mine),
        mean(other, np.ones_like(mine)),
        mean(other, ~mine),
    ]


@pytest.mark.parametrize("theme", [Theme("twemoji", "style"), Theme("cat", "object")])
@pytest.mark.parametrize("errs", [0., .3, 1.])
def test_scores_of_a_judge_that_errs_in_a_known_way(theme, errs):
    grid = find_grid(
        "emoji_canvas", ("noto", "twemoji", "emojione"), ("cat", "dog", "tree", "bear"), seeds=(1, 2)
    )
    cells, random = cell_table(grid), np.random.default_rng(int(10*errs))
    seen = {}
    for domain, names in (("style", grid.styles), ("object", grid.objects)):
        truth = np.array([names.index(name) for name in cells[domain]])
        wrong = random.random(len(truth)) < errs
        seen[domain] = np.where(
            wrong, (truth + random.integers(1, len(names), len(truth))) % len(names), truth
        )
    answers = grid_answers(grid, torch.zeros(len(cells), 3, 8, 8, dtype=torch.uint8), Planted(grid, seen))
    table = theme_scores([(theme, answers)])
    assert table["value"].tolist() == pytest.approx(by_hand(grid, seen, theme), abs=1e-12)
    assert (table["low"] <= table["value"] + 1e-12).all() and (table["value"] <= table["high"] + 1e-12).all()
    shuffled = answers.sample(frac=1, random_state=0)
    assert theme_scores([(theme, shuffled)])["value"].tolist() == pytest.approx(table["value"].tolist())


@pytest.mark.parametrize("errs", [0., .4, 1.])
def test_scores_of_a_pair(errs):
    grid = find_grid("emoji_canvas", ("noto", "twemoji", "emojione"), ("cat", "dog", "tree"), seeds=(1, 2, 3))
    cells, random = cell_table(grid), np.random.default_rng(int(10*errs))
    seen, right = {}, {}
    for domain, names in (("style", grid.styles), ("object", grid.objects)):
        truth = np.array([names.index(name) for name in cells[domain]])
        seen[domain] = np.where(random.random(len(truth)) < errs, (truth + 1) % len(names), truth)
        right[domain] = seen[domain] == truth
    answers = grid_answers(grid, torch.zeros(len(cells), 3, 8, 8, dtype=torch.uint8), Planted(grid, seen))
    table = theme_scores([(find_theme(grid, "twemoji + cat"), answers)])
    style, thing = (cells["style"] == "twemoji").to_numpy(), (cells["object"] == "cat").to_numpy()
    both = right["style"] & right["object"]
    expected = [1 - both[style & thing].mean(), right["style"][style & ~thing].mean()]
    expected += [right["object"][~style & thing].mean(), both[~style & ~thing].mean()]
    assert table.index.tolist() == ["UA", "SC", "OC", "UP"]
    assert table["value"].tolist() == pytest.approx(expected, abs=1e-12)


def test_a_search_needs_an_edit_that_reads():
    from vision_unlearning.canvas.harder import attack_theme
    from vision_unlearning.canvas.told import told_words
    from vision_unlearning.interference.attacks import TokenSearch
    from vision_unlearning.models import load_judge, tiny_pipeline
    from vision_unlearning.unlearners.base import get_method
    pipe, grid = tiny_pipeline(), find_grid("emoji_canvas", seeds=(1,), num_inference_steps=2)
    theme = find_theme(grid, "cat")
    edit = get_method("prompt_filter")().unlearn(pipe, *told_words(grid, theme))
    with pytest.raises(ValueError, match="without reading its tokens"):
        attack_theme(pipe, edit, grid, theme, load_judge(), ["noto"], TokenSearch(num_steps=1))


def test_intervals_hold_the_truth():
    "Of a judge that is right at random, about 95 of 100 intervals hold its rate."
    from vision_unlearning.canvas.scores import bootstrap_share
    random, rates = np.random.default_rng(0), np.linspace(.5, .95, 10)
    held = 0
    for turn in range(200):
        counts = np.stack([np.full(10, 20), random.binomial(20, rates)], 1)
        low, high = bootstrap_share([counts], n_resamples=400, seed=turn)
        held += low <= rates.mean() <= high
    assert .9 <= held/200 <= .99


def test_the_nine_published_rows():
    "As the paper prints them: style UA/IRA/CRA, object UA/IRA/CRA, FID, seconds, GB, GB."
    rows = """
    ESD 98.58 80.97 93.96 92.15 55.78 44.23 65.55 6163 17.8 4.3
    FMN 88.48 56.77 46.60 45.64 90.63 73.46 131.37 350 17.9 4.2
    UCE 98.40 60.22 47.71 94.31 39.35 34.67 182.01 434 5.1 1.7
    CA 60.82 96.01 92.70 46.67 90.11 81.97 54.21 734 10.1 4.2
    SalUn 86.26 90.39 95.08 86.91 96.35 99.59 61.05 667 30.8 4.0
    SEOT 56.90 94.68 84.31 23.25 95.57 82.71 62.38 95 7.34 0
    SPM 60.94 92.39 84.33 71.25 90.79 81.65 59.79 29700 6.9 0
    EDiff 92.42 73.91 98.93 86.67 94.03 48.48 81.42 1567 27.8 4.0
    SHS 95.84 80.42 43.27 80.73 81.15 67.99 119.34 1223 31.2 4.0"""
    printed = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in rows.strip().splitlines()}
    assert {name: row.tolist() for name, row in published_rows().iterrows()} == printed


@pytest.fixture(scope="module")
def canvas(tmp_path_factory):
    "A folder in the layout of UnlearnCanvas, and two classifiers with random weights."
    folder, random = tmp_path_factory.mktemp("canvas"), np.random.default_rng(0)
    for style in STYLES[:2]:
        for thing in THINGS:
            for number in (1, 2):
                place = folder/"pictures"/style/thing
                place.mkdir(parents=True, exist_ok=True)
                noise = random.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(noise).save(place/f"{number}.jpg")
    for domain, labels in (("style", CANVAS_STYLES), ("object", CANVAS_OBJECTS)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = VisionTransformer(len(labels), 64, 1, 64, 8, 16)
        save_file(dict(network.state_dict()), folder/f"{domain}.safetensors")
    return folder


def asked(canvas):
    files = {f"{domain}_classifier": str(canvas/f"{domain}.safetensors") for domain in ("style", "object")}
    part = dict(styles=STYLES[:2], objects=THINGS, seeds=[188, 288], num_inference_steps=2, fid=False)
    short = dict(overrides={"munba": {"num_train_epochs": 1}})
    return part | files | short | dict(model="tiny", pictures=str(canvas/"pictures"))


def test_a_folder_in_the_layout_goes_the_whole_way(canvas, tmp_path):
    run = plan_canvas("canvas", ["uce", "munba"], ["Monet", "Cats", "Monet + Dogs"], **asked(canvas))
    rows = run_canvas(run, tmp_path, progress=False)
    assert [(row.side, row.method) for row in rows] == [
        (side, method) for side in ("style", "object", "pair") for method in ("none", "uce", "munba")
    ]
    store = canvas_store(tmp_path)
    for _, session in canvas_sessions(store, run):
        record = read_record(store.record(session))
        assert record["status"] == "complete" and record["stages"]["interference"]["judge"] == "style_object"
        crossed = {"Monet": 4, "Cats": 4, "Monet + Dogs": 2}  # two pictures of each crossing
        if session.method == "munba": assert record["data"]["n_forget"] == crossed[session.entity]
        assert len(list(store.generated(session).glob("on_*.png"))) == run.grid.size
    names = {path.name for path in store.baseline("canvas").glob("off_*.png")}
    assert "off_188_A Cats image in Seed Images style..png" in names
    assert all(0 <= row.scores["UA"]["value"] <= 1 for row in rows)


def test_what_is_missing_is_said_before_anything_is_made(canvas, tmp_path):
    whole = asked(canvas)
    for left_out, said in (
        ("model", "fine-tuned"),
        ("style_classifier", "classifier of styles"),
        ("pictures", "munba"),
    ):
        run = plan_canvas("canvas", ["munba"], ["Monet"], **{n: v for n, v in whole.items() if n != left_out})
        with pytest.raises(ValueError, match=said): run_canvas(run, tmp_path/"none", progress=False)
    assert not (tmp_path/"none").exists()


@pytest.mark.long(25)
def test_from_a_shell(tmp_path, capsys):
    where = f"--base-folder {tmp_path}"
    words = f"batch --task emoji_canvas --benchmark unlearn_canvas --methods uce,prompt_filter {where} -q"
    words += " --entities twemoji,cat -p styles=twemoji,noto -p objects=cat,dog -p seeds=188"
    words += " -p num_inference_steps=2 -p fid=false"
    assert "2 styles x 2 objects x 1 seeds = 4 pictures a model" in vu(f"{words} --plan", capsys)
    assert not (tmp_path/"unlearn_canvas").exists()
    page, table = vu(words, capsys).split()
    rows = pd.read_csv(table)
    assert rows["method"].tolist() == ["none", "uce", "prompt_filter"]*2
    assert rows["scores.UA.value"].between(0, 1).all()
    assert vu(f"report --task emoji_canvas --benchmark unlearn_canvas {where}", capsys).split() == [
        page,
        table,
    ]
    again = pd.read_csv(table).sort_values(["side", "method"], ignore_index=True)
    pd.testing.assert_frame_equal(again, rows.sort_values(["side", "method"], ignore_index=True))
    told = json.loads(vu(f"status {where} --json", capsys))["sessions"]
    [(benchmark, lines)] = [({line["benchmark"] for line in table}, table) for table in told]
    assert benchmark == {"unlearn_canvas"}
    assert {(line["method"], line["scored"]) for line in lines} == {("uce", 2), ("prompt_filter", 2)}


@pytest.mark.parametrize("words, said", [
    ("--benchmark canvas", "unknown benchmark 'canvas'"),
    ("--benchmark unlearn_canvas --task emoji", "unknown task with styles and objects 'emoji'"),
    ("--benchmark unlearn_canvas --metrics ssim", "has no metrics"),
    ("--benchmark unlearn_canvas --task emoji_canvas --entities cta", "did you mean 'cat'"),
    ("--benchmark unlearn_canvas --task emoji_canvas -p seed=1", "did you mean 'seeds'"),
    ("--benchmark unlearn_canvas --task emoji_canvas --methods debias", "debias makes nothing forgotten"),
    ("--plan", "--plan is of a --benchmark"),
])
def test_what_a_command_gets_wrong(words, said, tmp_path, capsys):
    assert said in refused(f"batch {words} --base-folder {tmp_path} -q", capsys)
    assert not list(tmp_path.iterdir())
