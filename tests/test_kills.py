"""Whoever writes is killed before every event of the file system and in the middle of a write: what is there
under its real name is the old or the new, and the next run ends where an undisturbed one does."""
import hashlib
import random
import shutil
import threading
import zipfile
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from kills import Kill, Run, differs, held, in_this_process, killed_batch, left
from PIL import Image

from vision_unlearning import files
from vision_unlearning.data.dataset import UnlearnDataset, save_dataset
from vision_unlearning.data.preparation import TestbedData, prepared_entities, write_prepared
from vision_unlearning.data.testbed import write_splits
from vision_unlearning.download import fetch, unpack_archive
from vision_unlearning.files import atomic_folder, clear_leftovers
from vision_unlearning.hub import place_folder
from vision_unlearning.interference.generate import fill_folder
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.running.batch import run_batch
from vision_unlearning.running.own import new_task
from vision_unlearning.running.session import note_stage, plan_sessions, unlearn_session
from vision_unlearning.running.smoke import smoke_overrides
from vision_unlearning.store import Store, write_json
from vision_unlearning.unlearners.base import WeightEdit, save_edit

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="a fork is what is killed")
SOURCES = {}  # name -> what a writer reads: pictures, an archive, an address
pipe = cache(tiny_pipeline)


@pytest.fixture(scope="module", autouse=True)
def sources(tmp_path_factory):
    "Pictures, an archive and a server, from which the writers write."
    folder = tmp_path_factory.mktemp("sources")
    for i in range(4): Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    for i, shade in enumerate(SHADES):
        (folder/"drawn"/shade["name"]).mkdir(parents=True)
        shutil.copy(folder/f"{i}.png", folder/"drawn"/shade["name"])
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i in range(4): archive.write(folder / f"{i}.png", f"deep/{i}.png")

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.send_header("ETag", '"1"')
            self.end_headers()
            for at in range(start, len(CONTENT), 1000): self.wfile.write(CONTENT[at:at + 1000])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.handle_error = lambda *_: None  # a client that was killed
    threading.Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
    SOURCES.update(
        pictures=[folder / f"{i}.png" for i in range(4)],
        drawn=folder / "drawn",
        archive=folder / "a.zip",
        url=f"http://127.0.0.1:{server.server_port}/f.bin",
    )
    yield
    server.shutdown()
    server.server_close()


CONTENT = bytes(range(256)) * 40
SHADES = [{"name": name, "light": i % 2} for i, name in enumerate(("black", "dark", "grey", "light"))]


@dataclass(frozen=True)
class Writer:
    "Something that writes into a folder, and what was there before."
    write: Callable
    before: Callable = lambda folder: None
    whole: bool = True  # everything changes in one step; else each file for itself

    def __str__(self): return self.write.__name__


def a_file(folder): write_json(folder / "a.json", {"n": list(range(100))})
def an_old_file(folder): write_json(folder / "a.json", {"n": 0})


def a_folder(folder, size=3):
    with atomic_folder(folder / "a") as place:
        for i in range(size): (place / f"{i}.txt").write_text(f"{size}" * 50)


def an_old_folder(folder): a_folder(folder, 2)


def a_folder_that_cannot_be_swapped(folder):
    with mock.patch.object(files, "exchange", lambda *_: False): a_folder(folder)


def session(folder): return plan_sessions(Store(folder), "emoji", "uce", ["fox"], "tiny")[0]
def an_edit(folder): save_edit(WeightEdit({"a": pipe().unet.conv_in.weight.detach()}), folder / "edit")
def an_old_edit(folder): save_edit(WeightEdit({"a": pipe().unet.conv_out.weight.detach()}), folder / "edit")
def a_session(folder): unlearn_session(Store(folder), session(folder), pipe(), "tiny")
def a_stage(folder): note_stage(Store(folder), session(folder), "generate", seeds=[42])


def a_split(folder, count=2):
    pictures = {"fox": SOURCES["pictures"][:2], "key": SOURCES["pictures"][2:]}
    write_splits(Store(folder), "people", pictures, "fox", per_entity=count)


def an_old_split(folder): a_split(folder, 1)


def some_pictures(folder, seeds=(42, 43)):
    fill_folder(pipe(), folder / "off", "off", list(seeds), ["An image of fox"], num_inference_steps=1)


def one_picture(folder): some_pictures(folder, [42])


def a_download(folder):
    digest = hashlib.sha256(CONTENT).hexdigest()
    fetch(SOURCES["url"], folder / "f.bin", sha256=digest, size=len(CONTENT), progress=False)


