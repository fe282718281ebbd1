"""The hub: every function against a small hub on this machine, on good days and on bad ones."""
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("huggingface_hub")
from fake_hub import LARGE as large
from fake_hub import SMALL as small
from huggingface_hub import constants

from vision_unlearning import hub as library
from vision_unlearning.core import ForeignFileError, MissingSessionError
from vision_unlearning.hub import (
    huggingface_dataset_download,
    huggingface_dataset_file_download,
    huggingface_dataset_file_exists,
    huggingface_dataset_file_upload,
    huggingface_dataset_upload,
    pull,
    push,
)

pytestmark = pytest.mark.long


@pytest.fixture
def ask(hub, tmp_path): return dict(folder_cache=str(tmp_path / "cache"), endpoint=hub.url)


def held(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


# Reading

def test_exists(hub):
    assert huggingface_dataset_file_exists("me/world", "config/a.json", None, endpoint=hub.url)
    assert not huggingface_dataset_file_exists("me/world", "config/z.json", None, endpoint=hub.url)
    assert not huggingface_dataset_file_exists("me/nobody", "config/a.json", None, endpoint=hub.url)
    assert not huggingface_dataset_file_exists("me/secret", "config/a.json", None, endpoint=hub.url)
    assert huggingface_dataset_file_exists("me/secret", "config/a.json", "reader", endpoint=hub.url)


def test_the_endpoint_comes_from_the_environment_too(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert huggingface_dataset_file_exists("me/world", "top.json", None)


def test_a_file(hub, ask, tmp_path):
    for path, content in (("config/a.json", small), ("config/deep/b.bin", large)):
        huggingface_dataset_file_download(str(tmp_path / "here"), "me/world", path, None, **ask)
        assert (tmp_path / "here" / path).read_bytes() == content
    assert held(tmp_path / "here") == ["config/a.json", "config/deep/b.bin"]
    with pytest.raises(MissingSessionError, match="no file config/z.json of me/world"):
        huggingface_dataset_file_download(str(tmp_path / "here"), "me/world", "config/z.json", None, **ask)
    with pytest.raises(ValueError, match="not a path inside"):
        huggingface_dataset_file_download(str(tmp_path / "here"), "me/world", "../x.json", None, **ask)


def test_a_folder_of_several_pages(hub, ask, tmp_path):
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    assert held(tmp_path / "here") == [
        "config/a.json",
        "config/deep/b.bin",
        *(f"config/n{i}.txt" for i in range(7)),
    ]
    # nine files by three, and nothing but this folder
    assert len(hub.seen("/tree/")) == 3 and not hub.seen("other")
    with pytest.raises(MissingSessionError, match="me/world has no nothing"):
        huggingface_dataset_download(str(tmp_path / "here"), "me/world", "nothing", None, **ask)


def test_clean_and_the_cache(hub, ask, tmp_path):
    (tmp_path / "here" / "config").mkdir(parents=True)
    (tmp_path / "here" / "config" / "mine.txt").write_text("mine")
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    assert "config/mine.txt" in held(tmp_path / "here") and (tmp_path / "cache").is_dir()
    huggingface_dataset_download(
        str(tmp_path / "here"), "me/world", "config", None, clean=True, clean_cache=True, **ask
    )
    assert "config/mine.txt" not in held(tmp_path / "here") and not (tmp_path / "cache").exists()


def test_a_private_repository(hub, ask, tmp_path):
    for token in (None, "wrong"):
        with pytest.raises(MissingSessionError, match="me/secret is not on the hub, or is private"):
            huggingface_dataset_file_download(
                str(tmp_path / "here"), "me/secret", "config/a.json", token, **ask
            )
        with pytest.raises(MissingSessionError, match="me/secret is not on the hub, or is private"):
            huggingface_dataset_download(str(tmp_path / "here"), "me/secret", "config", token, **ask)
    assert not (tmp_path / "here").exists()
    huggingface_dataset_download(str(tmp_path / "here"), "me/secret", "config", "reader", **ask)
    assert held(tmp_path / "here") == ["config/a.json"]


def test_without_a_network_the_cache_is_read(hub, ask, tmp_path, monkeypatch):
    huggingface_dataset_file_download(str(tmp_path / "first"), "me/world", "top.json", None, **ask)
    huggingface_dataset_download(str(tmp_path / "first"), "me/world", "config", None, **ask)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    huggingface_dataset_file_download(str(tmp_path / "second"), "me/world", "top.json", None, **ask)
    huggingface_dataset_download(str(tmp_path / "second"), "me/world", "config", None, **ask)
    assert held(tmp_path / "second") == held(tmp_path / "first") and len(hub.requests) == before
    with pytest.raises(MissingSessionError, match="no file other/c.json of me/world"):
        huggingface_dataset_file_download(str(tmp_path / "second"), "me/world", "other/c.json", None, **ask)
    with pytest.raises(MissingSessionError, match="x.json of me/other cannot be fetched without a network"):
        huggingface_dataset_file_download(str(tmp_path / "second"), "me/other", "x.json", None, **ask)
    with pytest.raises(MissingSessionError, match="HF_HUB_OFFLINE"):
        huggingface_dataset_file_exists("me/world", "top.json", None, endpoint=hub.url)


# Bad days

@pytest.mark.parametrize(
    "where",
    ["GET /api/datasets/me/world", "GET .*/tree/", "GET .*/resolve/.*b.bin"],
)
@pytest.mark.parametrize("code", [429, 500])
def test_a_busy_hub_is_asked_again(hub, ask, tmp_path, where, code):
    hub.fault(where, code, 2, Retry_After="0")
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    assert len(held(tmp_path / "here")) == 9 and (tmp_path / "here/config/deep/b.bin").read_bytes() == large


@pytest.mark.parametrize(
    "where",
    ["GET /api/datasets/me/world", "GET .*/tree/", "GET .*/resolve/.*b.bin"],
)
def test_a_hub_that_stays_down_is_said_so_and_nothing_is_half_written(hub, ask, tmp_path, where):
    (tmp_path / "here" / "config").mkdir(parents=True)
    (tmp_path / "here" / "config" / "old.txt").write_text("old")
    hub.fault(where, 500, 10**6)
    with pytest.raises(ConnectionError, match="500|nothing") as error:
        huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, clean=True, **ask)
    assert "\n" not in str(error.value) and held(tmp_path / "here") == ["config/old.txt"]
    hub.faults.clear()
    before = len(hub.requests)
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, clean=True, **ask)
    assert len(held(tmp_path / "here")) == 9 and len(hub.requests) > before


