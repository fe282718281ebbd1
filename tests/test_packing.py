"""Packed sessions: the same bytes after a round trip, complete or not at all, damaged archives named in one
line, nobody's work touched; and whoever reads pictures reads them out of an archive too."""
import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
from kills import Kill, Run, left

from vision_unlearning import packed
from vision_unlearning.core import ForeignFileError
from vision_unlearning.files import clear_leftovers
from vision_unlearning.packed import archive_of, is_there, names_in, pack_folder, read_bytes, unpack_folder

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork is what is killed")
NAMES = ("ü", "b", "a b")
FILES = {f"on_42_An image of {name}.png": bytes(range(i, 200)) * 9 for i, name in enumerate(NAMES)}


def filled(folder, files=FILES):
    folder.mkdir(parents=True)
    for name, data in files.items(): (folder / name).write_bytes(data)
    return folder


def content(folder): return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_round_trip_is_equal_and_archives_are_too(tmp_path):
    one, other = (filled(tmp_path / name / "pictures") for name in ("one", "other"))
    for name in FILES: os.utime(other / name, (1e9, 1e9))
    for folder in (one, other): pack_folder(folder)
    assert archive_of(one).read_bytes() == archive_of(other).read_bytes()
    with zipfile.ZipFile(archive_of(one)) as file: assert file.namelist() == sorted(FILES)
    assert names_in(one) == set(FILES) and all(read_bytes(one / name) == FILES[name] for name in FILES)
    assert not is_there(one / "none.png") and not is_there(tmp_path / "nowhere" / "none.png")
    unpack_folder(one)
    assert content(one) == FILES and not archive_of(one).exists()


@fork
@pytest.mark.parametrize("work", [pack_folder, unpack_folder])
def test_whoever_is_killed_loses_nothing(work, tmp_path):
    start = tmp_path / "start"
    filled(start / "pictures")
    if work is unpack_folder: pack_folder(start / "pictures")
    shutil.copytree(start, tmp_path / "undisturbed")
    run = Run(lambda folder: work(folder / "pictures"), tmp_path / "undisturbed")
    assert run.end() and run.events > 3
    for event in range(1, run.events + 1):
        place = tmp_path / str(event)
        shutil.copytree(start, place)
        assert not Run(lambda folder: work(folder / "pictures"), place, Kill(event=event)).end()
        assert {name: read_bytes(place / "pictures" / name) for name in names_in(place / "pictures")} == FILES
        clear_leftovers(place, 0)
        for again in (pack_folder, unpack_folder):
            if again is pack_folder and not (place / "pictures").is_dir(): continue
            again(place / "pictures")
        assert content(place / "pictures") == FILES
        assert sorted(p.name for p in place.iterdir()) == ["pictures"], event


def test_a_folder_that_lacks_what_its_archive_has_is_not_believed(tmp_path):
    folder = filled(tmp_path / "pictures")
    pack_folder(folder)
    filled(folder, {"a.png": b"1"})
    for work in (pack_folder, unpack_folder):
        with pytest.raises(ForeignFileError, match="remove one of them"): work(folder)
    assert content(folder) == {"a.png": b"1"} and archive_of(folder).is_file()


