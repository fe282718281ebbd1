"""What memory does not hold is made in halves, or refused in one line that says what helps."""
import numpy as np
import pytest
import torch

from vision_unlearning import memory
from vision_unlearning.explore.attention import attention_fingerprints
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.memory import FITTED
from vision_unlearning.metrics.base import Metric
from vision_unlearning.models import load_judge, tiny_clip, tiny_pipeline
from vision_unlearning.running.cli import error_line, main

PROMPTS = [f"An image of {name}" for name in ("fox", "crab", "key", "bell", "rose")]


@pytest.fixture(autouse=True)
def forgotten():
    "Nothing is remembered from another test."
    FITTED.clear()
    yield
    FITTED.clear()


def narrow(module, rows, seen):
    "A network that memory holds for so many rows; `seen` gets how many it was asked for."
    def refuse(_, args, kwargs):
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.ndim > 1]
        seen.append(len(given[0]))
        if len(given[0]) > rows: raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return module.register_forward_pre_hook(refuse, with_kwargs=True)


def test_pictures_are_drawn_in_halves_and_the_size_is_remembered(capsys):
    pipe, how = tiny_pipeline(), dict(num_inference_steps=1, batch_size=5)
    whole = generate_array(pipe, [1]*5, PROMPTS, **how)
    seen = []
    narrow(pipe.unet, 4, seen)  # two pictures, each with and without its prompt
    for _ in range(2): found = generate_array(pipe, [1]*5, PROMPTS, **how)
    assert np.abs(found.astype(int) - whole).max() <= 1
    assert max(seen[1:]) == 4 and seen.count(10) == 1
    assert capsys.readouterr().err == "drawing: memory holds 2 at once, not 5\n"


def test_one_that_does_not_fit_alone_is_one_line():
    pipe = tiny_pipeline()
    narrow(pipe.unet, 0, [])
    with pytest.raises(ValueError, match="drawing: memory does not hold even one") as found:
        generate_array(pipe, [1], PROMPTS[:1], num_inference_steps=1)
    assert "\n" not in str(found.value) and "dtype" in str(found.value) and not FITTED


def test_who_looks_at_pictures_halves_too(capsys):
    pictures = torch.randint(
        0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.random.fork_rng(): judge = load_judge()  # its first weights are thrown away
    clip, pipe = tiny_clip(), tiny_pipeline()
    head = next(iter(judge.classes))
    looks = {
        "judging": (judge.trunk, lambda: judge.probabilities(pictures)[head]),
        "looking with CLIP": (clip.model.vision_model, lambda: clip.encode_images(pictures)),
        "reading with CLIP": (clip.model.text_model, lambda: clip.encode_texts(PROMPTS)),
        "watching attention": (
            pipe.unet, lambda: torch.tensor(attention_fingerprints(pipe, PROMPTS, [1], num_inference_steps=1))
        ),
    }
    for what, (network, look) in looks.items():
        whole = look()
        hook = narrow(network, 4, [])
        assert torch.allclose(look(), whole, atol=1e-4)
        hook.remove()
        assert FITTED.pop(what) == 2 and f"{what}: memory holds 2 at once" in capsys.readouterr().err


def test_scores_of_pictures_halve_too():
    class Narrow(Metric):
        name = "narrow"
        def score(self, images):
            if len(images) > 2: raise torch.OutOfMemoryError("CUDA out of memory")
            return images.float().mean((1, 2, 3))
    metric = Narrow()
    metric.update(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 8, 8))
    assert metric.per_item().tolist() == [0, 1, 2, 3, 4] and FITTED == {"narrow": 2}


def test_a_batch_of_a_training_stays_what_it_is(monkeypatch, capsys):
    "It would change numbers; the line says what helps."
    def status(*_): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    monkeypatch.setattr("vision_unlearning.running.batch.batch_status", status)
    with pytest.raises(SystemExit) as stop: main(["status"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "train_batch_size" in said and said.count("\n") == 1
    assert memory.MEMORY_FULL in error_line(MemoryError("no more"))


def test_other_errors_are_not_halved():
    def broken(part): raise RuntimeError("expected all tensors to be on the same device")
    with pytest.raises(RuntimeError, match="same device"): list(memory.in_batches(4, 2, "x", broken))