def refusal(status):
    "What huggingface_hub raises for an answer of the server."
    from huggingface_hub.errors import HfHubHTTPError
    response = SimpleNamespace(status_code=status, headers={"Retry-After": "0"}, request=None)
    return HfHubHTTPError(f"{status} Server Error", response=response)


def asked_of(*answers, **options):
    "(what `ask` returns or raises, how often the hub was called), for a hub with these answers."
    left = list(answers)

    def call():
        answer = left.pop(0)
        if isinstance(answer, Exception): raise answer
        return answer

    try: found = library.ask_hub(call, "me/world", "a.json", wait=.001, **options)
    except OSError as error: found = error
    return found, len(answers) - len(left)


def test_patience_is_counted():
    busy = (refusal(500), refusal(429), OSError("Consistency check failed"), "there")
    assert asked_of(*busy) == ("there", 4)
    given_up, calls = asked_of(*[refusal(503)] * 9, retries=2)
    assert isinstance(given_up, ConnectionError) and calls == 3


@pytest.mark.parametrize("error", ["no room", "missing", "offline", "no right", "bad request"])
def test_what_asking_again_does_not_help(error):
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
    answers = {
        "no room": OSError(28, "No space left on device"),
        "missing": EntryNotFoundError("404"),
        "offline": OfflineModeIsEnabled("no"),
        "no right": refusal(403),
        "bad request": refusal(400),
    }
    found, calls = asked_of(*[answers[error]] * 3, retries=2)
    assert isinstance(found, OSError) and calls == 1
    if error == "missing": assert "me/world has no a.json" in str(found)


