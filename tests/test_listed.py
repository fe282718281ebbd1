"""Who was in the retain data is recorded, and told apart everywhere; the published way stays what it was."""
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from vision_unlearning.core import config_hash
from vision_unlearning.data.retained import HALVES, check_retain, listed_names, retained_names
from vision_unlearning.interference.generate import generate_off, task_prompts
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.results.base import read_pairs
from vision_unlearning.running.batch import batch_status
from vision_unlearning.running.own import new_task
from vision_unlearning.running.page import report_path
from vision_unlearning.running.report import numbers_blocks
from vision_unlearning.running.session import (
    chosen_sessions,
    generate_session,
    load_evaluators,
    plan_sessions,
    read_scores,
    recorded_sessions,
    score_images,
    session_data,
    unlearn_session,
)
from vision_unlearning.running.sides import divide_sides, listing_words
from vision_unlearning.running.summary import listed_sides, printed, summary_table
from vision_unlearning.running.tuning.held_out import crossed_over, held_out_row, held_out_table
from vision_unlearning.store import Session, Store, read_record, session_fields, write_json
from vision_unlearning.tasks import entity_text
from vision_unlearning.unlearners.diffusion.uce import UCE

SHAPES = [
    {"name": f"{colour} {shape}", "domain": shape}
    for shape in ("circle", "square", "star")
    for colour in ("red", "blue", "green")
]
NAMES = [e["name"] for e in SHAPES]
EMITTER = "red star"


@pytest.mark.parametrize("names", [NAMES, [f"n{i}" for i in range(100)], list("abcd")])
def test_halves_are_disjoint_cover_all_but_the_emitter_and_cross_over(names):
    for emitter in names:
        a, b = (retained_names(names, emitter, half) for half in HALVES)
        assert not set(a) & set(b) and set(a) | set(b) == set(names) - {emitter}
        assert abs(len(a) - len(b)) <= 1 + len(names) % 2
    halves = [set(retained_names(names, e, "half-a")) | {e} for e in names]
    assert set.intersection(*(h - {e} for h, e in zip(halves, names))) == set()  # the emitter is in neither


def test_a_share_and_a_seed():
    drawn = [set(retained_names(NAMES, EMITTER, f"{share}-3")) for share in (.25, .5, .75)]
    assert [len(d) for d in drawn] == [2, 4, 6] and drawn[0] < drawn[1] < drawn[2]
    assert drawn[1] != set(retained_names(NAMES, EMITTER, "0.5-4"))
    assert retained_names(NAMES, EMITTER, ".50-03") == retained_names(NAMES, EMITTER, check_retain(".50-03"))


@pytest.mark.parametrize("retain", ["", "half", "half-c", "1-2", "0.0-1", "0.5", "0.5-x", "../a-1", "all "])
def test_what_says_nothing_is_refused_in_one_line(retain, tmp_path):
    with pytest.raises(ValueError, match="a share and a seed such as 0.25-7") as error:
        plan_sessions(Store(tmp_path), "emoji", "uce", ["fox"], retain=retain)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_share_that_lists_nobody_is_refused():
    with pytest.raises(ValueError, match="lists 0 of 8 receivers"): retained_names(NAMES, EMITTER, "0.01-1")