def half_a_download(folder):
    (folder / "f.bin.part").write_bytes(CONTENT[:5000])
    (folder / "f.bin.tag").write_text('"1"')


def a_data_set(folder, count=4):
    table = pd.DataFrame({"label": [0, 1] * (count // 2)})
    save_dataset(UnlearnDataset(SOURCES["pictures"][:count], table, classes=["a", "b"]), folder / "set")


def an_old_data_set(folder): a_data_set(folder, 2)
def an_archive(folder): unpack_archive(SOURCES["archive"], folder / "a")



def a_task(folder):
    "Its own file comes last, and says that nothing is missing."
    if Store(folder).task("shades").exists(): return
    new_task(Store(folder), "shades", SHADES, pictures=SOURCES["drawn"])


def a_fetched_folder(folder): place_folder(SOURCES["archive"].parent, folder / "a", clean=True)


def a_prepared_task(folder):
    table = pd.DataFrame({"name": ["Ann", "Bob"], "dataset_n_original": [2, 2]})
    pictures = {"Ann": SOURCES["pictures"][:2], "Bob": SOURCES["pictures"][2:]}
    store, settings = Store(folder), {"scale": "smoke"}
    if prepared_entities(store, "people", settings) is None:
        write_prepared(store, TestbedData("people", table, pictures), table, table, pictures, settings)


WRITERS = [
    Writer(a_file, an_old_file),
    Writer(a_folder, an_old_folder),
    Writer(a_folder_that_cannot_be_swapped, an_old_folder),
    Writer(an_edit, an_old_edit),
    Writer(a_session),
    Writer(a_stage, a_session),
    Writer(a_split, an_old_split, whole=False),
    Writer(some_pictures, one_picture, whole=False),
    Writer(a_download, half_a_download),
    Writer(a_data_set, an_old_data_set),
    Writer(an_archive, an_old_folder),
    Writer(a_fetched_folder, an_old_folder),
    Writer(a_prepared_task, whole=False),
    Writer(a_task, whole=False),
]


@pytest.mark.long
@pytest.mark.parametrize("writer", WRITERS, ids=str)
def test_a_writer_that_is_killed(writer, tmp_path, request):
    pipe()
    start = tmp_path / "start"
    start.mkdir()
    writer.before(start)
    old = held(start)
    shutil.copytree(start, tmp_path / "undisturbed")
    run = Run(writer.write, tmp_path / "undisturbed")
    assert run.end()
    new = held(tmp_path / "undisturbed")
    assert not left(tmp_path / "undisturbed") and run.events > 3
    kills = [Kill(event=n) for n in range(1, run.events + 1)] + [Kill(size=n) for n in (0, 1, 99, 999)]
    if not request.config.getoption("--kills"): kills = random.Random(0).sample(kills, 4)
    for number, kill in enumerate(kills):
        folder = tmp_path / str(number)
        shutil.copytree(start, folder)
        killed = not Run(writer.write, folder, kill).end()
        assert killed or kill.event is None
        files.recover(folder / "a")  # as a reader does, where the old folder had to step aside
        got = held(folder)
        if writer.whole: assert got in (old, new), (kill.event, kill.size)
        else: assert all(text in (old.get(name), new.get(name)) for name, text in got.items())
        writer.write(folder)
        assert held(folder) == new, (kill.event, kill.size)
        clear_leftovers(folder, 0)
        assert not left(folder)
        shutil.rmtree(folder)


@in_this_process()
def drawn(folder):
    "People up to their pictures."
    run_batch(
        "people",
        ["uce"],
        [0],
        Store(folder),
        smoke_overrides(["uce"]),
        ("prepare", "explore", "unlearn", "generate"),
        progress=False,
        scale="smoke",
        model="tiny",
        clip="tiny",
        seeds=[42],
        num_inference_steps=1,
    )


@pytest.mark.long
def test_a_batch_that_is_killed_and_two_workers(tmp_path):
    "`python tests/kills.py --kills 100` does it with all stages, at a hundred moments."
    pipe()
    with in_this_process(): pass  # imports papermill
    undisturbed = Run(drawn, tmp_path / "undisturbed")
    assert undisturbed.end()
    wanted, draw = held(tmp_path / "undisturbed"), random.Random(0)
    assert killed_batch(drawn, tmp_path / "killed", 3, draw, undisturbed.seconds / 2)
    victim, other = (Run(drawn, tmp_path / "two", kill) for kill in (Kill(event=draw.randint(5, 40)), None))
    victim.end()
    assert other.end()
    assert not differs(tmp_path / "killed", wanted) and not differs(tmp_path / "two", wanted)
