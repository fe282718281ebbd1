"""Pair and entity interference on real classes with random weights: what is written, when, and that it is all
there."""
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_metrics import clip  # noqa: F401  (a fixture)

from vision_unlearning.core import ForeignFileError, MissingSessionError
from vision_unlearning.interference.entity import InterferencePerEntity, entity_column, entity_metrics
from vision_unlearning.interference.generate import task_prompts
from vision_unlearning.interference.pair import pair_means, score_session
from vision_unlearning.interference.pair_metrics import PAIR_METRICS
from vision_unlearning.interference.tables import read_pair
from vision_unlearning.metrics.image_image import RMSE, SSIM
from vision_unlearning.metrics.image_text import ClipScore
from vision_unlearning.metrics.quality import BRISQUE
from vision_unlearning.models import Judge
from vision_unlearning.store import Session, Store, image_name, write_json

names, seeds = ["fox", "key", "red apple"], [42, 7]


def paint(folder, state, seed, prompt, rng):
    "A random texture, as one PNG of the contract."
    folder.mkdir(parents=True, exist_ok=True)
    tile = rng.integers(0, 256, (16, 16, 3)).repeat(4, 0).repeat(4, 1) + rng.integers(-20, 20, (64, 64, 3))
    Image.fromarray(tile.clip(0, 255).astype(np.uint8)).save(folder / image_name(state, seed, prompt))


@pytest.fixture(scope="module")
def judge():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Judge({"emoji": names, "object": ["cat", "dog"]}, widths=(8, 8, 16, 16)).eval()


@pytest.fixture
def world(tmp_path, judge, clip):  # noqa: F811
    store, session, rng = Store(tmp_path), Session("emoji", "fox", 0, "uce"), np.random.default_rng(0)
    write_json(store.metadata("emoji"), [{"name": n, "index": i} for i, n in enumerate(names)])
    for name in names:
        for seed in seeds:
            paint(store.baseline("emoji"), "off", seed, f"An image of {name}", rng)
            paint(store.generated(session), "on", seed, f"An image of {name}", rng)
    return store, session, dict(clip=clip, judge=judge)


def partial_files(store): return [p for p in store.base.rglob("*") if ".partial" in p.name]


def test_every_number_is_that_of_its_own_two_pictures(world):
    store, session, models = world
    frame = score_session(store, session, seeds, [m for m in PAIR_METRICS], batch_size=4, **models)
    assert list(frame.columns) == ["receiver", "seed", "metric", "off", "on", "value"]
    assert [tuple(r) for r in frame[["receiver", "seed", "metric"]].to_numpy()] == [
        (n, s, m) for n in names for s in seeds for m in PAIR_METRICS
    ]
    got = frame.set_index(["receiver", "seed", "metric"])
    for name in names:
        for seed in seeds:
            prompt = f"An image of {name}"
            off, on = (
                Image.open(f / image_name(s, seed, prompt))
                for f, s in ((store.baseline("emoji"), "off"), (store.generated(session), "on"))
            )
            one = lambda metric, *batch: (metric.update(*batch), float(metric.per_item()[0]))[1]
            for metric, column in ((ClipScore(models["clip"]), "clip_diff"), (BRISQUE(), "brisque_diff")):
                for state, picture in (("off", off), ("on", on)):
                    metric.reset()
                    assert got.loc[(name, seed, column), state] == pytest.approx(
                        one(metric, *([picture, [prompt]] if column == "clip_diff" else [picture])), abs=1e-3
                    )
            for metric, column in (
                (RMSE(), "rmse"),
                (SSIM(), "ssim"),
                (RMSE(legacy=True), "rmse_legacy"),
                (SSIM(legacy=True), "ssim_legacy"),
            ):
                assert got.loc[(name, seed, column), "value"] == pytest.approx(one(metric, on, off), abs=1e-9)
            p = [
                models["judge"].entity_probabilities(
                    torch.from_numpy(np.array(i)).permute(2, 0, 1)[None],
                    "emoji",
                    [{"name": n} for n in names],
                )[0]
                for i in (off, on)
            ]
            assert got.loc[(name, seed, "judge_prob_diff"), "value"] == pytest.approx(
                float(p[1][names.index(name)] - p[0][names.index(name)]), abs=1e-5
            )
            assert got.loc[(name, seed, "judge_diff"), "value"] == sum(
                s * float(int(q.argmax()) == names.index(name)) for s, q in zip((-1, 1), p)
            )
            if name != "key": assert -1 - 1e-6 <= got.loc[(name, seed, "dino_diff"), "value"] <= 1 + 1e-6
    difference = frame[frame.metric.isin([m.name for m in PAIR_METRICS.values() if m.is_difference])]
    assert np.allclose(difference.value, difference.on - difference.off)
    assert frame[frame.metric == "rmse"][["off", "on"]].isna().all(axis=None)