def test_published_sessions_keep_their_name_and_hash():
    session = Session("emoji", "fox", 6, "distil", 30, settings={"rank": 4})
    about = dict(task="emoji", entity="fox", method="distil", epochs=30, model="emoji-sd")
    assert session.key == config_hash(about | dict(settings={"rank": 4}))
    assert session.slug == "emoji_fox_distil_030"
    assert list(session_fields(session)) == [*"task entity index method epochs model settings".split()]
    half = replace(session, retain="half-b")
    assert half.key != session.key and half.slug == "emoji_fox_distil_030_half-b"
    assert len({half.key, session.key, replace(session, retain="half-a").key}) == 3
    store = Store("x")
    assert store.pair("emoji", 6, "distil", 30).name == "interferences_caused_by_emoji_6_distil_30.json"
    assert store.pair("emoji", 6, "distil", 30, "half-b") != store.pair("emoji", 6, "distil", 30)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A store with three complete sessions of one emitter, and what UCE was given to keep in each."
    store, pipe = Store(tmp_path_factory.mktemp("listed")), tiny_pipeline()
    new_task(store, "sides", SHAPES, model="tiny")
    eyes = load_evaluators("sides", "tiny", "clip")
    drawing = dict(num_inference_steps=1, batch_size=9)
    generate_off(pipe, store, "sides", task_prompts("sides", SHAPES), [1], model="tiny", **drawing)
    given, unlearn = {}, UCE.unlearn

    def listen(self, model, forget, retain=None, **options):
        given[asked] = list(retain)
        return unlearn(self, model, forget, retain, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(UCE, "unlearn", listen)
    for asked in ("all", *HALVES):
        session, = plan_sessions(store, "sides", "uce", [EMITTER], retain=asked)
        unlearn_session(store, session, pipe, "tiny")
        generate_session(store, session, pipe, [1], **drawing)
        score_images(store, session, [1], metrics=["judge_diff", "clip_diff"], **eyes)
    patch.undo()
    return store, given


def of(store, retain):
    session, = chosen_sessions(store, "sides", retain=retain)
    return session


@pytest.mark.parametrize("retain", ["all", *HALVES])
def test_record_and_pair_table_say_what_a_closed_form_got(made, retain):
    store, given = made
    session = of(store, retain)
    listed = read_record(store.record(session))["data"]["listed"]
    assert [entity_text("sides", name) for name in listed] == given[retain]
    scores = read_scores(store, session)
    assert set(scores.loc[scores["listed"].fillna(False), "receiver"]) == set(listed)
    assert scores.loc[scores["receiver"] == EMITTER, "listed"].isna().all()
    assert store.pair("sides", session.index, "uce", 0, retain).is_file()


def test_a_trained_method_gets_pictures_of_the_listed_only(tmp_path):
    store = Store(tmp_path)
    for retain in ("all", *HALVES):
        session, = plan_sessions(store, "emoji", "munba", ["fox"], retain=retain)
        forget, kept, _ = session_data(store, session)
        names = retained_names([e["name"] for e in _emoji()], "fox", retain)
        assert {text.removeprefix("An image of ") for text in kept["text"]} == set(names)
        assert set(forget["text"]) == {"An image of fox"} and len(kept) == 2*len(names)


def _emoji():
    from vision_unlearning.data.emoji import emoji_entities
    return emoji_entities()


def test_sessions_of_other_retain_data_are_never_mixed(made):
    store, _ = made
    assert len(recorded_sessions(store, "sides")) == 3
    for retain, n in {"all": 1, "half-a": 1, "half-a,half-b": 2}.items():
        assert len(chosen_sessions(store, "sides", retain=retain)) == n
    status = batch_status(store)
    assert sorted(status["retain"]) == ["all", *HALVES] and (status["scored"] == 1).all()
    assert report_path(store, "sides") != report_path(store, "sides", retain="half-a")


def test_what_old_records_do_not_say(made, tmp_path):
    store, _ = made
    record, old = read_record(store.record(of(store, "all"))), Store(tmp_path/"old")
    shutil.copytree(store.base, old.base)
    session = of(old, "all")

    def rewritten(data, **more):
        write_json(old.record(session), record | {"data": data} | more)
        return listed_sides(read_scores(old, session), EMITTER)

    assert rewritten({"n_retain": 8})["listed"].receivers == 8  # told all others, each once
    assert rewritten({"n_retain": 5})["unknown"].receivers == 8  # nobody can say which five
    assert rewritten({"n_retain": 8}, foreign={"source": "x"})["unknown"].receivers == 8
    assert listing_words(old, [session]) == "Listed unknown in 1 of 1 sessions."
    half = {"session": {"entity": "a", "retain": "half-a"}, "data": {"n_retain": 2}}
    assert listed_names(half, list("abc")) is None


def test_summary_and_report_show_both_means(made):
    store, _ = made
    table = printed(summary_table(store, [of(store, "half-a")]))
    scores = read_scores(store, of(store, "half-a"))
    named = scores[scores["metric"] == "judge_diff"]
    for side, listed in (("listed", True), ("unlisted", False)):
        mine = named[named["listed"] == listed]
        words = f"{mine['off'].mean():.0%} → {mine['on'].mean():.0%} (n = {len(mine)})"
        assert table[f"mean over {side}"][0] == words
    assert "mean over receivers" not in table
    page = "".join(numbers_blocks(store, [of(store, "half-a")]))
    n = int((named["listed"]).sum())
    assert "mean over unlisted" in page and f"{n} of 8 receivers listed, {8 - n} unlisted." in page
    page = "".join(numbers_blocks(store, [of(store, "all")]))
    assert "All receivers listed (the published way)." in page and "mean over receivers" in page


def test_templates_are_asked_of_each_side(made):
    store, _ = made
    session = of(store, "half-a")
    (_, listed), (_, unlisted) = divide_sides(store, "sides", retain="half-a").items()
    scores = read_scores(store, session)
    for side, mark in ((listed, True), (unlisted, False)):
        rows = read_pairs(side, "sides", "uce").rows[session.index]
        wanted = scores[(scores["metric"] == "clip_diff") & (scores["listed"] == mark)].set_index("receiver")
        assert set(rows) == {EMITTER, *wanted.index}
        for name, value in wanted["value"].items(): assert rows[name]["clip_diff"] == pytest.approx(value)
    # a batch does not take a side for a store of its own
    plain, = plan_sessions(unlisted, "sides", "uce", [EMITTER])
    with pytest.raises(ValueError, match="made with other settings"):
        unlearn_session(unlisted, plain, tiny_pipeline(), "tiny")
    (_, listed), (_, unlisted) = divide_sides(store, "sides", retain="half-a,half-b").items()
    assert set(read_pairs(unlisted, "sides", "uce").rows[session.index]) == set(NAMES)
    assert list(divide_sides(store, "sides").values())[0].base == store.base


def test_the_held_out_table_counts_each_receiver_once_on_each_side(made):
    store, _ = made
    kind = {e["name"]: e["domain"] for e in SHAPES}
    about = dict(task="sides", method="uce", settings={}, seeds=[1], num_inference_steps=1)
    halves = [about | dict(retain=h, rows=[held_out_row(store, of(store, h), kind)]) for h in HALVES]
    both = crossed_over(halves)["rows"][0]
    named = read_scores(store, of(store, "all")).query("metric == 'judge_diff' and receiver != @EMITTER")
    before = named["off"].sum()
    assert both["listed_before"] == both["unlisted_before"] == pytest.approx(before)
    assert both["listed_after"] + both["unlisted_after"] == both["same_after"] + both["other_after"]
    assert "listed_before" not in held_out_row(store, of(store, "all"), kind)
    assert {"listed kept", "unlisted kept"} < set(held_out_table([crossed_over(halves)]))
    with pytest.raises(ValueError, match="half-a and half-b, got half-a"): crossed_over(halves[:1])


def test_a_record_names_its_listed_in_plain_json(made):
    store, _ = made
    session = of(store, "half-a")
    record = json.loads(store.record(session).read_text())
    assert record["session"]["retain"] == "half-a" and record["key"] == session.key
    assert sorted(record["data"]["listed"]) == sorted(retained_names(NAMES, EMITTER, "half-a"))
    assert pd.Series(record["data"]["listed"]).is_unique and EMITTER not in record["data"]["listed"]