def test_404_is_one_request(hub, ask, tmp_path):
    with pytest.raises(MissingSessionError, match="me/nobody is not on the hub"):
        huggingface_dataset_file_download(str(tmp_path), "me/nobody", "a.json", None, **ask)
    assert len(hub.requests) == 1


def test_a_file_that_is_cut_is_resumed(hub, ask, tmp_path):
    hub.fault("GET .*/resolve/.*b.bin", "cut", 3)
    huggingface_dataset_file_download(str(tmp_path / "here"), "me/world", "config/deep/b.bin", None, **ask)
    assert (tmp_path / "here/config/deep/b.bin").read_bytes() == large and len(hub.seen("GET .*b.bin")) == 4


def test_a_cut_that_does_not_end_leaves_nothing(hub, ask, tmp_path):
    hub.fault("GET .*/resolve/.*b.bin", "cut", 10**6)
    hub.fault("GET .*/resolve/.*b.bin", 500, 10**6)
    hub.faults[0][2] = 1
    with pytest.raises(ConnectionError):
        huggingface_dataset_file_download(
            str(tmp_path / "here"), "me/world", "config/deep/b.bin", None, **ask
        )
    assert not (tmp_path / "here").exists() and not list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_folder_goes_on_where_it_stopped(hub, ask, tmp_path):
    hub.fault("GET .*/resolve/.*b.bin", 404, 1)
    with pytest.raises(OSError):
        huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    assert not (tmp_path / "here").exists()
    hub.faults.clear()
    before = {name: len(hub.seen(f"GET .*resolve.*{name}")) for name in ("a.json", "b.bin")}
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    after = {name: len(hub.seen(f"GET .*resolve.*{name}")) for name in ("a.json", "b.bin")}
    assert (
        after["a.json"] == before["a.json"] == 1
        and after["b.bin"] == before["b.bin"] + 1
        and len(held(tmp_path / "here")) == 9
    )


@pytest.mark.parametrize("path", ["config/a.json", "config/deep/b.bin"])  # git blob and LFS
def test_a_damaged_file_is_refused_and_not_kept(hub, ask, tmp_path, path):
    hub.damaged.add(path)
    for call in (
        lambda: huggingface_dataset_file_download(str(tmp_path / "here"), "me/world", path, None, **ask),
        lambda: huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask),
    ):
        with pytest.raises(ForeignFileError, match=f"{path} of me/world is not what the hub states"): call()
    assert not (tmp_path / "here").exists()
    hub.damaged.clear()
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    assert len(held(tmp_path / "here")) == 9


def test_a_listing_that_is_cut(hub, ask, tmp_path):
    hub.fault("GET .*/tree/", "cut", 2)
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    assert len(held(tmp_path / "here")) == 9


def test_nobody_there(ask, tmp_path):
    with pytest.raises(ConnectionError, match="breaks off"):
        huggingface_dataset_file_download(
            str(tmp_path / "here"), "me/world", "top.json", None, **{**ask, "endpoint": "http://127.0.0.1:9"}
        )


def test_a_commit_in_between_does_not_mix_two_versions(hub, ask):
    old = hub.repositories["datasets/me/world"].sha
    hub.repositories["datasets/me/world"].commit({"config/a.json": b"new"})
    found = pull("me/world", ["config/a.json", "absent"], revision=old, **ask)
    assert {p: f.read_bytes() for p, f in found.items()} == {"config/a.json": small}
    assert pull("me/world", ["config/a.json"], **ask)["config/a.json"].read_bytes() == b"new"


