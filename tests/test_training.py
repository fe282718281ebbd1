"""Trainings that are interrupted, computed again, in half precision, or shared among processes: the same
edits."""
import os

import pytest
import torch
from small import small_pipeline

from vision_unlearning.unlearners.callbacks import Callback

# Left out of `make quick`.
pytestmark = pytest.mark.long

FAST = dict(train_batch_size=3, retain_batch_size=4)
WALK = dict(num_inference_steps=3, rollout_batch_size=2, num_train_steps=4)
METHODS = {  # (method, settings), pictures or words, retained words
    "fade": ("distil", dict(num_train_epochs=4, gradient_accumulation_steps=2, **FAST)),
    "fade_module": ("distil_module", dict(num_train_epochs=2, **FAST)),
    "fade_ranks": ("distil_weight", dict(num_train_epochs=2, search_space=(2, 4, 8), **FAST)),
    "salun": (
        "salun",
        dict(num_train_epochs=2, weight_decay=0.1, mask_fraction=0.3, learning_rate=1e-3, **FAST),
    ),
    "munba": ("munba", dict(num_train_epochs=2, **FAST)),
    "munba_weights": ("munba", dict(num_train_epochs=2, trainable="cross_attention", **FAST)),
    "lora_negation": ("lora_negation", dict(num_train_epochs=2, **FAST)),
    "erasediff": ("erasediff", dict(num_train_epochs=2, inner_steps=2, **FAST)),
    "concept_ablation": ("concept_ablation", dict(num_train_steps=4, train_batch_size=3)),
    "esd": ("esd", dict(retain_weight=1.0, **WALK)),
    "esd_edited": ("esd", dict(sampler="edited", learning_rate=1e-3, **WALK)),
    "spm": ("spm", dict(anchor_batch_size=2, **WALK)),
    "erase_anything": ("erase_anything", dict(train_batch_size=2, retain_batch_size=2, **WALK)),
}


class Die(Callback):
    order = 2  # after the checkpoint of the step
    def __init__(self, step): self.step = step
    def after_step(self, state):
        if state.step == self.step: raise KeyboardInterrupt


@pytest.fixture(scope="module")
def world():
    from vision_unlearning.data.splits import make_split
    forget, retain = make_split("emoji", "fox", per_entity=1)
    return small_pipeline(), forget.select(range(6)), retain.select(range(9))


def train(world, case, callbacks=(), **settings):
    from vision_unlearning.unlearners.base import get_method
    pipe, forget, retain = world
    name, fixed = METHODS[case]
    words = name in ("esd", "spm")
    return get_method(name)(**fixed, **settings).unlearn(
        pipe,
        "fox" if words else forget,
        ["wolf", "key", "crab"] if words else retain,
        generator=torch.Generator().manual_seed(3),
        callbacks=callbacks,
    )


@pytest.mark.parametrize("case", METHODS)
def test_an_interrupted_training_gives_the_same_bits(world, case, tmp_path):
    "Killed after three steps with a checkpoint after two, so that one step is made again."
    from vision_unlearning.unlearners.callbacks import LossLog
    from vision_unlearning.unlearners.checkpoint import Checkpoint
    logs = [LossLog(), LossLog()]
    whole = train(world, case, [logs[0]])
    with pytest.raises(KeyboardInterrupt): train(world, case, [Checkpoint(tmp_path, every=2), Die(3)])
    steps = []
    class Steps(Callback):
        def after_step(self, state): steps.append(state.step)
    again = train(world, case, [Checkpoint(tmp_path, every=2), logs[1], Steps()])
    assert steps[0] == 3 and steps[-1] == len(logs[0].history) > 3
    assert set(whole.tensors) == set(again.tensors) and all(
        torch.equal(whole.tensors[k], again.tensors[k]) for k in whole.tensors
    )
    assert whole.info == again.info and logs[1].history == logs[0].history[2:]
    assert any(bool(t.abs().sum() > 0) for t in whole.tensors.values())


def test_the_checkpoint_of_another_run_is_refused(world, tmp_path):
    from vision_unlearning.core import ForeignFileError
    from vision_unlearning.unlearners.checkpoint import Checkpoint
    train(world, "munba", [Checkpoint(tmp_path)])
    before = {k: v.clone() for k, v in world[0].unet.state_dict().items()}
    for settings, said in (
        (dict(forget_weight=2.0), "setting forget_weight is 1.0 there and 2.0 here"),
        (dict(rank=2), "setting rank is 8 there and 2 here"),
        (dict(max_grad_norm=0.5), "max_grad_norm"),
        (dict(mixed_precision="bf16"), "mixed_precision"),
    ):
        with pytest.raises(ForeignFileError, match=said):
            train(world, "munba", [Checkpoint(tmp_path)], **settings)
    pipe, forget, retain = world
    with pytest.raises(ForeignFileError, match="first loss 'forget'"):
        train((pipe, retain.select([0]*len(forget)), retain), "munba", [Checkpoint(tmp_path)])
    after = pipe.unet.state_dict()
    assert set(before) == set(after) and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("case", METHODS)
