"""Bad inputs by the hundred: each ends well, or in one line that names the thing, and writes nowhere else.

`pytest tests/test_fuzz.py --fuzz 2000` tries as many, shared among the kinds; without it a few.
`--fuzz-seed 1` tries others."""
import contextlib
import io
import json
import math
import random
import shlex
import signal
import socketserver
import tarfile
import threading
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vision_unlearning.data.dataset import open_picture
from vision_unlearning.download import fetch, unpack_archive
from vision_unlearning.explore.embeddings import mean_embeddings
from vision_unlearning.interference.entity import InterferencePerEntity
from vision_unlearning.interference.pair import check_twins, pair_means
from vision_unlearning.interference.published import holdings, read_results
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.results.base import read_pairs, read_similarity
from vision_unlearning.results.matrix import ResultTemplateInterferenceMatrix as InterferenceMatrix
from vision_unlearning.running import session as sessions
from vision_unlearning.running.batch import batch_status
from vision_unlearning.running.cli import error_line, main
from vision_unlearning.running.summary import summary_table
from vision_unlearning.store import Session, Store, atomic_path, read_entities, write_json
from vision_unlearning.unlearners.base import get_method, load_edit

SECONDS = 120  # after which an input hangs, on a machine that does other things too
FEW = {"commands": 20, "store": 20, "edits": 20, "pictures": 40, "downloads": 20}  # inputs without --fuzz


class Hang(BaseException): "An input that did not end."
class Ran(BaseException): "A command that was accepted, and would have begun its work."


@contextlib.contextmanager
def alarm():
    "Stop what does not end."
    def stop(*_): raise Hang()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wrong_end(act, named=()):
    "Run `act`; what is wrong with the way it ended, or None."
    try:
        with alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            act()
    except Hang: return "did not end"
    except (ValueError, OSError) as error:
        line = error_line(error)
        if named and not any(name in line for name in named):
            return f"names no file: {type(error).__name__}: {line}"
    except Exception as error: return f"{type(error).__name__}: {str(error)[:150]}"


def files(folder): return {p.relative_to(folder) for p in folder.rglob("*")}


# Bytes and JSON

WHOLE = [
    b"",
    b"{",
    b"null",
    b"5",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"[null]",
    b'{"a": 1}',
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xff\xfe\0",
    b"NaN",
    b"\xef\xbb\xbf{}",
    b"1" * 5000,
    b'{"metadata": [], "result": 5}',
    b'[{"name": "A_B"}, {"name": "A B"}]',
    b'["\\ud800"]',
    bytes(range(256)) * 8,
]
VALUES = [
    None,
    True,
    False,
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "\0",
    "a" * 300,
    [],
    {},
    [1],
    {"a": 1},
    "\ud800",
]


def places(value, path=()):
    "Every place in a JSON value."
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner: yield from places(part, (*path, key))


def damaged_json(data, rng):
    "A JSON file with one place changed, or removed."
    value = json.loads(data)
    path = rng.choice([p for p in places(value) if p] or [()])
    if not path: return json.dumps(rng.choice(VALUES)).encode()
    parent = value
    for key in path[:-1]: parent = parent[key]
    if rng.random() < .3: del parent[path[-1]]
    else: parent[path[-1]] = rng.choice(VALUES)
    return json.dumps(value).encode()


def damaged_bytes(data, rng):
    "Bytes that were cut, flipped, repeated or replaced."
    kind, at = rng.randrange(4), rng.randrange(max(1, len(data)))
    if kind == 0: return rng.choice(WHOLE)
    if kind == 1: return data[:at]
    if kind == 2: return data + data[at:]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])): changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def damaged(path, data, rng):
    "The content of a file, damaged in a way that its kind invites."
    if path.suffix == ".json" and rng.random() < .7: return damaged_json(data, rng)
    return damaged_bytes(data, rng)


# One class a kind of input: what has to be there, and `try_one`, which says what went wrong or nothing.

