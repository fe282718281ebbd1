"Figures of pages: what it shows is said in words, and the numbers under it are those that were drawn."
from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from vision_unlearning.benchmarks import rt_name_to_class
from vision_unlearning.interference.entity import InterferencePerEntity
from vision_unlearning.results.base import ResultTemplate, simulate_store
from vision_unlearning.results.numbers import drawn_numbers
from vision_unlearning.running.answers import answer, answer_figure, first_axes
from vision_unlearning.running.page import csv_link, page, page_file
from vision_unlearning.running.questions import questions
from vision_unlearning.store import Store, read_entities

EMITTERS = list(range(0, 100, 10))
# These draw arrows between names, or pictures: their numbers are compared with the answer itself.
NO_MARKS = {"MinimumCutInterference"}
PICTURES = {"InterferenceVisualSummary", "UnlearningVisualSummary", "SimilarityVisualSummary"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = Store(tmp_path_factory.mktemp("figures"))
    simulate_store(made, effects={"uce": 1.2}, emitters=EMITTERS, pictures=(0,))
    InterferencePerEntity(task="emoji", base_folder=str(made.base), remote_repository_name="").compute()
    return made


@pytest.fixture(scope="module")
def answers(store):
    "The first answer to each template that has one."
    found = {}
    first = dict(task="emoji", unlearning_algorithm="uce", entity=read_entities(store, "emoji")[0]["name"])
    for name, arguments in [*questions(store, "emoji"), ("UnlearningVisualSummary", first)]:
        if name in found: continue
        one = answer(store, name, arguments, n_permutations=19)
        if one.data is not None: found[name] = one
    return found


def marks(ax) -> list[float]:
    "Numbers that a figure shows: of dots, bars, cells and marked points; lines that guide the eye are none."
    found = [np.asarray(image.get_array(), float).ravel() for image in ax.images]
    for dots in ax.collections:
        if isinstance(dots, PathCollection): found.append(np.ma.filled(dots.get_offsets(), np.nan).ravel())
    lying = lambda bar: abs(bar.get_height() - .62) < 1e-9  # as `CountSignificantRelationship` draws them
    found += [[bar.get_width() if lying(bar) else bar.get_height()] for bar in ax.patches]
    found += [line.get_xydata().ravel() for line in ax.lines if line.get_marker() == "."]
    numbers = np.concatenate([np.asarray(part, float) for part in found]) if found else np.array([])
    return numbers[np.isfinite(numbers)]


def test_every_template_shows_something_here(answers):
    "Nothing that embeds pictures, and no category with too few emitters."
    absent = set(rt_name_to_class) - set(answers)
    assert absent <= {
        "EmbeddingUnlearningProfile",
        "EmbeddingForgettingEfficiency",
        "ImplicitAssociationTest",
    }, absent


def test_numbers_are_those_that_were_drawn(answers):
    "Where dots are spread by chance beside a scale, the other coordinate must be there."
    spread = {"MethodComparisonByMetricEntity", "SignificantRelationshipCategorical",
              "SignificantRelationshipCategoricalDirectional"}
    for name, one in answers.items():
        if name in NO_MARKS | PICTURES: continue
        ax = first_axes(one.template.plot(one.data))
        drawn = marks(ax)
        plt.close(ax.figure)
        table = drawn_numbers(one.template, one.data)
        known = table.select_dtypes("number").to_numpy(float).ravel()
        known = known[np.isfinite(known)]
        assert len(drawn) and len(known), name
        missing = ~np.isclose(drawn[:, None], known[None], rtol=1e-12, atol=0).any(1)
        if name in spread:  # every second number is a place, not a value
            assert missing.mean() <= .5 and len(known) <= len(drawn), name
            continue
        assert not missing.any(), (name, drawn[missing][:5])


def test_a_cut_and_pictures_have_their_numbers(answers):
    cut = answers["MinimumCutInterference"]
    assert drawn_numbers(cut.template, cut.data).to_dict("records") == cut.data["result"]["cut_edges"]
    for name in PICTURES & set(answers):
        one = answers[name]
        text = str(one.data["result"].get("numbers") or one.data["result"])
        table = drawn_numbers(one.template, one.data)
        numbers = table.select_dtypes("number").to_numpy(float)
        assert len(table) and all(repr(v) in text for v in numbers[np.isfinite(numbers)].tolist()), name


class Figures(HTMLParser):
    "The figures of a page, each with the words of its picture, its caption, and its table."
    def __init__(self, text: str):
        super().__init__()
        self.alts, self.captions, self.tables, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        if tag == "img": self.alts.append(of.get("alt", ""))
        if tag == "figcaption": self.inside, self.captions = True, [*self.captions, ""]
        if tag == "a" and "download" in of:
            kind, _, text = of["href"].partition(",")
            assert kind == "data:text/csv;charset=utf-8"
            self.tables.append((of["download"], pd.read_csv(io.StringIO(unquote(text)))))

    def handle_endtag(self, tag):
        if tag == "figcaption": self.inside = False

    def handle_data(self, text):
        if self.inside: self.captions[-1] += text


def test_the_figure_of_an_answer_is_whole(store, answers):
    "Every digit, with names of entities, under a caption that says what to see."
    names = [e["name"] for e in read_entities(store, "emoji")]
    one = answers["MetricSimilarityAlignment"]
    seen = Figures(answer_figure(one, names))
    (alt,), (caption,), ((file, table),) = seen.alts, seen.captions, seen.tables
    assert "Similarity across, harm up" in caption and "Similarity across, harm up" in alt
    assert "r = " in alt, "what stands in the picture is said to those who cannot see it"
    about = one.data["metadata"]
    assert about["interference_pair"] in file and file.endswith(".csv")
    result = one.data["result"]
    assert table[about["interference_pair"]].tolist() == result["x"]
    assert table[about["similarity_metric"]].tolist() == result["y"]
    assert table["receivers"].tolist() == [names[i] for i in result["receivers"]]


def test_names_of_others_stay_text_in_a_link():
    nasty = pd.DataFrame({'a,"<b>': ["</a><script>", "é\n1", "50 %#&"], "n": [.1 + .2, 1e-300, np.pi]})
    link = csv_link(nasty, "../../etc/x y")
    assert "<script" not in link and "<b>" not in link
    ((file, table),) = Figures(link).tables
    assert "/" not in file
    pd.testing.assert_frame_equal(table, nasty, check_exact=True)


def test_every_caption_of_an_answer_is_a_sentence():
    "It stands under the figure; a template of somebody else may say nothing, and then its question does."
    for name, template in rt_name_to_class.items():
        seen = template.plot.__doc__
        assert seen and seen.strip().endswith("."), name
    assert ResultTemplate.__doc__


def test_colours_have_one_home():
    "No page states a colour of text or ground again; what is drawn on white says so."
    look = page_file("look.css")
    assert "light-dark(" in look and "color-scheme: light dark" in look
    for name in ("page.css", "explorer.css", "app.css"):
        declared = re.findall(r"(--[\w-]+):", page_file(name))
        again = set(declared) & set(re.findall(r"(--[\w-]+):", look))
        assert not again, f"{name} states {again} again"
        used = set(re.findall(r"var\((--[\w-]+)\)", page_file(name)))
        gradio = {"--body-text-color", "--border-color-primary", "--block-background-fill"}
        assert used <= set(declared) | set(re.findall(r"(--[\w-]+):", look)) | gradio, name
    text = page("title", [])
    assert text.index(look) < text.index(page_file("page.css"))
