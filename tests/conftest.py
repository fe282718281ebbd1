"""What every test runs under: no network, no display, and nobody's global state moved."""
import os
import sys
import tempfile

# Set before any library reads them. A GPU is used only where it is asked for by name: the numbers are those
# of a CPU.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    MPLBACKEND="Agg",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# An empty cache, so that a test passes for what is in the repository and not for what its machine once
# downloaded.
_hf_home = tempfile.TemporaryDirectory(prefix="vu-hf-")
os.environ["HF_HOME"] = _hf_home.name

import pytest


def global_state() -> dict:
    "Torch's global switches and random state; as torch is imported, while it is not."
    torch = sys.modules.get("torch")
    if torch is None:
        return {"grad mode": True, "default dtype": "torch.float32", "deterministic mode": False, "rng": None}
    return {"grad mode": torch.is_grad_enabled(), "default dtype": str(torch.get_default_dtype()),
            "deterministic mode": torch.are_deterministic_algorithms_enabled(), "rng": torch.get_rng_state()}


@pytest.fixture(autouse=True)
def borrowed_state(request):
    "Randomness is an argument and the caller's state is borrowed: a test that finds them changed fails."
    before = global_state()
    yield
    if "matplotlib.pyplot" in sys.modules: sys.modules["matplotlib.pyplot"].close("all")
    torch, after = sys.modules.get("torch"), global_state()
    if torch is None: return
    moved = before["rng"] is not None and not torch.equal(before["rng"], after["rng"])
    changed = [name for name in before if name != "rng" and before[name] != after[name]]
    # Put back, so that the next test does not depend on this one.
    torch.set_grad_enabled(before["grad mode"])
    torch.set_default_dtype(getattr(torch, before["default dtype"].removeprefix("torch.")))
    torch.use_deterministic_algorithms(before["deterministic mode"])
    if before["rng"] is not None: torch.set_rng_state(before["rng"])
    assert not changed, f"changed and not put back: {', '.join(changed)}"
    if request.node.get_closest_marker("global_rng"): return
    assert not moved, (
        "torch's global random state moved: pass a `generator`, build networks under "
        "`torch.random.fork_rng()`, "
        "or mark the test `global_rng` if it is the test itself that draws"
    )