class Commands:
    "Words of a shell; what would begin to work is stopped there."
    NAMES = ["fox", "foxx", "", " ", ",", "fox,fox", "../x", "🦊", "a" * 300, "\0", "-1", "fox,red apple"]
    NUMBERS = ["-5", "0", "1", "nan", "inf", "1e308", "x", "", "9" * 20]
    JSONS = ["{}", "[1]", "null", "5", "{", "[" * 3000, '{"lamb": 0.5}', '{"lamb": NaN}', '{"x": 1}']
    MODELS = ["tiny", "nowhere", "", "cwd", "file.bin", "a/b", "emoji-clip", "\0"]
    TASKS = ["emoji", "emojis", "", "people", "digits", "../x", "unlearn_canvas"]
    METHODS = ["uce", "ucee", "", " ", "uce,uce", "scrub", "prompt_filter"]
    DEVICES = ["cpu", "nope", "cuda", "meta", ""]
    STAGES = [
        "prepare",
        "explore",
        "unlearn",
        "generate",
        "interference",
        "results",
        "report",
        "answers",
        "x",
        "",
    ]
    PARAMETERS = [
        "task",
        "method",
        "entities",
        "seeds",
        "model",
        "overrides",
        "num_inference_steps",
        "height",
        "scheduler",
        "metrics",
        "clip",
        "embed",
        "n_permutations",
        "base_folder",
        "device",
        "x",
        "",
    ]
    OPTIONS = {
        "run": {"--task": TASKS, "-p": None, "--force": [], "--list": [], "-q": [], "--x": NAMES},
        "batch": {
            "--task": TASKS,
            "--methods": METHODS,
            "--entities": NAMES,
            "-p": None,
            "--scale": ["full", "x"],
        },
        "status": {"--x": []},
        "report": {"--task": TASKS, "--methods": METHODS, "--entities": NAMES, "--n-permutations": NUMBERS},
        "erase": {
            "--concept": NAMES,
            "--out": ["new", "cwd", "/proc/x", "a" * 300],
            "--model": MODELS,
            "--clip": MODELS,
            "--preserve": NAMES,
            "--method": METHODS,
            "--settings": JSONS,
            "--candidates": NAMES,
            "--num-inference-steps": NUMBERS,
            "--guidance-scale": NUMBERS,
            "--device": DEVICES,
            "--kohya": [],
        },
        "demo": {"--full": [], "--x": NAMES},
    }

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        (folder/"cwd").mkdir()
        (folder/"cwd"/"file.bin").write_bytes(b"x")
        monkeypatch.chdir(folder/"cwd")
        monkeypatch.setenv("HOME", str(folder/"base"))
        def ran(*_, **__): raise Ran()
        for place in ("notebooks.execute", "erase.erase", "demo.demo", "classifiers.batch_classifiers",
                      "classifiers.run_classifier_stage"):
            monkeypatch.setattr(f"vision_unlearning.running.{place}", ran)

    def parameter(self, rng):
        values = [*self.NAMES, *self.NUMBERS, *self.JSONS, *self.MODELS]
        return rng.choice(self.PARAMETERS) + rng.choice(["=", "=", "=", "", "=="]) + rng.choice(values)

    def words(self, rng):
        command = rng.choice([*self.OPTIONS, "run", "batch", "erase"])
        words = [command, rng.choice(self.STAGES)] if command == "run" else [command]
        if command == "erase":
            words += ["--concept", "fox", "--out", "new", "--model", "tiny", "--clip", "tiny"]
        for option in rng.sample(list(self.OPTIONS[command]), rng.randrange(len(self.OPTIONS[command]))):
            values = self.OPTIONS[command][option]
            words += (
                [option, self.parameter(rng)]
                if values is None
                else [option, *rng.sample(values, bool(values))]
            )
        bases = ["../base", "../base/x", "/dev/null", "/proc/x", "../base/" + "a" * 300]
        bases += ["", " ", "~", "~nobody/x"]
        return words + (["--base-folder", rng.choice(bases)] if command != "erase" else [])

    def try_one(self, rng):
        words, out, err = self.words(rng), io.StringIO(), io.StringIO()
        before = files(self.folder/"cwd")
        def act():
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try: main(words)
                except Ran: pass
                except SystemExit as stop:
                    if stop.code == 2: self.check(err.getvalue())
        wrong = wrong_end(act)
        new = files(self.folder/"cwd") - before
        if new: wrong = f"wrote {sorted(map(str, new))[:3]}"
        if {p.name for p in self.folder.iterdir()} - {"cwd", "base"}: wrong = "wrote outside of its folder"
        return f"vu {shlex.join(words)[:200]}: {wrong}" if wrong else None

    def check(self, said):
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        if len(lines) != 1 or "not foreseen" in lines[0]: raise RuntimeError(f"no line of ours: {said!r}")


class Files:
    "Files of a folder, one of them damaged; a subclass says how they are read."
    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.make()
        self.paths = sorted(p for p in folder.rglob("*") if p.is_file())

    def try_one(self, rng):
        path = rng.choice(self.paths)
        data = path.read_bytes()
        path.write_bytes(damaged(path, data, rng))
        try:
            for name, act in self.readers().items():
                wrong = wrong_end(act, (path.name, path.parent.name, "off and on pictures differ"))
                if wrong: return f"{path.relative_to(self.folder)} read by {name}: {wrong}"
        finally: path.write_bytes(data)
        outside = {p.name for p in self.folder.parent.iterdir()} - {self.folder.name}
        return f"{path.name}: wrote {sorted(outside)[:3]}" if outside else None