def test_cache_and_batches_change_nothing(world):
    store, session, models = world
    first = score_session(store, session, seeds, **models)
    cached = score_session(store, session, seeds, batch_size=1, **models)
    pd.testing.assert_frame_equal(first, cached, atol=1e-3, rtol=0)
    off = ["off"]
    assert first[off].equals(cached[off])  # read back, not computed again
    for scorer in ("clip", "brisque", "judge"): store.features("emoji", scorer).write_bytes(b"broken")
    pd.testing.assert_frame_equal(first, score_session(store, session, seeds, **models))
    assert not partial_files(store)


def test_another_off_picture_is_another_number(world):
    store, session, models = world
    before = score_session(store, session, seeds, ["brisque_diff"], **models)
    paint(store.baseline("emoji"), "off", 42, "An image of key", np.random.default_rng(9))
    after = score_session(store, session, seeds, ["brisque_diff"], **models)
    changed = before.off != after.off
    assert list(before[changed][["receiver", "seed"]].itertuples(index=False, name=None)) == [("key", 42)]


def test_an_interrupted_run_leaves_the_files_of_before(world):
    store, session, models = world

    class Interrupted(torch.nn.Module):
        "The real judge, until somebody presses the key."
        def __init__(self, judge, calls):
            super().__init__()
            self.judge, self.calls = judge, calls
        def entity_probabilities(self, *arguments):
            self.calls -= 1
            if self.calls < 0: raise KeyboardInterrupt
            return self.judge.entity_probabilities(*arguments)

    with pytest.raises(KeyboardInterrupt):
        score_session(
            store, session, seeds, clip=models["clip"], judge=Interrupted(models["judge"], 3), batch_size=2
        )
    assert (
        not store.scores(session).exists()
        and not store.pair("emoji", 0, "uce", 0).exists()
        and not partial_files(store)
    )
    score_session(store, session, seeds, **models)
    kept = store.scores(session).read_bytes(), store.pair("emoji", 0, "uce", 0).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        score_session(
            store, session, seeds, clip=models["clip"], judge=Interrupted(models["judge"], 3), batch_size=2
        )
    assert (
        store.scores(session).read_bytes(),
        store.pair("emoji", 0, "uce", 0).read_bytes(),
    ) == kept and not partial_files(store)


def test_json_is_the_mean_and_is_valid_json(world):
    store, session, models = world
    for seed in seeds:
        Image.new("RGB", (64, 64)).save(store.generated(session) / image_name("on", seed, "An image of key"))
    frame = score_session(store, session, seeds, **models)
    text = store.pair("emoji", 0, "uce", 0).read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(written) == names and list(written["fox"]) == [
        "clip_diff",
        "brisque_diff",
        "rmse",
        "ssim",
        "judge_diff",
        "judge_prob_diff",
    ]
    assert written["key"]["brisque_diff"] is None  # a black picture has no BRISQUE
    assert written["fox"]["rmse"] == pytest.approx(
        frame[(frame.receiver == "fox") & (frame.metric == "rmse")].value.mean()
    )
    back = read_pair(store.pair("emoji", 0, "uce", 0))
    assert (
        math.isnan(back["key"]["brisque_diff"])
        and back["fox"] == pair_means(pd.read_parquet(store.scores(session)))["fox"]
    )