def test_computing_again_changes_no_gradient(world, case):
    from vision_unlearning.unlearners.callbacks import SingleBatch
    found = []
    class Look(Callback):
        def after_backward(self, state):
            found.append(
                (
                    torch.cat([p.grad.flatten().clone() for p in state.parameters]),
                    world[0].unet.is_gradient_checkpointing,
                )
            )
    if case == "fade_ranks":
        with pytest.raises(ValueError, match="gradient_checkpointing"):
            train(world, case, gradient_checkpointing=True)
        return
    for on in (False, True): train(world, case, [Look(), SingleBatch()], gradient_checkpointing=on)
    (plain, off), (again, on) = found
    assert (off, on, world[0].unet.is_gradient_checkpointing) == (False, True, False) and float(
        plain.norm()
    ) > 0
    assert float((again - plain).norm()/plain.norm()) < 1e-5


@pytest.mark.parametrize("case", METHODS)
def test_half_precision_keeps_losses_and_weights_in_float32(world, case):
    from vision_unlearning.unlearners.callbacks import SingleBatch
    seen = []
    class Look(Callback):
        def after_backward(self, state):
            seen.append(
                (
                    dict(state.losses),
                    {p.dtype for p in state.parameters},
                    {p.grad.dtype for p in state.parameters},
                    state.gradient_norm,
                    float(sum(p.grad.square().sum() for p in state.parameters)) ** 0.5,
                )
            )
    for precision in ("no", "bf16"):
        edit = train(world, case, [Look(), SingleBatch()], mixed_precision=precision)
    plain, half = seen
    assert half[1] == half[2] == {torch.float32} and {t.dtype for t in edit.tensors.values()} == {
        torch.float32
    }
    assert half[0] != plain[0] and edit.info["settings"]["mixed_precision"] == "bf16"
    for name, value in plain[0].items(): assert half[0][name] == pytest.approx(value, rel=.1, abs=1e-4), name
    # Where the tiny pipeline hardly tells two texts apart, the loss is smaller than the rounding of 16 bits.
    if sum(plain[0].values()) > 1e-2: assert half[4] == pytest.approx(plain[4], rel=.2)


# Several processes

DATA = torch.linspace(-1, 1, 8).view(4, 2)


def share(rank, world_size, port, folder):
    "One of several processes: gradients, weights and losses of the tiny problem, also after an interruption."
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    from accelerate import PartialState
    from safetensors.torch import save_file

    from vision_unlearning.unlearners.checkpoint import Checkpoint
    from vision_unlearning.unlearners.distributed import Distributed
    # a fork of the process of the tests, where somebody may have asked for one already
    PartialState._reset_state()
    state = PartialState(cpu=True)
    assert state.num_processes == world_size
    part = DATA.chunk(world_size)[rank]
    found = {}
    for name, combine in (("sum", None), ("rows", lambda g: g[0]*g[1].norm() + g[1]*g[0].norm())):
        whole = problem(part, rank, combine, [Distributed(state)])
        try:
            problem(
                part, rank, combine, [Distributed(state), Checkpoint(f"{folder}/{name}", every=2), Die(3)]
            )
        except KeyboardInterrupt: pass
        again = problem(part, rank, combine, [Distributed(state), Checkpoint(f"{folder}/{name}", every=2)])
        found |= {f"{name}.{n}": t for n, t in whole.items()} | {f"{name}.again": again["weight"]}
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    found["draw"] = problem(part, rank, None, [Distributed(state)], generators[0], noise=True)["draw"]
    save_file(found, f"{folder}/{world_size}-{rank}.safetensors")
    state.destroy_process_group()


def problem(part, rank, combine, callbacks, generator=None, noise=False):
    """Two losses whose means over all pictures are known; `rank` spoils the start, which the weights of
    process 0 repair."""
    from vision_unlearning.unlearners.loop import fit

    weight = torch.full((2,), float(rank), requires_grad=True)
    generator = generator or torch.Generator().manual_seed(0)
    gradients = []
    losses = []
    draws = []
    class Look(Callback):
        def after_backward(self, state):
            gradients.append(weight.grad.clone())
            losses.append(torch.tensor(list(state.losses.values())))
    def compute(step, micro):
        if noise: draws.append(torch.rand(1, generator=generator))
        return {"near": (weight - part).square().mean(), "far": (weight*part - 2).pow(4).mean()}

    fit(
        [weight],
        compute,
        num_steps=5,
        learning_rate=0.1,
        weight_decay=0.0,
        combine=combine,
        callbacks=[*callbacks, Look()],
        generator=generator,
    )
    return {
        "weight": weight.detach().clone(),
        "gradients": torch.stack(gradients or [torch.zeros(2)]),
        "losses": torch.stack(losses or [torch.zeros(2)]),
        **({"draw": torch.cat(draws)} if noise else {}),
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="both processes are forks")
def test_two_processes_train_as_one(tmp_path):
    import socket

    import torch.multiprocessing as mp
    from safetensors.torch import load_file
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(share, (2, port, str(tmp_path)), nprocs=2, start_method="fork")
    both = [load_file(tmp_path / f"2-{rank}.safetensors") for rank in range(2)]
    for name, combine in (("sum", None), ("rows", lambda g: g[0]*g[1].norm() + g[1]*g[0].norm())):
        alone = problem(DATA, 0, combine, [])
        assert all(
            torch.equal(both[0][f"{name}.{n}"], both[1][f"{name}.{n}"])
            for n in ("weight", "gradients", "losses", "again")
        )
        for n in ("weight", "gradients", "losses"):
            torch.testing.assert_close(both[0][f"{name}.{n}"], alone[n], rtol=1e-5, atol=1e-6)
        assert torch.equal(both[0][f"{name}.again"], both[0][f"{name}.weight"])
    assert not bool((both[0]["draw"] == both[1]["draw"]).any()), "each process draws its own pictures"
