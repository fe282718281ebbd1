"""Where the CPU seconds of a small batch go, for nbs/explanations/09_speed.ipynb.

python tools/speed.py now            # profiles a small `vu batch` under that name, into the record
python tools/speed.py usual --usual  # the same with the default seeds and steps
python tools/speed.py --mantel       # times Mantel's test beside that of scikit-bio, which must be there

Every process of the batch notes, after each hundredth of a CPU second, where it is, and how much it has used
since the last time; a long call into C counts whole. Wall time plays no part, so other work may go on.
"""
import argparse
import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT/"nbs"/"explanations"/"speed.json"
USUAL = "--task emoji --methods uce --entities fox,castle"
SMALL = f"{USUAL} -p seeds=42 -p num_inference_steps=8"
# kind -> words of a stack, the first that is found counts
KINDS = {
    "imports": ("<frozen importlib",),
    "texts": ("models/conditioning.py",),
    "drawing": ("interference/generate.py:generate", "models/sampling.py:draw"),
    "scoring": ("session.py:score_images", "session.py:embed_images"),
    "unlearning": ("session.py:unlearn_session",),
    "loading models": ("session.py:load_evaluators", "load_pipeline", "load_clip", "load_image_encoder"),
    "figures": ("matplotlib/",),
    "answers": ("running/answers.py",),
    "tables and pages": ("vision_unlearning/results/", "running/report.py", "interference/entity.py"),
}
MODEL = ("texts", "drawing", "scoring", "unlearning")  # kinds that are a model's work


class Sampler:
    "Notes where this process uses its CPU seconds."
    def __init__(self, folder):
        self.path, self.found, self.last, self.written = Path(folder)/f"{os.getpid()}.json", Counter(), 0., 0.
        self.busy = False

    def hear(self, number, frame):
        "Called by the timer; what comes while it is at work counts with the next."
        if self.busy: return
        self.busy, now, names = True, time.process_time(), []
        while frame is not None:
            names.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
            frame = frame.f_back
        self.found[kind_of(" ".join(names))] += now - self.last
        self.last = now
        if now - self.written > 1: self.write()
        self.busy = False

    def write(self):
        "A kernel is killed in the end, so this is done every second."
        self.written = time.process_time()
        self.path.write_text(json.dumps(self.found))


def kind_of(stack: str) -> str:
    "What a process is at."
    found = (kind for kind, words in KINDS.items() if any(word in stack for word in words))
    return next(found, "notebooks and all else")


def watch(folder):
    "Begin to note, in a process of the batch."
    sampler = Sampler(folder)
    signal.signal(signal.SIGPROF, sampler.hear)
    signal.setitimer(signal.ITIMER_PROF, .01, .01)
    atexit.register(sampler.write)
    # An interpreter that ends gives signals back to the system, which would kill it.
    atexit.register(signal.setitimer, signal.ITIMER_PROF, 0)


def profiled(batch: str) -> dict[str, float]:
    "CPU seconds of a batch by kind, all its processes together."
    with tempfile.TemporaryDirectory() as folder:
        begin = f"import sys; sys.path.append({str(ROOT/'tools')!r})\nimport speed\nspeed.watch({folder!r})\n"
        Path(folder, "sitecustomize.py").write_text(begin)
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
        program = "from vision_unlearning.running.start import start; start()"
        asked = ["batch", *batch.split(), "--quiet", "--base-folder", "store"]
        subprocess.run([sys.executable, "-c", program, *asked], cwd=folder, env=environment, check=True)
        counts = [Counter(json.loads(path.read_text())) for path in Path(folder).glob("*.json")]
    return {kind: round(seconds, 2) for kind, seconds in sum(counts, Counter()).most_common()}


def tests_timed(rounds: int = 11) -> dict:
    "CPU seconds of Mantel's test by two libraries, in turn: the median of the rounds."
    import numpy as np
    import skbio
    from skbio.stats.distance import DistanceMatrix
    from skbio.stats.distance import mantel as theirs

    from vision_unlearning.interference.stats import mantel as ours
    rows = []
    for entities, permutations in ((100, 999), (100, 9999), (300, 999)):
        pair = np.random.default_rng(0).random((2, entities, entities))*~np.eye(entities, dtype=bool)
        pair += pair.transpose(0, 2, 1)
        wrapped = [DistanceMatrix(matrix) for matrix in pair]
        tests = {"scikit-bio": partial(theirs, *wrapped, permutations=permutations, seed=0),
                 "here": partial(ours, *pair, permutations)}
        found = {name: [] for name in tests}
        for _ in range(rounds):
            for name, test in tests.items():
                begun = time.process_time()
                test()
                found[name].append(time.process_time() - begun)
        medians = {name: round(float(np.median(times)), 4) for name, times in found.items()}
        rows.append({"entities": entities, "permutations": permutations, **medians})
    return {"scikit-bio": skbio.__version__, "rounds": rounds, "rows": rows}


def main():
    "Measure, and keep what was found."
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("label", nargs="?", help="name of a profile of a batch in the record")
    parser.add_argument("--usual", action="store_true", help="a batch with the default seeds and steps")
    parser.add_argument("--mantel", action="store_true", help="time Mantel's test beside scikit-bio")
    asked = parser.parse_args()
    if asked.usual and not asked.label: parser.error("--usual needs a label: speed.py usual --usual")
    record = json.loads(RECORD.read_text())
    if asked.mantel: record["mantel"] = tests_timed()
    if asked.label: record["profiles"][asked.label] = profiled(USUAL if asked.usual else SMALL)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__": main()
