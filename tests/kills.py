"""Runs that are killed: at every event of the file system, in the middle of a write, at a random moment.

Everything is imported once and each run is a fork of this process, so a kill costs what the run itself costs.
`test_kills.py` makes a few; `python tests/kills.py --kills 100` makes many of a whole batch and says what it
found.
"""
import argparse
import contextlib
import functools
import hashlib
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

from vision_unlearning import files
from vision_unlearning.files import LEFTOVERS, clear_leftovers

# What Python says before it does it; `open` counts where it may write.
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Kill:
    "When a run is to be killed, or gets another signal."
    def __init__(self, event=None, size=None, seconds=None, number=signal.SIGKILL, about=""):
        self.number = number  # of the signal, at an event
        self.about = about  # text in a path: other events below the folder do not count
        self.event = event  # before this event below the folder, counted from 1
        self.size = size  # in the middle of the first write beyond so many bytes
        self.seconds = seconds  # after this time

    def arm(self, folder, counter):
        "In the child: count the events below a folder, and be killed when it is time."
        def happened():
            number = int.from_bytes(counter[:8], "little") + 1
            counter[:8] = number.to_bytes(8, "little")
            if number == self.event: os.kill(os.getpid(), self.number)

        def hook(name, arguments):
            if name not in EVENTS or name == "open" and not (arguments[2] or 0) & WRITES: return
            paths = [str(a) for a in arguments[:2] if isinstance(a, (str, Path))]  # two of a rename
            if any(path.startswith(str(folder)) and self.about in path for path in paths): happened()

        def counted(real):
            def call(*arguments):
                happened()
                return real(*arguments)
            return call

        sys.addaudithook(hook)
        # what Python does not say
        if not self.about: os.fsync, files.exchange = counted(os.fsync), counted(files.exchange)
        if self.size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))
        if self.seconds is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)