class StoreFiles(Files):
    "A store with two sessions, their tables, and an answer."
    PEOPLE = ["George_W_Bush", "Tony_Blair", "Serena_Williams", "Steffi_Graf"]

    def make(self):
        self.store, rng = Store(self.folder), np.random.default_rng(0)
        table = [
            {"name": n, "index": i, "gender": "MF"[i > 1], "hpi": 70.5 + i} for i, n in enumerate(self.PEOPLE)
        ]
        write_json(self.store.metadata("people"), table)
        write_json(self.store.baseline("people")/"settings.json", {"num_inference_steps": 2})
        write_json(self.store.baseline("people")/"weights.json", {"weights": "tiny"})
        settings = get_method("uce")().model_dump(mode="json")
        self.sessions = [
            Session("people", n, i, "uce", 0, "tiny", settings) for i, n in enumerate(self.PEOPLE)
        ]
        for s in self.sessions: self.add(s, rng)
        rows = [
            {"prompted_entity": n, "seed": 42, "embedding": rng.normal(size=3).tolist()} for n in self.PEOPLE
        ]
        write_json(self.store.embeddings("people"), {"metadata": {"seeds": [42]}, "embeddings": rows})
        for kind in ("clip", "attr"): read_similarity(self.store, "people", kind)
        InterferencePerEntity(task="people", base_folder=str(self.folder)).compute()
        self.question().compute()

    def add(self, session, rng):
        items = [(n, 42, metric) for n in self.PEOPLE for metric in ("clip_diff", "rmse")]
        frame = pd.DataFrame(items, columns=["receiver", "seed", "metric"])
        frame = frame.assign(off=rng.random(len(items)), on=rng.random(len(items))).assign(
            value=lambda f: f.on - f.off
        )
        stages = {
            "unlearn": {"seconds": 1.0, "edit_bytes": 9},
            "generate": {"seeds": [42]},
            "interference": {"seeds": [42]},
        }
        about = {
            "task": session.task,
            "entity": session.entity,
            "index": session.index,
            "method": session.method,
            "epochs": 0,
            "model": "tiny",
            "settings": session.settings,
        }
        record = {"key": session.key, "session": about, "status": "complete", "stages": stages}
        write_json(self.store.record(session), {**record, "base_model": {"weights": "tiny"}, "versions": {}})
        with atomic_path(self.store.scores(session)) as path: frame.to_parquet(path, index=False)
        write_json(self.store.pair("people", session.index, "uce", 0), pair_means(frame))
        write_json(self.store.generated(session)/"settings.json", {"num_inference_steps": 2})

    def question(self):
        return InterferenceMatrix(
            task="people",
            base_folder=str(self.folder),
            model="tiny",
            unlearning_algorithm="uce",
            interference_pair="clip_diff",
        )

    def readers(self):
        store, first = self.store, self.sessions[0]
        return {
            "recorded_sessions": lambda: sessions.recorded_sessions(store),
            "batch_status": lambda: batch_status(store),
            "plan_sessions": lambda: sessions.plan_sessions(store, "people", "uce", model="tiny"),
            "finished": lambda: [sessions.finished(store, s, "tiny") for s in self.sessions],
            "claim_baseline": lambda: sessions.claim_baseline(store, "people", "tiny", write=False),
            "summary_table": lambda: summary_table(store, self.sessions),
            "check_twins": lambda: [check_twins(store, s) for s in self.sessions],
            "read_pairs": lambda: read_pairs(store, "people", "uce").matrix("clip_diff"),
            "InterferencePerEntity": lambda: InterferencePerEntity(
                task="people", base_folder=str(self.folder), save_outputs=False
            ).compute(),
            "read_similarity": lambda: [read_similarity(store, "people", kind) for kind in ("clip", "attr")],
            "mean_embeddings": lambda: mean_embeddings(
                store.embeddings("people"), read_entities(store, "people")
            ),
            "holdings": lambda: holdings(store.base, "people"),
            "read_results": lambda: read_results(store),
            "InterferenceMatrix": lambda: self.question().compute(),
            "read_scores": lambda: sessions.read_scores(store, first),
        }


class Edits(Files):
    "Edits of three kinds in their folders."
    def make(self):
        self.pipe = tiny_pipeline()
        self.weights = {n: p.clone() for n, p in self.pipe.unet.named_parameters()}
        for name in ("uce", "sld", "prompt_filter"):
            get_method(name)().unlearn(self.pipe, ["fox"], ["key"]).save_pretrained(self.folder/name)

    def attach(self, folder):
        edit = load_edit(folder)
        try:
            with edit.on(self.pipe): pass
        # what is read is no file any more, and cannot name one
        except ValueError as error: raise ValueError(f"{folder.name}: {error}") from error
        if not all(torch.equal(p, self.weights[n]) for n, p in self.pipe.unet.named_parameters()):
            raise RuntimeError("the weights did not come back")

    def readers(self):
        return {f.name: (lambda f=f: self.attach(f)) for f in sorted(self.folder.iterdir()) if f.is_dir()}