@pytest.mark.parametrize("said", ["../../../../EVIL", "/EVIL", ""])
def test_a_hub_does_not_choose_a_path(hub, ask, tmp_path, monkeypatch, said):
    "Neither by the ETag and the commit of an answer, nor by what it lists."
    from fake_hub import Handler
    plain = Handler.send

    def send(self, status, body=b"", cut=False, **headers):
        names = {"ETag": f'"{said}"', "X_Linked_Etag": f'"{said}"', "X_Repo_Commit": said}
        return plain(self, status, body, cut, **{n: names.get(n, v) for n, v in headers.items()})

    monkeypatch.setattr(Handler, "send", send)
    huggingface_dataset_file_download(str(tmp_path / "here"), "me/world", "config/a.json", None, **ask)
    entry = Handler.entry
    monkeypatch.setattr(Handler, "entry", lambda self, *a: {**entry(self, *a), "oid": said})
    with pytest.raises(ForeignFileError, match="for the checksum of top.json"):
        huggingface_dataset_file_download(str(tmp_path / "here"), "me/world", "top.json", None, **ask)
    assert held(tmp_path / "here") == ["config/a.json"]
    assert {p.name for p in tmp_path.iterdir()} == {"here", "cache"}
    assert not [p for p in tmp_path.parent.rglob("EVIL*")]


@pytest.mark.parametrize(
    "listing", [[{"path": "a"}], {"a": 1}, [1], None, [{"type": "file", "path": 3, "size": "x"}]], ids=str
)
def test_an_odd_listing_is_one_line(hub, ask, tmp_path, monkeypatch, listing):
    from fake_hub import Handler
    monkeypatch.setattr(Handler, "tree", lambda self, *_: self.send(200, listing))
    with pytest.raises((ConnectionError, ForeignFileError, MissingSessionError, ValueError)) as error:
        huggingface_dataset_download(str(tmp_path / "here"), "me/world", "config", None, **ask)
    assert "\n" not in str(error.value) and not (tmp_path / "here").exists()


# Writing

def test_upload_a_file(hub, tmp_path):
    (tmp_path / "x.json").write_bytes(small)
    (tmp_path / "x.bin").write_bytes(large)
    for name in ("x.json", "x.bin"):
        huggingface_dataset_file_upload(
            str(tmp_path / name), "me/world", f"new/{name}", "writer", endpoint=hub.url
        )
    assert [hub.repositories["datasets/me/world"].files[f"new/{n}"] for n in ("x.json", "x.bin")] == [
        small,
        large,
    ] and "top.json" in hub.repositories["datasets/me/world"].files
    assert hashlib.sha256(large).hexdigest() in hub.large  # as LFS
    with pytest.raises(PermissionError, match="does not let this token"):
        huggingface_dataset_file_upload(
            str(tmp_path / "x.json"), "me/world", "new/y.json", "reader", endpoint=hub.url
        )
    with pytest.raises(MissingSessionError, match="me/nobody is not on the hub"):
        huggingface_dataset_file_upload(
            str(tmp_path / "x.json"), "me/nobody", "new/y.json", "writer", endpoint=hub.url
        )


def folder_of(tmp_path, n=7):
    (tmp_path / "mine" / "set" / "deep").mkdir(parents=True)
    for i in range(n): (tmp_path / "mine" / "set" / f"{i}.txt").write_text(f"text {i}")
    (tmp_path / "mine" / "set" / "deep" / "b.bin").write_bytes(large)
    (tmp_path / "mine" / "set" / ".partial-x").write_text("half")
    return {f"set/{i}.txt" for i in range(n)} | {"set/deep/b.bin"}


def test_upload_a_folder_in_commits_and_download_it_again(hub, ask, tmp_path, monkeypatch):
    wanted = folder_of(tmp_path)
    monkeypatch.setattr(library, "COMMIT_FILES", 3)
    huggingface_dataset_upload(str(tmp_path / "mine"), "me/world", "set", "writer", endpoint=hub.url)
    assert {p for p in hub.repositories["datasets/me/world"].files if p.startswith("set/")} == wanted and len(
        hub.seen("/commit/")
    ) == 3
    huggingface_dataset_download(str(tmp_path / "here"), "me/world", "set", None, **ask)
    assert all((tmp_path / "here" / p).read_bytes() == (tmp_path / "mine" / p).read_bytes() for p in wanted)
    huggingface_dataset_upload(str(tmp_path / "mine"), "me/world", "set", "writer", endpoint=hub.url)
    assert len(hub.seen("/commit/")) == 3  # nothing is sent twice
    (tmp_path / "mine/set/0.txt").write_text("other")
    huggingface_dataset_upload(str(tmp_path / "mine"), "me/world", "set", "writer", endpoint=hub.url)
    assert (
        len(hub.seen("/commit/")) == 4
        and hub.repositories["datasets/me/world"].files["set/0.txt"] == b"other"
    )


