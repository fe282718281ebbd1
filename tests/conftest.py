"""What every test runs under: no network, no display, and nobody's global state moved."""
import functools
import gc
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

# Set before any library reads them. A GPU is used only where it is asked for by name: the numbers are those
# of a CPU.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    MPLBACKEND="Agg",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    # Threads that wait do not spin: other processes may need the core.
    OMP_WAIT_POLICY="PASSIVE",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# An empty cache, so that a test passes for what is in the repository and not for what its machine once
# downloaded.
_hf_home = tempfile.TemporaryDirectory(prefix="vu-hf-")
os.environ["HF_HOME"] = _hf_home.name

# jsonschema, which reads notebooks, would compile forty grammars that no notebook's schema asks for.
sys.modules.setdefault("rfc3987_syntax", None)

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("claims about chance")
    group.addoption("--claims", type=int, default=0, metavar="N", help="run lessons' claims with N seeds (6)")
    group.addoption("--claims-threads", choices=["alternate", "both"], default="alternate",
                    help="one thread for even seeds and two for odd ones, or both for each")
    group.addoption("--claims-record", type=Path, metavar="FILE",
                    help="and keep the results in this file, after every run; what it has is not run again")
    parser.addoption("--fuzz", type=int, default=0, metavar="N", help="try N bad inputs instead of a few")
    parser.addoption("--fuzz-seed", type=int, default=0, metavar="N", help="and which ones")
    parser.addoption("--keep-seconds", action="store_true", help="note how long notebooks take")
    parser.addoption("--kills", action="store_true", help="kill writers at every event and not at a few")
    parser.addoption("--combinations", action="store_true", help="try every setting beside every switch")
    parser.addoption("--in-place", action="store_true",
                     help="run notebooks where they lie, in a copy of the tree, and those that write twice")
    parser.addoption("--quick", action="store_true", help="one notebook a band, and no test marked `long`")


def seconds(item) -> float:
    "What a test marked `long` says that it takes; 0 where nothing is said."
    mark = item.get_closest_marker("long")
    return mark.args[0] if mark and mark.args else 0


def pytest_collection_modifyitems(config, items):
    """The longest first. Two workers begin at the two halves of the list and take from each other's ends, so
    the long ones are dealt to both beginnings, and nobody waits at the end for one that was begun last."""
    marks = ["long", "more_notebooks"] if config.getoption("--quick") else []
    if not config.getoption("--combinations"): marks.append("combinations")
    left_out = {i for i in items if any(map(i.get_closest_marker, marks))}
    if left_out: config.hook.pytest_deselected(items=list(left_out))
    items[:] = [i for i in items if i not in left_out]
    long = sorted((i for i in items if seconds(i)), key=seconds, reverse=True)
    rest = [i for i in items if not seconds(i)]
    first, second = long[::2], long[1::2]
    middle = len(items) // 2 - len(first)
    items[:] = [*first, *rest[:middle], *second, *rest[middle:]]


def pytest_collection_finish():
    "All modules are imported by now; the garbage collector need not look through them again and again."
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path, config):
    "Claims run alone, and only when asked for; notebooks in place when asked for."
    if collection_path.suffix != ".py": return None
    if collection_path.name == "test_in_place.py" and not config.getoption("--in-place"): return True
    return True if (collection_path.name == "test_claims.py") != bool(config.getoption("--claims")) else None


def pytest_configure(config):
    "With --claims-record: what a run found is kept at once, and an interrupted command goes on where it was."
    path = config.getoption("--claims-record")
    # A worker of xdist reports to the process that began it.
    if hasattr(config, "workerinput"): return
    if path: config.pluginmanager.register(Record(config, path.absolute()))
    if config.getoption("--keep-seconds"): config.pluginmanager.register(Seconds())


class Seconds:
    "Seconds of the notebooks that ran, whole ones, in the file that says which of them begin first."
    def __init__(self): self.found = {}

    def pytest_runtest_logreport(self, report):
        file, _, test = report.nodeid.partition("::test_notebook[")
        if report.when == "call" and report.passed and file.endswith("test_notebooks.py"):
            self.found[test.removesuffix("]")] = round(report.duration)

    def pytest_sessionfinish(self):
        from test_notebooks import SECONDS, notebooks, seconds
        known = {name: taken for name, taken in (seconds | self.found).items() if name in notebooks and taken}
        longest_first = dict(sorted(known.items(), key=lambda one: (-one[1], one[0])))
        SECONDS.write_text(json.dumps(longest_first, indent=1) + "\n")