def damaged(archive, draw):
    "An archive with a few bytes that are others, or with an end that is missing."
    data = bytearray(archive)
    if draw.random() < .3: return bytes(data[:draw.randrange(len(data))])
    for _ in range(draw.randint(1, 4)): data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def test_a_damaged_archive_is_one_line_or_right(tmp_path):
    folder, draw, refused = filled(tmp_path / "pictures"), random.Random(0), 0
    pack_folder(folder)
    whole = archive_of(folder).read_bytes()
    for _ in range(200):
        archive_of(folder).write_bytes(damaged(whole, draw))
        packed._opened.cache_clear()
        try:
            for name in names_in(folder) & set(FILES): assert read_bytes(folder / name) == FILES[name]
        except ForeignFileError as error:
            assert "pictures.zip" in str(error) and "\n" not in str(error)
            refused += 1
        try: unpack_folder(folder)
        except (ForeignFileError, ValueError) as error:
            assert "\n" not in str(error) and not folder.exists()
            refused += 1
            continue
        assert all(data == FILES[name] for name, data in content(folder).items() if name in FILES)
        shutil.rmtree(folder)
    assert refused > 50 and not left(tmp_path)


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "C:/evil.png"])
def test_no_name_leaves_the_folder(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as file: file.writestr(name, b"evil")
    with pytest.raises(ValueError, match="pictures.zip"): unpack_folder(tmp_path / "pictures")
    assert [p.name for p in tmp_path.iterdir()] == ["pictures.zip"]
    with pytest.raises(FileNotFoundError): read_bytes(tmp_path / "pictures" / "evil.png")


def test_what_is_compressed_is_unpacked_first(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in FILES.items(): file.writestr(name, data)
    folder, name = tmp_path / "pictures", next(iter(FILES))
    with pytest.raises(ForeignFileError, match="vu unpack"): read_bytes(folder / name)
    unpack_folder(folder)
    assert content(folder) == FILES


def test_links_and_unfinished_files_stay(tmp_path):
    folder = filled(tmp_path / "pictures")
    (folder / ".partial-abc.png").write_bytes(b"1")
    with pytest.raises(BlockingIOError, match="unfinished"): pack_folder(folder)
    (folder / ".partial-abc.png").unlink()
    (folder / "link.png").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="no plain file"): pack_folder(folder)
    assert not archive_of(folder).exists()


def drawn(tmp_path):
    "Two complete sessions of the tiny model: as they are, and packed."
    from vision_unlearning.running.packing import pack_sessions
    from vision_unlearning.store import Store
    store = Store(tmp_path / "plain")
    shutil.copytree(store.base, tmp_path / "packed")
    packed = Store(tmp_path / "packed")
    assert len(pack_sessions(packed, "emoji").done) == 2
    return store, packed


@pytest.mark.long(20)
def test_pages_and_stages_read_out_of_archives(tmp_path):
    "What asks for pictures gets the same of both, and drawing more makes a folder again."
    from vision_unlearning.data.emoji import emoji_entities
    from vision_unlearning.explore.embeddings import found_pictures
    from vision_unlearning.interference.generate import generate_off, read_images, task_prompts
    from vision_unlearning.models import tiny_pipeline
    from vision_unlearning.models.naming import load_namer  # noqa: F401
    from vision_unlearning.running.missing import missing_images
    from vision_unlearning.running.page import picture
    from vision_unlearning.running.session import generate_session, note_stage, plan_sessions, unlearn_session
    from vision_unlearning.running.thumbnails import make_sheet
    from vision_unlearning.store import Store, image_name, write_json
    store, entities, pipe = Store(tmp_path / "plain"), emoji_entities("emoji")[:3], tiny_pipeline()
    write_json(store.metadata("emoji"), entities)
    prompts, how = task_prompts("emoji", entities), dict(num_inference_steps=1, batch_size=1)
    sessions = plan_sessions(store, "emoji", "uce", [0, 1], "tiny")
    generate_off(pipe, store, "emoji", prompts, [42], model="tiny", **how)
    for session in sessions:
        unlearn_session(store, session, pipe, "tiny")
        generate_session(store, session, pipe, [42], **how)
        note_stage(store, session, "interference", seeds=[42])
    plain, packed = drawn(tmp_path)
    seen = []
    for at in (plain, packed):
        folder = at.generated(sessions[0])
        path = folder / image_name("on", 42, prompts[0])
        names = [(i, seed, prompt) for i, seed, prompt, _ in found_pictures(folder, "on", "emoji", entities)]
        missing = [missing_images(folder, "on", seeds, prompts) for seeds in ([42], [42, 43])]
        sheet = make_sheet([path, folder / "none.png"], 8, 50)
        pixels = read_images(folder, "on", [42]*3, prompts)
        seen.append((names, missing, sheet, pixels.tolist(), picture(path, "fox")))
    assert seen[0] == seen[1] and seen[0][1] == [0, 3] and len(seen[0][0]) == 3
    assert not packed.generated(sessions[0]).exists()
    assert generate_session(packed, sessions[0], pipe, [42], **how) == 0
    assert archive_of(packed.generated(sessions[0])).is_file(), "nothing was missing, so nothing was unpacked"
    for at in (plain, packed): assert generate_session(at, sessions[0], pipe, [42, 43], **how) == 3
    assert content(plain.generated(sessions[0])) == content(packed.generated(sessions[0]))
    assert not archive_of(packed.generated(sessions[0])).exists()


def test_the_commands_say_what_was_left_alone(tmp_path, capsys):
    from vision_unlearning.leases import lock_beside, take
    from vision_unlearning.running.cli import main
    from vision_unlearning.store import Session, Store, write_json
    store, stages = Store(tmp_path), dict(unlearn=dict(seconds=1., edit_bytes=9), generate=dict(seeds=[42]),
                                          interference=dict(seeds=[42]))
    write_json(store.metadata("emoji"), [dict(name=name, index=i) for i, name in enumerate(("fox", "key"))])
    for index, name in enumerate(("fox", "key")):
        session = Session("emoji", name, index, "uce")
        fields = dict(task="emoji", entity=name, index=index, method="uce")
        facts = dict(key=session.key, session=fields, status="complete", stages=stages)
        write_json(store.record(session), facts)
        filled(store.generated(session))
    with take(lock_beside(store.generated(session))): main(["pack", "--base-folder", str(tmp_path)])
    said = capsys.readouterr().out
    assert "packed 1 sessions, 3 files" in said and "left alone: emoji_key_uce_000" in said
    main(["unpack", "--entities", "fox", "--base-folder", str(tmp_path)])
    assert "unpacked 1 sessions, 3 files" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop: main(["pack", "--methods", "uec", "--base-folder", str(tmp_path)])
    assert stop.value.code == 2 and "did you mean 'uce'" in capsys.readouterr().err


def test_packed_twice_is_said_and_an_unknown_task_is_refused(tmp_path, capsys):
    from vision_unlearning.running.cli import main
    from vision_unlearning.store import Session, Store, write_json
    store, session = Store(tmp_path), Session("emoji", "fox", 0, "uce")
    write_json(store.metadata("emoji"), [dict(name="fox", index=0)])
    stages = dict(unlearn=dict(seconds=1., edit_bytes=9), generate=dict(seeds=[42]))
    stages |= dict(interference=dict(seeds=[42]))
    fields = dict(task="emoji", entity="fox", index=0, method="uce")
    write_json(store.record(session), dict(key=session.key, session=fields, status="complete", stages=stages))
    filled(store.generated(session))
    ask = ["--base-folder", str(tmp_path)]
    main(["pack", "--json", *ask])
    assert json.loads(capsys.readouterr().out) == {"packed": {session.slug: 3}, "already": 0, "left": {}}
    main(["pack", *ask])
    assert "1 were packed already" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop: main(["pack", "--task", "nope", *ask])
    assert stop.value.code == 2 and "nope" in capsys.readouterr().err