class Run:
    "A fork that works on a folder."
    def __init__(self, work, folder, kill=None):
        self.counter = mmap.mmap(-1, 8)
        self.log = tempfile.TemporaryFile()
        self.began = time.monotonic()
        sys.stdout.flush()
        self.process = os.fork()
        if self.process: return
        code = 1
        try:
            # OpenMP does not outlive a fork
            if "torch" in sys.modules: sys.modules["torch"].set_num_threads(1)
            for stream in (1, 2): os.dup2(self.log.fileno(), stream)
            (kill or Kill()).arm(folder, self.counter)
            work(folder)
            code = 0
        except BaseException: os.write(2, traceback.format_exc().encode())
        finally: os._exit(code)

    def is_stopped(self) -> bool:
        "Wait until it is stopped or has ended; whether it is stopped."
        how = os.waitid(os.P_PID, self.process, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return how.si_code == os.CLD_STOPPED

    def go_on(self): os.kill(self.process, signal.SIGCONT)

    def end(self) -> bool:
        "Wait; whether it came to its end, and not to a kill. One that failed by itself is an error."
        _, status = os.waitpid(self.process, 0)
        self.events = int.from_bytes(self.counter[:8], "little")
        self.seconds = time.monotonic() - self.began
        self.log.seek(0)
        said = self.log.read().decode(errors="replace")[-3000:]
        self.log.close()
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, said
        return os.WIFEXITED(status)


# What a folder holds, up to times

# Of a record; `images` counts those of the last run.
PASSING = ("created", "seconds", "peak_memory", "images")


def without_times(value):
    "A JSON value without what differs between two runs."
    if isinstance(value, dict): return {k: without_times(v) for k, v in value.items() if k not in PASSING}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def content(path: Path):
    "What a file says; whoever cannot be read is an error."
    if path.suffix == ".ipynb": return sorted(json.loads(path.read_text())["metadata"]["vision_unlearning"])
    if path.suffix == ".json": return without_times(json.loads(path.read_text()))
    if path.suffix == ".html": return re.sub(r"<td>\d+\.\d</td>", "", path.read_text())
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file
        return {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in sorted(load_file(path).items())}
    if path.suffix in (".parquet", ".csv"):
        import pandas as pd
        frame = (pd.read_parquet if path.suffix == ".parquet" else pd.read_csv)(path)
        return frame.drop(columns=[c for c in frame if c == "seconds"]).to_json()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hidden(path: Path) -> bool:
    "Whether a path is of something unfinished, which no reader looks at."
    return any(part.startswith(LEFTOVERS) for part in path.parts) or path.suffix in (".part", ".tag")


def held(folder) -> dict:
    "Path -> content of everything under a real name."
    paths = [p.relative_to(folder) for p in Path(folder).rglob("*") if p.is_file()]
    return {str(p): content(folder / p) for p in sorted(paths) if not hidden(p)}


def left(folder) -> list[str]:
    "What is unfinished."
    return [str(p.relative_to(folder)) for p in Path(folder).rglob("*") if hidden(p.relative_to(folder))]


# A batch

@contextlib.contextmanager
def in_this_process():
    """Papermill runs notebooks here and not in a kernel, which would have to import everything again.
    Afterwards it runs them in kernels, as before."""
    import papermill
    from papermill.engines import Engine, papermill_engines

    class Here(Engine):
        @classmethod
        def execute_managed_notebook(cls, manager, kernel_name, **options):
            names = {"__name__": "__main__", "display": print}
            postponed = __import__("__future__").annotations.compiler_flag
            for number, cell in enumerate(manager.nb.cells):
                manager.cell_start(cell, number)
                if cell.cell_type == "code":
                    exec(compile(cell.source, f"<cell {number}>", "exec", postponed), names)
                manager.cell_complete(cell, number)

    papermill_engines.register("here", Here)
    execute = functools.partial(papermill.execute_notebook, engine_name="here")
    with mock.patch.object(papermill, "execute_notebook", execute): yield


def batch(folder, methods=("distil",), entities=1, **options):
    "A whole batch of people: stand-ins, and the tiny model or the one that `options` name."
    from vision_unlearning.running.smoke import run_smoke
    with in_this_process(): run_smoke("people", list(methods), folder, entities, progress=False, **options)


# Options of a batch with the model of the package. Pictures are drawn one by one: those of another batch
# size agree to one grey level only, and a run that goes on has fewer left to draw.
EMBEDDED = dict(methods=("uce",), model="emoji-sd", clip="emoji-clip", batch_size=1)


def imported():
    "Import what a batch imports, and load what it keeps, before the first fork."
    import torch
    torch.set_num_threads(1)
    with in_this_process(): pass
    from vision_unlearning.interference import pair  # noqa: F401
    from vision_unlearning.results import asking  # noqa: F401
    from vision_unlearning.running import answers, report, smoke  # noqa: F401
    from vision_unlearning.unlearners.diffusion import fade  # noqa: F401


def killed_batch(work, folder, kills, draw, seconds):
    """One store through so many kills, half of them before an event and half at a moment, and then to the
    end; how many of the kills found the run at work."""
    found, events = 0, 40
    for number in range(kills):
        moment = seconds * draw.random() ** 3  # mostly early, so that a store lives through many
        kill = Kill(event=draw.randint(1, events)) if number % 2 else Kill(seconds=max(.05, moment))
        run = Run(work, folder, kill)
        if run.end(): break
        found += 1
        events = max(20, min(events * 2, 2 * run.events))
    assert Run(work, folder).end()
    return found


# Workers of an engine

DRIVER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from kills import drive; drive(*sys.argv[1:])"


def drive(engine, folder, address=""):
    """Six sessions by two workers of an engine; every unit is done in the end, or this fails.
    What became of the units is printed."""
    from vision_unlearning.data.emoji import emoji_entities
    from vision_unlearning.running.engines.base import make_engine, work_off
    from vision_unlearning.running.plan import Batch
    from vision_unlearning.running.runs import begun_run, clear_runs
    from vision_unlearning.store import Store, write_json
    store, entities = Store(folder), emoji_entities("emoji")
    if not store.metadata("emoji").exists(): write_json(store.metadata("emoji"), entities)
    asked = dict(model="tiny", seeds=[42], num_inference_steps=2, clip="tiny", metrics=["clip_diff"])
    names = tuple(entity["name"] for entity in entities[:6])
    stages = ("unlearn", "generate", "interference")
    batch = Batch("emoji", ("uce",), names, {}, stages, asked | {"embed": False})
    clear_runs(store)
    address = "local" if engine == "slurm" else address
    started = make_engine(engine, 1 if engine == "local" else 2, address=address)
    with begun_run(store, batch, retries=1000, threads=1) as run: outcomes = work_off(started, run, False)
    wrong = [outcome for outcome in outcomes if outcome["state"] != "done"]
    assert not wrong, wrong
    print(json.dumps(outcomes))


def begin(engine, folder, address=""):
    "A process that drives an engine."
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), engine, str(folder), address]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)


