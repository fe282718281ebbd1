"""The same batch by several engines: equal stores, wall and CPU seconds, ratios.

python tools/engines.py --sessions 12 --engines local,pool,ray,slurm --workers 2
"""
import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from kills import differs, held  # noqa: E402

from vision_unlearning.data.emoji import emoji_entities  # noqa: E402
from vision_unlearning.running.engines.base import make_engine, work_off  # noqa: E402
from vision_unlearning.running.plan import Batch  # noqa: E402
from vision_unlearning.running.runs import begun_run  # noqa: E402
from vision_unlearning.store import Store, write_json  # noqa: E402


def cpu_seconds() -> float:
    "Of this process and of those of its children that have ended."
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def run_by(name: str, workers: int, batch: Batch, folder: Path) -> tuple[float, float, int]:
    "Wall and CPU seconds of a batch by an engine, and how many units failed."
    store = Store(folder)
    write_json(store.metadata(batch.task), emoji_entities(batch.task))
    address = "local" if name == "slurm" else ""
    engine = make_engine(name, workers, address=address)
    began, used = time.monotonic(), cpu_seconds()
    with begun_run(store, batch, threads=1) as run: outcomes = work_off(engine, run, progress=False)
    failed = sum(outcome["state"] == "failed" for outcome in outcomes)
    return time.monotonic() - began, cpu_seconds() - used, failed


def main():
    "Run a batch by each engine and print a row for each."
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--engines", default="local,pool,ray,slurm", help="the first one is compared with")
    parser.add_argument("--workers", type=int, default=2, help="of every engine but local")
    parser.add_argument("--model", default="emoji-sd")
    parser.add_argument("--method", default="uce")
    given = parser.parse_args()
    names = tuple(entity["name"] for entity in emoji_entities("emoji")[:given.sessions])
    clip = "tiny" if given.model == "tiny" else ""
    asked = dict(model=given.model, seeds=[42], num_inference_steps=8, metrics=["clip_diff"], clip=clip)
    stages = ("unlearn", "generate", "interference")
    batch = Batch("emoji", (given.method,), names, {}, stages, asked | {"embed": False})
    root, wanted, first = Path(tempfile.mkdtemp(prefix="vu-engines-")), None, None
    print(f"{len(names)} sessions of {given.method} on {given.model}", flush=True)
    for name in given.engines.split(","):
        workers = 1 if name == "local" else given.workers
        wall, cpu, failed = run_by(name, workers, batch, root / name)
        first = first or wall
        wanted = held(root / name) if wanted is None else wanted
        same = "equal" if not differs(root / name, wanted) else "DIFFERS"
        used = "unknown CPU" if name == "ray" else f"{cpu:.1f} s CPU"  # its processes are no children
        row = f"{name:6} {workers} workers: {wall:6.1f} s wall, {used}, {first / wall:.2f} times the first"
        print(f"{row}; {failed} failed, store {same}, load {os.getloadavg()[0]:.1f}", flush=True)
    shutil.rmtree(root)


if __name__ == "__main__": main()