class Pictures(Files):
    "Pictures of several formats."
    def make(self):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
        for kind in ("png", "jpg", "gif", "bmp", "webp", "tiff"): picture.save(self.folder/f"a.{kind}")
        picture.convert("P").save(self.folder/"palette.png")
        picture.convert("RGBA").save(self.folder/"alpha.png")
        picture.convert("CMYK").save(self.folder/"cmyk.jpg")

    def readers(self): return {p.name: (lambda p=p: open_picture(p)) for p in self.paths}


class Downloads:
    "Servers that answer nonsense, and archives that are none."
    BODY = bytes(range(256)) * 4

    def __init__(self, folder, monkeypatch):
        self.folder, self.answer = folder, b""
        outer = self
        class Answer(socketserver.StreamRequestHandler):
            def handle(self):
                while self.rfile.readline().strip(): pass
                with contextlib.suppress(OSError): self.wfile.write(outer.answer)
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(.01,), daemon=True).start()
        self.archives = []
        for name, opened in (
            ("a.zip", zipfile.ZipFile),
            ("a.tar.gz", lambda p, m: tarfile.open(p, f"{m}:gz")),
        ):
            content = folder/"one.txt"
            content.write_bytes(self.BODY)
            with opened(folder/name, "w") as archive:
                getattr(archive, "write", getattr(archive, "add", None))(content, "d/1")
            self.archives.append((name, (folder/name).read_bytes()))

    def response(self, rng):
        code = rng.choice([200, 200, 200, 206, 204, 301, 302, 404, 403, 416, 418, 500, 999, "x", ""])
        headers = [
            rng.choice(
                [
                    "Content-Length: abc",
                    "Content-Length: -5",
                    "Content-Length: 99999999999999",
                    "Content-Length: 10",
                    f"Content-Length: {len(self.BODY)}",
                    "Content-Range: bytes 5-9/x",
                    "Content-Range: x",
                    "ETag: ../../../x",
                    "ETag: " + "a" * 2000,
                    "Location: file:///etc/passwd",
                    "Location: /",
                    "Retry-After: 0",
                    "Retry-After: x",
                    "Transfer-Encoding: chunked",
                    "Content-Encoding: gzip",
                    "no header at all",
                    "",
                ]
            )
            for _ in range(rng.randrange(4))
        ]
        body = rng.choice([self.BODY, b"", self.BODY[:10], b"5\r\nhello\r\n", b"zz\r\n"])
        head = "".join(f"{h}\r\n" for h in headers if h)
        return rng.choice(
            [f"HTTP/1.1 {code} x\r\n{head}\r\n".encode() + body, b"", b"nonsense\r\n\r\n", body]
        )

    def try_one(self, rng):
        self.answer = self.response(rng)
        place = self.folder/"base"
        url = f"http://127.0.0.1:{self.server.server_address[1]}/a.bin"
        options = dict(progress=False, wait=.001, retries=1, size=rng.choice([None, len(self.BODY), 5]))
        wrong = wrong_end(lambda: fetch(url, place/"a.bin", **options))
        name, data = rng.choice(self.archives)
        (self.folder/name).write_bytes(damaged_bytes(data, rng))
        wrong = wrong or wrong_end(lambda: unpack_archive(self.folder/name, place/"unpacked"), (name,))
        for path in place.glob("a.bin*"): path.unlink()
        known = {"base", "one.txt", *(name for name, _ in self.archives)}
        if {p.name for p in self.folder.iterdir()} - known: wrong = "wrote outside of its folder"
        return f"{self.answer[:200]!r}: {wrong}" if wrong else None


KINDS = {
    "commands": Commands,
    "store": StoreFiles,
    "edits": Edits,
    "pictures": Pictures,
    "downloads": Downloads,
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_inputs_end_in_one_line(kind, tmp_path, monkeypatch, request, record_property):
    total = request.config.getoption("--fuzz")
    n = math.ceil(total * FEW[kind] / sum(FEW.values())) if total else FEW[kind]
    seed = request.config.getoption("--fuzz-seed")
    place = tmp_path/"world"
    place.mkdir()
    world = KINDS[kind](place, monkeypatch)
    found = [wrong for i in range(n) if (wrong := world.try_one(random.Random(f"{kind} {seed} {i}")))]
    record_property("fuzz", {"kind": kind, "seed": seed, "inputs": n, "wrong": len(found)})
    for line in found: print(" ", line)
    assert not found, f"{len(found)} of {n} inputs; the first: {found[0]}"
