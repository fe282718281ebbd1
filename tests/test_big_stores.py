"""Big stores: pages ask the files of a session once, and say what a slow table of every seed says."""
import builtins
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vision_unlearning.core import ForeignFileError
from vision_unlearning.files import is_settled
from vision_unlearning.running import means as module
from vision_unlearning.running.means import read_means, score_means
from vision_unlearning.running.session import read_scores
from vision_unlearning.running.summary import (
    before_after,
    listed_sides,
    rank_receivers,
    summarise,
    summary_table,
)
from vision_unlearning.store import Session, Store, write_json

NAMES = [f"thing {i}" for i in range(12)]
METRICS = ("clip_diff", "judge_diff", "judge_prob_diff")


def scores(draw) -> pd.DataFrame:
    "Two seeds for every receiver; some were not measured."
    rows = [(name, seed, metric) for metric in METRICS for name in NAMES for seed in (42, 43)]
    table = pd.DataFrame(rows, columns=["receiver", "seed", "metric"])
    off, on = draw.random((2, len(table)))
    judge = (table["metric"] == "judge_diff").to_numpy()
    off[judge], on[judge] = off[judge].round(), on[judge].round()
    on[(table["metric"] == "clip_diff") & (draw.random(len(table)) < .2)] = np.nan
    return table.assign(off=off, on=on, value=on - off)


def record(session, listed) -> dict:
    stages = dict(unlearn=dict(seconds=1., edit_bytes=64), generate=dict(seeds=[42, 43]),
                  interference=dict(seeds=[42, 43]))
    fields = dict(task=session.task, entity=session.entity, index=session.index, method=session.method)
    return dict(key=session.key, session=fields, status="complete", stages=stages, data=dict(listed=listed))


@pytest.fixture
def store(tmp_path):
    "Four sessions; each was told of half of the others."
    store, draw = Store(tmp_path), np.random.default_rng(0)
    write_json(store.metadata("emoji"), [dict(name=name, index=i) for i, name in enumerate(NAMES)])
    for index in range(4):
        session = Session("emoji", NAMES[index], index, "uce")
        write_json(store.record(session), record(session, [n for n in NAMES[::2] if n != NAMES[index]]))
        scores(draw).to_parquet(store.scores(session), index=False)
    return store


def sessions(): return [Session("emoji", NAMES[index], index, "uce") for index in range(4)]


def slowly(table, emitter):
    "Receivers in the order of harm, and the means of both sides, by data frames."
    means = table.groupby(["metric", "receiver"])[["off", "on", "value"]].mean()
    judged, finer = means.loc["judge_diff"].drop(emitter), means.loc["judge_prob_diff", "value"].drop(emitter)
    order = sorted(judged.index, key=lambda n: (judged.loc[n, "on"] - judged.loc[n, "off"], finer[n]))
    listed = table.groupby("receiver")["listed"].first()
    sides = {side: judged[[bool(listed[n]) == mark for n in judged.index]][["off", "on"]].mean().tolist()
             for side, mark in (("listed", True), ("unlisted", False))}
    return order, sides


def test_a_summary_says_what_the_table_of_every_seed_says(store):
    table = summary_table(store, sessions())
    for row, session in zip(table.itertuples(), sessions()):
        tidy = read_scores(store, session)
        order, sides = slowly(tidy, session.entity)
        assert row.most_harmed == order[:3] == rank_receivers(tidy, session.entity).index[:3].tolist()
        found = listed_sides(read_means(store, session), session.entity)
        for side, wanted in sides.items():
            np.testing.assert_allclose([found[side].before, found[side].after], wanted)
            of_row = [getattr(row, f"{side}_{when}") for when in ("before", "after")]
            np.testing.assert_allclose(of_row, wanted)
        wanted = tidy[tidy["metric"] == "judge_diff"].groupby("receiver")[["off", "on"]].mean()
        np.testing.assert_allclose(before_after(tidy).loc[wanted.index], wanted)
        clip = score_means(tidy).table("clip_diff", value="value")["value"]
        wanted = tidy[tidy["metric"] == "clip_diff"].groupby("receiver")["value"].mean()
        np.testing.assert_allclose(clip[wanted.index], wanted)
        slow, fast = (summarise(seen, record(session, [])) for seen in (tidy, read_means(store, session)))
        assert str(slow) == str(fast)  # as text, because no number is not equal to itself


class Opened:
    "How often files are opened for reading, by name."
    def __init__(self, monkeypatch):
        self.names, real = [], builtins.open
        def counted(file, mode="r", *given, **named):
            if isinstance(file, (str, Path)): self.names.append(Path(file).name)
            return real(file, mode, *given, **named)
        monkeypatch.setattr(builtins, "open", counted)
        monkeypatch.setattr(io, "open", counted)

    def __getitem__(self, name): return self.names.count(name)


def test_what_did_not_change_is_not_read_again(store, monkeypatch):
    monkeypatch.setattr(module, "is_settled", lambda signature: True)
    opened = Opened(monkeypatch)
    for _ in range(3):
        for session in sessions(): read_means(store, session)
    metadata = store.metadata("emoji").name
    assert (opened["scores.parquet"], opened["record.json"], opened[metadata]) == (4, 4, 1)
    changed = sessions()[1]
    scores(np.random.default_rng(1)).to_parquet(store.scores(changed), index=False)
    write_json(store.record(changed), record(changed, [NAMES[5]]))
    found = [read_means(store, session) for session in sessions()]
    assert (opened["scores.parquet"], opened["record.json"]) == (5, 5)
    assert [int((one.listed == 1).sum()) for one in found] == [5, 1, 5, 6]


def test_what_may_have_changed_without_a_trace_is_read_again(store, monkeypatch):
    monkeypatch.setattr(module, "is_settled", lambda signature: False)
    opened = Opened(monkeypatch)
    for _ in range(2): read_means(store, sessions()[0])
    assert (opened["scores.parquet"], opened["record.json"]) == (2, 2)
    second = 1_000_000_000
    assert not is_settled((1, 5*second, 5*second, 9), 6*second) and is_settled((1, 5, 5*second, 9), 6*second)


@pytest.mark.parametrize("change, said", [
    (lambda t: t.drop(columns="on"), "has no column 'on'"),
    (lambda t: t.assign(off="much"), "'off' holds"),
    (lambda t: t.assign(seed=t["seed"].astype(float)), "'seed' holds float"),
    (lambda t: t.assign(receiver=t["receiver"].where(t["seed"] != 42)), "'receiver' holds .* with gaps"),
    (lambda t: t.iloc[:0], "is empty"),
])
def test_a_table_of_another_shape_is_named(change, said, store):
    session = sessions()[0]
    change(scores(np.random.default_rng(0))).to_parquet(store.scores(session), index=False)
    for read in (read_scores, read_means):
        with pytest.raises(ForeignFileError, match=said): read(store, session)