@pytest.mark.parametrize(
    "where", ["POST .*/commit/", "POST .*/preupload/", "PUT /lfs/", "POST .*/objects/batch"]
)
@pytest.mark.parametrize("code", [429, 500])
def test_an_upload_is_patient(hub, tmp_path, where, code):
    wanted = folder_of(tmp_path)
    hub.fault(where, code, 2)
    huggingface_dataset_upload(str(tmp_path / "mine"), "me/world", "set", "writer", endpoint=hub.url)
    assert wanted <= set(hub.repositories["datasets/me/world"].files)


def test_a_broken_upload_goes_on(hub, tmp_path, monkeypatch):
    folder_of(tmp_path)
    monkeypatch.setattr(library, "COMMIT_FILES", 3)
    broken = iter([False, True])
    real = hub.repositories["datasets/me/world"].commit
    def commit(files):
        if next(broken, False): hub.fault("POST .*/commit/", 500, 10**6)
        return real(files)
    monkeypatch.setattr(hub.repositories["datasets/me/world"], "commit", commit)
    with pytest.raises(ConnectionError, match="6 of 8 files are there, and another call sends the rest"):
        huggingface_dataset_upload(str(tmp_path / "mine"), "me/world", "set", "writer", endpoint=hub.url)
    hub.faults.clear()
    sent = len(hub.seen("/commit/"))
    huggingface_dataset_upload(str(tmp_path / "mine"), "me/world", "set", "writer", endpoint=hub.url)
    assert (
        len(hub.seen("/commit/")) == sent + 1
        and sum(p.startswith("set/") for p in hub.repositories["datasets/me/world"].files) == 8
    )


def test_too_many_files_are_counted_before_anything_is_sent(hub, tmp_path, monkeypatch):
    folder_of(tmp_path)
    monkeypatch.setattr(library, "FOLDER_LIMIT", 7)
    with pytest.raises(ValueError, match="the folder set would have 8 entries and the hub takes 7"):
        huggingface_dataset_upload(str(tmp_path / "mine"), "me/world", "set", "writer", endpoint=hub.url)
    assert not hub.requests
    monkeypatch.setattr(library, "FOLDER_LIMIT", 9)  # what is there counts too
    with pytest.raises(ValueError, match="the folder config would have 10 entries"):
        push(
            "me/world",
            {f"config/x{i}": tmp_path / "mine/set/0.txt" for i in range(1)},
            token="writer",
            endpoint=hub.url,
        )
    assert not hub.seen("POST")


# Edits and models