class Record:
    def __init__(self, config, path):
        self.path = path
        self.command = " ".join(f"--{o} {config.getoption('--' + o)}" for o in ("claims", "claims-threads"))

    def pytest_runtest_logreport(self, report):
        from chance import write_record
        rows = [value for name, value in report.user_properties if name == "chance"]
        if report.when == "call" and rows: write_record(self.path, rows, self.command)


def reported(terminalreporter, wanted):
    "What tests said of themselves under a name."
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    return [value for r in reports for name, value in r.user_properties if name == wanted]


def pytest_terminal_summary(terminalreporter, config):
    "With --claims: what each claim found; with --fuzz: how many inputs of each kind ended wrong."
    if config.getoption("--fuzz"): fuzz_summary(terminalreporter, reported(terminalreporter, "fuzz"))
    if not config.getoption("--claims"): return
    from chance import table
    rows = reported(terminalreporter, "chance")
    terminalreporter.section("claims about chance")
    for line in table(rows): terminalreporter.line(line)


def fuzz_summary(terminalreporter, counts):
    "The counts of every kind and their sums."
    terminalreporter.section("bad inputs")
    for c in counts:
        line = f"{c['kind']:10} seed {c['seed']}: {c['inputs']:5} inputs, {c['wrong']} wrong"
        terminalreporter.line(line)
    inputs, wrong = (sum(c[name] for c in counts) for name in ("inputs", "wrong"))
    terminalreporter.line(f"together: {inputs} inputs, {wrong} wrong")


def global_state() -> dict:
    "Torch's global switches and random state; as torch is imported, while it is not."
    torch = sys.modules.get("torch")
    if torch is None:
        return {"grad mode": True, "default dtype": "torch.float32", "deterministic mode": False, "rng": None}
    return {"grad mode": torch.is_grad_enabled(), "default dtype": str(torch.get_default_dtype()),
            "deterministic mode": torch.are_deterministic_algorithms_enabled(), "rng": torch.get_rng_state()}


def lent() -> dict:
    "What a test may change for itself, if it puts it back: name -> (value, how to put it back)."
    papermill, torch = sys.modules.get("papermill"), sys.modules.get("torch")
    found = {"working folder": (os.getcwd(), os.chdir)}
    if papermill is not None:
        put_back = functools.partial(setattr, papermill, "execute_notebook")
        found["papermill's execute_notebook"] = (papermill.execute_notebook, put_back)
    if torch is not None: found["torch's threads"] = (torch.get_num_threads(), torch.set_num_threads)
    return found


@pytest.fixture(autouse=True)
def lent_state():
    "The next test does not depend on what this one changed in the process, and the one that did fails."
    before = lent()
    yield
    after = lent()
    changed = [name for name, (value, _) in before.items() if after[name][0] != value]
    for name in changed:
        value, put_back = before[name]
        put_back(value)
    assert not changed, f"changed and not put back: {', '.join(changed)}"


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


@pytest.fixture
def hub(monkeypatch):
    """A hub with one public and one private repository; huggingface_hub may speak, with this one only, and
    waits without sleeping."""
    constants = pytest.importorskip("huggingface_hub").constants
    import huggingface_hub.file_download
    import huggingface_hub.utils._http
    from fake_hub import LARGE, SMALL, FakeHub

    from vision_unlearning import hub as library
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(library, "WAIT", .001)
    for module in (huggingface_hub.file_download, huggingface_hub.utils._http):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None, time=lambda: 0.))
    # nobody is there: whoever forgets the argument fails
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with FakeHub() as found:
        found.add(
            "me/world",
            {
                "config/a.json": SMALL,
                "config/deep/b.bin": LARGE,
                "other/c.json": "{}",
                "top.json": "{}",
                **{f"config/n{i}.txt": f"n{i}" for i in range(7)},
            },
        )
        found.add("me/secret", {"config/a.json": SMALL}, private=True)
        yield found
    logging.getLogger("huggingface_hub").setLevel(logging.WARNING)
