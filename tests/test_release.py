"""Two sessions on the tiny pipeline, packed and unpacked."""
import pytest
import torch

from vision_unlearning.core import ForeignFileError
from vision_unlearning.explore.embeddings import embed_session, mean_embeddings
from vision_unlearning.interference.generate import generate_off, task_prompts
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.results.alignment import ResultTemplateMetricSimilarityAlignment
from vision_unlearning.running.release import pack_release, read_release, unpack_release
from vision_unlearning.running.session import (
    claim_baseline,
    generate_session,
    plan_sessions,
    score_images,
    unlearn_session,
)
from vision_unlearning.running.testbeds import prepare_task
from vision_unlearning.store import Store, read_entities, read_json

METRICS = ("clip_diff", "rmse", "ssim")
DRAWING = dict(num_inference_steps=2, guidance_scale=3.)


class Eye:
    "Sees the mean colour of a picture, and of a sentence its length."
    name = "mean colour"

    def encode_images(self, images): return images.float().mean((2, 3)) / 255

    def encode_texts(self, texts):
        return torch.nn.functional.one_hot(torch.tensor([len(t) % 3 for t in texts]), 3).float()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A store with two complete sessions."
    store, pipe = Store(tmp_path_factory.mktemp("here")), tiny_pipeline()
    prepare_task(store, "emoji")
    claim_baseline(store, "emoji", "tiny")
    with pytest.raises(FileNotFoundError, match="vu batch --task emoji"):
        pack_release(store, "emoji", store.base / "x")
    prompts = task_prompts("emoji", read_entities(store, "emoji"))
    generate_off(pipe, store, "emoji", prompts, [42], "tiny", **DRAWING)
    for session in plan_sessions(store, "emoji", "uce", ["fox", "violin"], "tiny"):
        unlearn_session(store, session, pipe, "tiny")
        generate_session(store, session, pipe, [42], **DRAWING)
        score_images(store, session, [42], Eye(), metrics=list(METRICS))
        embed_session(store, "emoji", session, Eye())
    embed_session(store, "emoji", None, Eye())
    return store


@pytest.fixture(scope="module")
def files(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    pack_release(store, "emoji", folder)
    return folder


@pytest.fixture(scope="module")
def copy(files, tmp_path_factory):
    "(the store that was unpacked into, its sessions)"
    copy = Store(tmp_path_factory.mktemp("there"))
    return copy, unpack_release(files, copy)


@pytest.mark.long
def test_tables_say_the_same_up_to_32_bits(store, copy):
    there, sessions = copy
    assert [s.entity for s in sessions] == ["fox", "violin"]
    for session in sessions:
        a, b = (read_json(s.pair("emoji", session.index, "uce", 0)) for s in (store, there))
        assert list(a) == list(b)
        for metric in METRICS:
            before, after = ([row[metric] for row in rows.values()] for rows in (a, b))
            assert before == pytest.approx(after, abs=1e-3)


def test_embeddings_travel(store, copy):
    there, sessions = copy
    for session in sessions:
        a, b = (
            mean_embeddings(s.embeddings("emoji", session), read_entities(s, "emoji"))[0]
            for s in (store, there)
        )
        assert a == pytest.approx(b, abs=1e-3)


def test_a_template_answers_the_same(store, copy):
    ask = dict(
        task="emoji",
        model="tiny",
        unlearning_algorithm="uce",
        interference_pair="rmse",
        similarity_metric="attr",
        n_permutations=99,
    )
    here, there = (
        ResultTemplateMetricSimilarityAlignment(**ask, base_folder=str(s.base)).compute()["result"]
        for s in (store, copy[0])
    )
    assert here["mantel_statistic"] == pytest.approx(there["mantel_statistic"], abs=1e-5)


def test_a_second_release_in_the_same_folder_is_refused(files, copy):
    with pytest.raises(ValueError, match="another base_folder"): unpack_release(files, copy[0])


def test_a_damaged_release_is_refused(store, tmp_path):
    pack_release(store, "emoji", tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(ForeignFileError, match="not a readable release"): read_release(tmp_path)
    (tmp_path / "scores.parquet").unlink()
    with pytest.raises((ForeignFileError, FileNotFoundError), match=r"has no scores\.parquet"):
        read_release(tmp_path)