@pytest.mark.parametrize("kind", ["weights", "lora"])
def test_an_edit_goes_to_the_hub_and_comes_back(hub, tmp_path, monkeypatch, kind):
    import torch
    from huggingface_hub import ModelCard

    from vision_unlearning.cards import evaluation
    from vision_unlearning.models import tiny_pipeline
    from vision_unlearning.unlearners.base import Edit, load_edit
    from vision_unlearning.unlearners.diffusion.lora import adapter_edit, trainable_adapter
    from vision_unlearning.unlearners.diffusion.uce import UCE
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    pipe, at = tiny_pipeline(), dict(token="writer", endpoint=hub.url)
    if kind == "weights": edit = UCE().unlearn(pipe, "fox")
    else:
        with trainable_adapter(pipe.unet, 2, 2.) as (_, config):
            edit = adapter_edit(pipe.unet, config, {"method": "lesson", "forget": ["fox"]})
    edit.info["base_model"] = "somebody/some-model"
    results = [evaluation("recognised", .125, "emoji, fox")]
    address = edit.push_to_hub("me/no-fox", results=results, **at)
    held = hub.repositories["models/me/no-fox"]
    assert (
        address == f"{hub.url}/me/no-fox/tree/{held.sha}"
        and not held.private
        and set(held.files) == {"README.md", "edit.json", edit.file}
    )
    card = ModelCard(held.files["README.md"].decode())
    assert (
        card.data.base_model == "somebody/some-model"
        and card.data.eval_results[0].metric_value == 0.125
        and "forget fox" in card.text
        and "What this does not show" in card.text
    )
    for loaded in (
        load_edit("me/no-fox", endpoint=hub.url),
        Edit.from_pretrained("me/no-fox", endpoint=hub.url),
    ):
        assert (
            loaded.kind == kind
            and loaded.info == edit.info
            and set(loaded.tensors) == set(edit.tensors)
            and all(torch.equal(t, edit.tensors[n]) for n, t in loaded.tensors.items())
        )
    first = held.sha
    edit.info["note"] = "second"
    edit.push_to_hub("me/no-fox", **at)
    assert (
        load_edit("me/no-fox", endpoint=hub.url).info["note"] == "second"
        and "note" not in load_edit("me/no-fox", revision=first, endpoint=hub.url).info
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert load_edit("me/no-fox", endpoint=hub.url).info["note"] == "second" and len(hub.requests) == before


def test_a_private_edit(hub, tmp_path, monkeypatch):
    import torch

    from vision_unlearning.unlearners.base import WeightEdit, load_edit
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    WeightEdit({"a": torch.ones(2)}).push_to_hub("me/hidden", private=True, token="writer", endpoint=hub.url)
    assert hub.repositories["models/me/hidden"].private
    with pytest.raises(
        FileNotFoundError, match="me/hidden is no folder, and me/hidden is not on the hub, or is private"
    ):
        load_edit("me/hidden", endpoint=hub.url)
    assert load_edit("me/hidden", token="reader", endpoint=hub.url).tensors["a"].tolist() == [1, 1]
    with pytest.raises(PermissionError):
        WeightEdit({"a": torch.zeros(2)}).push_to_hub("me/hidden", token="reader", endpoint=hub.url)
    hub.add("me/other", {"README.md": "---\n---\n"}, kind="models")
    with pytest.raises(ForeignFileError, match="me/other holds no edit"):
        load_edit("me/other", endpoint=hub.url)


def test_a_pipeline_goes_to_the_hub_with_its_card(hub, tmp_path):
    import torch

    from vision_unlearning.hub import push_folder
    from vision_unlearning.models import load_pipeline, tiny_pipeline
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    push_folder(tmp_path / "tiny", "me/tiny", token="writer", endpoint=hub.url)
    fetched = pull("me/tiny", repo_type="model", folder_cache=tmp_path / "cache", endpoint=hub.url)
    other = load_pipeline(str(fetched["model_index.json"].parent))
    assert "README.md" in fetched and all(
        torch.equal(a, b) for a, b in zip(pipe.unet.state_dict().values(), other.unet.state_dict().values())
    )
    with pytest.raises(MissingSessionError, match="nothing to send"):
        push_folder(tmp_path / "nowhere", "me/tiny", token="writer", endpoint=hub.url)


def test_an_erasure_goes_to_the_hub(hub, tmp_path):
    from vision_unlearning.running import erase
    from vision_unlearning.store import write_json
    folder = tmp_path / "erasure"
    write_json(folder / "erasure.json", {"go": True, "reasons": []})
    (folder / "README.md").write_text("---\ntags: [x]\n---\n# fox\n")
    (folder / "token.txt").write_text("secret")
    address = erase.push_to_hub(folder, "me/fox", token="writer", endpoint=hub.url)
    held = hub.repositories["models/me/fox"]
    assert held.private and set(held.files) == {"README.md", "erasure.json"} and address.endswith(held.sha)