def ended_well(driver) -> list[dict]:
    "What became of the units, once a driver has come to its end."
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    return json.loads(said.splitlines()[-1])


def at_work(folder) -> list[int]:
    "The processes that hold a unit."
    from vision_unlearning.running.runs import held_units
    from vision_unlearning.store import Store
    holders = [held.holder for held in held_units(Store(folder)).values()]
    return sorted({holder.pid for holder in holders if not holder.what.endswith("/")})


def killed_engine(engine, folder, kills, draw) -> dict[str, int]:
    "A store through kills of workers, and of the driver every third time, and then to the end; how many."
    found, driver = {"worker": 0, "driver": 0}, begin(engine, folder)
    while sum(found.values()) < kills and driver.poll() is None:
        time.sleep(draw.uniform(0, 2))
        victims = at_work(folder)
        if not victims: continue
        victim = draw.choice(victims)
        if draw.random() < 1/3 or victim == driver.pid:  # who works in its own process has no other
            driver.kill()
            driver.communicate()
            found["driver"] += 1
            driver = begin(engine, folder)
        else:
            with contextlib.suppress(ProcessLookupError): os.kill(victim, signal.SIGKILL)
            found["worker"] += 1
    ended_well(driver)
    return found


def kill_engine(engine, kill, kills, root) -> bool:
    """Kill what runs an engine until there were enough kills; whether a store differs.
    `kill(folder, kills)` takes a store to its end, and says how many of whom it has killed."""
    from vision_unlearning.running.runs import clear_runs
    from vision_unlearning.store import Store
    ended_well(begin("local", root / "one"))
    wanted, found, stores, different = held(root / "one"), {}, 0, 0
    while sum(found.values()) < kills:
        folder = root / f"{engine}{stores}"
        for who, number in kill(folder, kills - sum(found.values())).items():
            found[who] = found.get(who, 0) + number
        clear_runs(Store(folder))
        different += differs(folder, wanted)
        stores += 1
    print(f"{engine}: {found} killed in {stores} stores, {different} stores differ", flush=True)
    return bool(different)


# Nodes of a cluster of Ray

@contextlib.contextmanager
def cluster_of(nodes):
    "A cluster of Ray on this machine: a head that computes nothing, and nodes of one worker each."
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster
    bare = dict(include_dashboard=False, include_log_monitor=False, no_monitor=True)
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, **bare))
    try:
        for _ in range(nodes): add_node(cluster)
        yield cluster
    finally: cluster.shutdown()


def add_node(cluster):
    "Start a node; on a machine with little to spare Ray gives up after half a minute, and is asked again."
    for _ in range(9):
        with contextlib.suppress(Exception): return cluster.add_node(num_cpus=1)
    raise RuntimeError("Ray does not start a node")


