"""A download on bad days: a server on this machine that is told what will go wrong with each request."""
import hashlib
import io
import re
import stat
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vision_unlearning.core import ForeignFileError
from vision_unlearning.download import fetch, unpack_archive, verify

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = dict(progress=False, wait=.001)


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_): pass

    def do_GET(self):
        server, body, asked = self.server, self.server.content, self.headers.get("Range")
        fault = server.faults.pop(0) if server.faults else None
        server.ranges.append(asked)
        same = self.headers.get("If-Range", server.tag) == server.tag
        start = int(asked[6:-1]) if asked and server.tag and same else 0
        code = 206 if start else 200
        if start >= len(body): code = 416
        if isinstance(fault, int): code = fault
        self.send_response(code)
        if code == 429: self.send_header("Retry-After", "0")
        if code == 206: self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if code == 416: self.send_header("Content-Range", f"bytes */{len(body)}")
        if server.tag: self.send_header("ETag", server.tag)
        body = body[start:] if code < 400 else b""
        if fault == "odd length": self.send_header("Content-Length", "abc")
        elif fault != "endless": self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "slow": time.sleep(.3)
        if fault == "endless": body = body * 9
        if fault == "drips":
            self.wfile.write(body[:9])
            time.sleep(.2)
            body = body[9:18]
        self.wfile.write(body[:len(body) // 2] if fault == "cut" else body)


class Server(ThreadingHTTPServer):
    "Serves `content` under `tag`; `faults` are used up one a request, `ranges` are what was asked for."
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.tag = '"1"'
        self.faults = []
        self.ranges = []
        self.url = f"http://127.0.0.1:{self.server_port}/faces.zip"

    def will(self, *faults):
        "What goes wrong with the next requests; what was asked before is forgotten."
        self.faults[:] = faults
        self.ranges.clear()


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_errors_and_cuts_are_outlived(server, tmp_path):
    server.will(500, 429, "cut", "cut", 503)
    target = fetch(server.url, tmp_path / "faces.zip", sha256=DIGEST, size=len(CONTENT), **QUICK)
    assert target.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["faces.zip"]
    # each cut halves what is missing
    assert server.ranges == [None, None, None, "bytes=5120-", "bytes=7680-", "bytes=7680-"]


def test_a_file_that_is_there_is_not_asked_for(server, tmp_path):
    fetch(server.url, tmp_path / "faces.zip", **QUICK)
    server.will()
    fetch(server.url, tmp_path / "faces.zip", sha256=DIGEST, **QUICK)
    assert server.ranges == []


@pytest.mark.parametrize(
    "code, said", [(404, "is not there (404)"), (403, "is not public (403)"), (400, "is refused with 400")]
)
def test_a_refusal_is_one_request(server, tmp_path, code, said):
    server.will(code)
    with pytest.raises(OSError, match=re.escape(said)): fetch(server.url, tmp_path / "x.zip", **QUICK)
    assert len(server.ranges) == 1 and not list(tmp_path.iterdir())


def test_patience_ends(server, tmp_path):
    server.will(*[500] * 9)
    with pytest.raises(OSError, match="answered 500; given up after 3 attempts"):
        fetch(server.url, tmp_path / "x.zip", retries=2, **QUICK)
    assert len(server.ranges) == 3 and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is no http address"):
        fetch("file:///etc/passwd", tmp_path / "x.zip", **QUICK)


def give_up(server, path, **options):
    "A download that stops halfway."
    server.will("cut", 500, 500)
    with pytest.raises(OSError, match=f"5,120 bytes are kept in {path.name}.part"):
        fetch(server.url, path, retries=2, **options, **QUICK)
    assert not path.exists()
    server.will()


def test_given_up_halfway_the_next_call_goes_on(server, tmp_path):
    path = tmp_path / "y.zip"
    give_up(server, path)
    fetch(server.url, path, **QUICK)
    assert server.ranges == ["bytes=5120-"] and path.read_bytes() == CONTENT


def test_a_file_that_was_replaced_starts_again(server, tmp_path):
    path = tmp_path / "y.zip"
    give_up(server, path)
    server.tag, server.content = '"2"', CONTENT[::-1]
    assert fetch(server.url, path, **QUICK).read_bytes() == CONTENT[::-1]


def test_a_part_that_nothing_vouches_for_is_not_continued(server, tmp_path):
    path = tmp_path / "y.zip"
    server.tag = None
    give_up(server, path)
    fetch(server.url, path, **QUICK)
    assert server.ranges == [None]
    assert verify(path, size=len(CONTENT)).read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["y.zip"]


def test_the_wrong_file_is_deleted(server, tmp_path):
    with pytest.raises(ForeignFileError, match="z.zip has 10,240 bytes at its source and not 999"):
        fetch(server.url, tmp_path / "z.zip", size=999, **QUICK)
    with pytest.raises(ForeignFileError, match="what arrived is deleted"):
        fetch(server.url, tmp_path / "z.zip", sha256="0" * 64, **QUICK)
    assert not list(tmp_path.iterdir())


def test_a_part_of_something_longer_is_dropped(server, tmp_path):
    (tmp_path / "z.zip.part").write_bytes(bytes(99999))
    (tmp_path / "z.zip.tag").write_text(server.tag)
    assert fetch(server.url, tmp_path / "z.zip", **QUICK).read_bytes() == CONTENT
    assert server.ranges == ["bytes=99999-", None]
    assert [p.name for p in tmp_path.iterdir()] == ["z.zip"]


def test_no_more_bytes_than_there_are(server, tmp_path):
    server.will("endless")
    with pytest.raises(ForeignFileError, match="goes on after 10,240 bytes"):
        fetch(server.url, tmp_path / "z.zip", size=len(CONTENT), **QUICK)
    assert not list(tmp_path.glob("*.zip*"))
    server.will("odd length")
    assert fetch(server.url, tmp_path / "z.zip", **QUICK).read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_a_few_bytes_now_and_then_are_not_enough(server, tmp_path, monkeypatch):
    from vision_unlearning import download
    monkeypatch.setattr(download, "WINDOW", .1)
    monkeypatch.setattr(download, "SLOWEST", 1e9)
    server.will("drips", "drips")
    said = "sends less than 1,000,000,000 bytes a second; given up after 2"
    with pytest.raises(ConnectionError, match=said):
        fetch(server.url, tmp_path / "z.zip", retries=1, **QUICK)


def test_two_that_fetch_one_file(server, tmp_path, capsys):
    (tmp_path / "z.zip.part").write_bytes(CONTENT[:3000])
    (tmp_path / "z.zip.tag").write_text(server.tag)
    server.will("slow")
    both = [threading.Thread(target=fetch, args=(server.url, tmp_path / "z.zip"), kwargs=QUICK) for _ in "ab"]
    for one in both: one.start()
    for one in both: one.join()
    assert server.ranges == ["bytes=3000-"] and (tmp_path / "z.zip").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["z.zip"]
    assert "another process fetches z.zip; waiting" in capsys.readouterr().err


def test_a_key_is_repeated_to_the_same_server_only(server):
    from urllib.request import Request

    from vision_unlearning.download import _SameServer
    request = Request("http://here.org/a")
    request.add_unredirected_header("Authorization", "Bearer key")
    for place, sent in (("http://here.org", True), ("http://there.org", False), ("https://here.org", False)):
        new = _SameServer().redirect_request(request, None, 302, "Found", {}, f"{place}/b")
        assert new.has_header("Authorization") is sent


FILES = {"lfw/Ann/1.jpg": CONTENT * 9, "lfw/list.txt": b"Ann 1"}


def pack(path, files):
    "An archive of the kind that the name of `path` says; `files`: name or member -> content."
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items(): archive.writestr(name, content)
        return path
    compression = path.suffix.removeprefix(".").replace("tar", "")
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, content in files.items():
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_archives_are_unpacked_whole_or_not_at_all(form, tmp_path):
    archive, out = pack(tmp_path / form, FILES), tmp_path / "out"
    unpack_archive(archive, out)
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == FILES
    archive.write_bytes(archive.read_bytes()[:-archive.stat().st_size // 2])
    with pytest.raises(ForeignFileError, match="fetch it again"): unpack_archive(archive, out)
    # the older folder is still there, and nothing half-written beside it
    assert (out / "lfw/list.txt").read_bytes() == b"Ann 1"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".partial")]


def special(name, kind, to=""):
    "A member of a tar archive that is no file."
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def link_in_zip():
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return link


@pytest.mark.parametrize(
    "form, said, files",
    [
        ("slip.zip", "not a path inside a folder", {"good.txt": b"1", "../evil.txt": b"2"}),
        ("root.tar", "not a path inside a folder", {"/evil.txt": b"2"}),
        ("slip.tar.gz", "not a path inside a folder", {"a/../../evil.txt": b"2"}),
        ("link.tar", "a link or a device", {special("l", tarfile.SYMTYPE, "/etc"): b"", "l/evil.txt": b"2"}),
        ("hard.tar", "a link or a device", {special("h", tarfile.LNKTYPE, "../abc.txt"): b""}),
        ("device.tar", "a link or a device", {special("d", tarfile.CHRTYPE): b""}),
        ("link.zip", "a link or a device", {link_in_zip(): b"/etc"}),
        ("empty.zip", "holds no files", {}),
        ("twice.tar", "holds 'a.txt' twice", {special("a.txt", tarfile.REGTYPE): b"1", "a.txt": b"2"}),
        ("both.tar", "holds 'a/b.txt' twice", {"a": b"1", "a/b.txt": b"2"}),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_nothing_of_an_attack_is_written(form, said, files, tmp_path):
    archive = pack(tmp_path / form, files)
    with pytest.raises(ValueError, match=said): unpack_archive(archive, tmp_path / "evil")
    assert [p.name for p in tmp_path.iterdir()] == [form]
    assert not list(tmp_path.parent.rglob("evil.txt"))