def test_published_files_are_read(tmp_path):
    path = tmp_path / "interferences_caused_by_people_3_uce_0.json"
    path.write_text('{"A": {"clip_diff": NaN, "dino_diff": 0.5}, "B": {"clip_diff": -1, "dino_diff": 0.25}}')
    pairs = read_pair(path)
    assert math.isnan(pairs["A"]["clip_diff"]) and pairs["B"] == {"clip_diff": -1.0, "dino_diff": 0.25}
    for broken in ('{"A": [1]}', '[1]', '{"A": {"rmse": "3"}}'):
        path.write_text(broken)
        with pytest.raises(ForeignFileError, match="caused_by_people_3"): read_pair(path)


def test_missing_and_damaged_pictures_are_named(world):
    store, session, models = world
    path = store.generated(session) / image_name("on", 7, "An image of red apple")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ForeignFileError, match="on_07_An image of red apple.png"):
        score_session(store, session, seeds, **models)
    path.unlink()
    with pytest.raises(MissingSessionError, match="on_07_An image of red apple.png"):
        score_session(store, session, seeds, **models)
    assert not store.scores(session).exists() and not partial_files(store)


def test_a_template_with_a_style(tmp_path, judge, clip):  # noqa: F811
    store, session, rng = Store(tmp_path), Session("emoji_canvas", "cat", 0, "uce"), np.random.default_rng(0)
    entities = [{"name": n, "index": i} for i, n in enumerate(["cat", "dog"])]
    write_json(store.metadata("emoji_canvas"), entities)
    for prompt in task_prompts("emoji_canvas", entities, style="twemoji"):
        paint(store.baseline("emoji_canvas"), "off", 1, prompt, rng)
        shutil.copytree(store.baseline("emoji_canvas"), store.generated(session), dirs_exist_ok=True)
        (store.generated(session) / image_name("off", 1, prompt)).rename(
            store.generated(session) / image_name("on", 1, prompt)
        )
    frame = score_session(store, session, [1], clip=clip, judge=judge, style="twemoji")
    assert set(frame[frame.metric != "ssim"].value) == {0.0}


def test_published_columns():
    """The 51 names of a method in a published file, less the one that needs embeddings of its own, character
    for character."""
    arrows = {"clip_diff": "↑", "brisque_diff": "↓", "rmse": "↓", "ssim": "↑", "dino_diff": "↑"}
    wanted = {"metric_distil_400_forget_clip_diff (↓)", "metric_distil_400_retain_average_clip_diff (↑)"}
    for who in ("emitter", "receiver", "emitter_minus_receiver"):
        wanted.add(f"metric_distil_400_{who}_number_of_interfered_worse_than_zero_clip_diff (↓)")
        for m, arrow in arrows.items():
            worst = "↓" if who == "emitter_minus_receiver" and m in ("clip_diff", "ssim") else arrow
            wanted |= {
                f"metric_distil_400_{who}_worst_interfered_{m} ({worst})",
                f"metric_distil_400_{who}_average_{m} ({arrow})",
                f"metric_distil_400_{who}_number_of_interfered_worse_than_target_{m} (↓)",
            }
    ours = {entity_column("distil", 400, m) for m in entity_metrics(arrows)}
    assert len(wanted) == 50 and wanted <= ours
    assert (
        entity_column("distil", 400, "embedding_specificity_ratio")
        == "metric_distil_400_embedding_specificity_ratio (↑)"
    )


def test_entity_table_of_scored_sessions(world):
    store, session, models = world
    score_session(store, session, seeds, **models)
    table = InterferencePerEntity(task="emoji", base_folder=str(store.base)).compute()
    pairs = read_pair(store.pair("emoji", 0, "uce", 0))
    rmse = [pairs[n]["rmse"] for n in names]
    assert table[0]["metric_uce_0_emitter_average_rmse (↓)"] == pytest.approx(np.mean(rmse))
    assert table[0]["metric_uce_0_emitter_worst_interfered_rmse_without_self (↓)"] == max(rmse[1:])
    assert table[1]["metric_uce_0_receiver_average_rmse (↓)"] == rmse[1] and table[1]["sessions_uce_0"] == 1
    assert table[1]["metric_uce_0_emitter_average_rmse (↓)"] is None
    json.loads(
        store.per_entity("emoji").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