def nodes_at_work(cluster, folder) -> dict:
    "The process that holds a unit -> the node on which it runs."
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    found = {pid: raylets.get(parent(pid)) for pid in at_work(folder)}
    return {pid: node for pid, node in found.items() if node}


def parent(pid) -> int:
    "The process that started another; 0 where that has ended."
    try: text = Path(f"/proc/{pid}/stat").read_text()
    except OSError: return 0
    return int(text.rpartition(")")[2].split()[1])


def killed_nodes(cluster, folder, kills, draw) -> dict[str, int]:
    "A store through so many killed nodes, each replaced by a new one, and then to the end; how many."
    found, driver = 0, begin("ray", folder, cluster.address)
    while found < kills and driver.poll() is None:
        time.sleep(draw.uniform(0, 2))
        nodes = list(nodes_at_work(cluster, folder).values())
        if not nodes: continue
        cluster.remove_node(draw.choice(nodes), allow_graceful=False)
        found += 1
        add_node(cluster)
    ended_well(driver)
    return {"node": found}


def kill_of(given, draw, root) -> bool:
    "Kill what the arguments of the command name; whether a store differs."
    if given.nodes:
        with cluster_of(2) as cluster:
            kill = lambda folder, kills: killed_nodes(cluster, folder, kills, draw)
            return kill_engine("ray", kill, given.kills, root)
    kill = lambda folder, kills: killed_engine(given.engine, folder, kills, draw)
    return kill_engine(given.engine, kill, given.kills, root)


def main():
    "Kill batches until there were enough kills, and two workers at a time; say what was found."
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--chain", type=int, default=10, help="kills of one store before it is compared")
    parser.add_argument("--pairs", type=int, default=3, help="stores with two workers, one of them killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--embedded", action="store_true", help="with the model of the package, and UCE")
    parser.add_argument("--engine", help="kill workers and drivers of this engine instead")
    parser.add_argument("--nodes", action="store_true", help="kill nodes of a cluster of Ray instead")
    given = parser.parse_args()
    draw, root = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="vu-kills-"))
    if given.engine or given.nodes: sys.exit(kill_of(given, draw, root))
    work = functools.partial(batch, **EMBEDDED) if given.embedded else batch
    imported()
    first = Run(work, root / "undisturbed")
    assert first.end()
    wanted = held(root / "undisturbed")
    print(f"undisturbed: {len(wanted)} files, {first.events} events, {first.seconds:.0f} s", flush=True)
    kills, stores, victims, different = 0, 0, 0, 0
    while kills < given.kills:
        folder = root / f"store{stores}"
        kills += killed_batch(work, folder, min(given.chain, given.kills - kills), draw, first.seconds / 2)
        different += differs(folder, wanted)
        stores += 1
        print(f"{kills} kills, {stores} stores, {different} differ", flush=True)
    for number in range(given.pairs):
        folder = root / f"pair{number}"
        victim = Run(work, folder, Kill(seconds=draw.uniform(1, first.seconds)) if number else None)
        other = Run(work, folder)
        killed, ended = not victim.end(), other.end()
        victims += killed
        print(f"two workers: one was killed: {killed}, the other ended: {ended}", flush=True)
        different += differs(folder, wanted)
    print(
        f"seed {given.seed}: {kills} kills in {stores} stores, {given.pairs} pairs of workers with "
        f"{victims} killed: {different} stores differ"
    )
    shutil.rmtree(root)
    sys.exit(bool(different))


def differs(folder, wanted) -> bool:
    "Whether a store is not as it should be, and where; one that is as it should be is removed."
    got = held(folder)
    wrong = sorted(n for n in got.keys() | wanted.keys() if got.get(n) != wanted.get(n))
    clear_leftovers(folder, 0)
    wrong += left(folder)
    for name in wrong[:5]: print("differs:", folder.name, name, flush=True)
    if not wrong: shutil.rmtree(folder)
    return bool(wrong)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError): main()
