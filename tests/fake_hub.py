"""A small hub on this machine: the parts of the protocol that huggingface_hub 2.4 speaks with us, and faults
that can be switched on.

It holds repositories with commits; files above `lfs_from` bytes are LFS, others are git blobs.
Xet is not spoken: switch it off in the client.
"""
import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

# The content of files: one that is LFS, and one that is a git blob.
LARGE, SMALL = bytes(range(256))*8, b"[1, 2]"


class Repository:
    "Files by commit; the last commit is `main`."
    def __init__(self, private=False): self.private, self.commits = private, [("0" * 40, {})]

    @property
    def sha(self): return self.commits[-1][0]
    @property
    def files(self): return self.commits[-1][1]
    def at(self, revision): return self.files if revision == "main" else dict(self.commits).get(revision)

    def commit(self, files):
        self.commits.append(
            (
                hashlib.sha1(f"{self.sha}{sorted(files)}{len(self.commits)}".encode()).hexdigest(),
                {**self.files, **files},
            )
        )
        return self.sha


class FakeHub(ThreadingHTTPServer):
    """`with FakeHub() as hub: ... hub.url`; tokens: `reader` may read private repositories, `writer` may also
    write."""
    daemon_threads = True

    def __init__(self, page=3, lfs_from=100):
        super().__init__(("127.0.0.1", 0), Handler)
        self.page, self.lfs_from, self.repositories, self.large = page, lfs_from, {}, {}
        self.requests, self.faults, self.lock, self.damaged = [], [], threading.Lock(), set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.thread.join()

    def add(self, repo_id, files=None, kind="datasets", private=False):
        repository = self.repositories[f"{kind}/{repo_id}"] = Repository(private)
        repository.commit(
            {path: text.encode() if isinstance(text, str) else text for path, text in (files or {}).items()}
        )
        return repository

    def fault(self, pattern, action, times=1, **headers):
        """The next `times` requests that match 'METHOD /path' answer with this status, or break off halfway
        ('cut')."""
        self.faults.append([re.compile(pattern), action, times, headers])

    def seen(self, pattern): return [r for r in self.requests if re.search(pattern, r)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self): self.answer()
    def do_HEAD(self): self.answer()
    def do_POST(self): self.answer()
    def do_PUT(self): self.answer()

    # Sending

    def send(self, status, body=b"", cut=False, **headers):
        body = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD": return
        self.wfile.write(body[:len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self.close_connection = True

    def refuse(self, status, code=None, text=""):
        self.send(
            status,
            {"error": text or code or str(status)},
            **({"X_Error_Code": code} if code else {}),
            X_Error_Message=text or code or str(status),
        )

    # Deciding

    def answer(self):
        hub, parts = self.server, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.path, self.query, self.cutting = unquote(parts.path), parse_qs(parts.query), False
        with hub.lock:
            hub.requests.append(line := f"{self.command} {self.path}")
            fault = next((f for f in hub.faults if f[2] and f[0].search(line)), None)
            if fault: fault[2] -= 1
        if fault and fault[1] != "cut": return self.send(fault[1], {"error": "a bad day"}, **fault[3])
        self.cutting = bool(fault)
        try: self.route(body)
        except (BrokenPipeError, ConnectionResetError): self.close_connection = True

    def route(self, body):
        kinds = "(models|datasets)"
        routes = (
            (rf"/api/{kinds}/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
            (rf"/api/{kinds}/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", self.tree),
            (rf"/api/{kinds}/([^/]+/[^/]+)/paths-info/([^/]+)", self.paths),
            (rf"/api/{kinds}/([^/]+/[^/]+)/preupload/([^/]+)", self.preupload),
            (rf"/api/{kinds}/([^/]+/[^/]+)/commit/([^/]+)", self.commit),
            (r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch()", self.batch),
        )
        if self.path == "/api/validate-yaml":
            return self.send(
                200 if json.loads(body)["content"].startswith("---\n") else 400,
                {"warnings": [], "errors": []},
            )
        if self.path == "/api/repos/create": return self.create(json.loads(body))
        if self.path.startswith("/lfs/"): return self.store(self.path.removeprefix("/lfs/"), body)
        for pattern, serve in routes:
            if not (found := re.fullmatch(pattern, self.path)): continue
            kind, name, revision, *rest = found.groups()
            repository, token = self.server.repositories.get(f"{kind or 'models'}/{name}"), self.token()
            if repository is None or repository.private and token is None:
                # the client knows a 401 without the code under https only
                return self.refuse(401, "RepoNotFound", "Invalid username or password.")
            if serve in (self.preupload, self.commit, self.batch) and token != "writer":
                return self.refuse(403, text="this token may not write")
            if (
                serve in (self.info, self.tree, self.paths, self.resolve)
                and repository.at(revision or "main") is None
            ):
                return self.refuse(404, "RevisionNotFound")
            return serve(
                repository, revision or "main", *rest, **({"body": body} if self.command == "POST" else {})
            )
        self.refuse(404, text=f"this hub does not know {self.path}")

    def token(self):
        return {"Bearer reader": "reader", "Bearer writer": "writer"}.get(self.headers.get("Authorization"))

    # Reading

    def entry(self, path, content):
        large = len(content) >= self.server.lfs_from
        blob = (
            "version https://git-lfs.github.com/spec/v1\noid "
            f"sha256:{hashlib.sha256(content).hexdigest()}\nsize {len(content)}\n".encode()
            if large
            else content
        )
        found = {
            "type": "file",
            "path": path,
            "size": len(content),
            "oid": hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest(),
        }
        return (
            {
                **found,
                "lfs": {
                    "oid": hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "pointerSize": len(blob),
                },
            }
            if large
            else found
        )

    def info(self, repository, revision):
        self.send(
            200,
            {
                "id": "/".join(self.path.split("/")[3:5]),
                "sha": repository.sha if revision == "main" else revision,
                "private": repository.private,
                "tags": [],
                "siblings": [],
            },
        )

    def tree(self, repository, revision, folder):
        files, prefix = repository.at(revision), f"{folder}/" if folder else ""
        entries = {p: self.entry(p, c) for p, c in files.items() if p.startswith(prefix)}
        if folder and not entries: return self.refuse(404, "EntryNotFound")
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            direct = {p: e for p, e in entries.items() if "/" not in p[len(prefix):]}
            folders = {prefix + p[len(prefix):].split("/")[0] for p in entries} - set(direct)
            entries = {
                **direct,
                **{
                    p: {"type": "directory", "path": p, "oid": hashlib.sha1(p.encode()).hexdigest()}
                    for p in folders
                },
            }
        start, ordered = int(self.query.get("cursor", ["0"])[0]), sorted(entries)
        page, more = ordered[start:start + self.server.page], start + self.server.page < len(ordered)
        recursive = self.query.get("recursive", ["false"])[0]
        following = f"recursive={recursive}&cursor={start + self.server.page}"
        link = f"{self.server.url}{urlsplit(self.path).path}?{following}"
        self.send(
            200,
            [entries[p] for p in page],
            cut=self.cutting,
            **({"Link": f'<{link}>; rel="next"'} if more else {}),
        )

    def paths(self, repository, revision, body):
        asked = parse_qs(body.decode()).get("paths", [])
        self.send(
            200, [self.entry(p, repository.at(revision)[p]) for p in asked if p in repository.at(revision)]
        )

    def resolve(self, repository, revision, path):
        commit = repository.sha if revision == "main" else revision
        if path not in repository.at(revision):
            return self.send(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = repository.at(revision)[path]
        entry = self.entry(path, content)
        headers = {"X_Repo_Commit": commit, "ETag": f'"{entry["oid"]}"', "Accept_Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X_Linked_Etag": f'"{entry["lfs"]["oid"]}"', "X_Linked_Size": str(len(content))}
        if path in self.server.damaged: content = bytes(b ^ 255 for b in content)
        start = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if start: headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206 if start else 200, content[start:], cut=self.cutting, **headers)

    # Writing

    def create(self, asked):
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        key = f"{asked.get('type') or 'model'}s/{name}"
        if self.token() != "writer": return self.refuse(401, text="Invalid username or password.")
        made = {"url": f"{self.server.url}/{key.removeprefix('models/')}"}
        if key in self.server.repositories: return self.send(409, made)
        self.server.repositories[key] = Repository(
            asked.get("private") or asked.get("visibility") == "private"
        )
        self.send(200, made)

    def preupload(self, repository, revision, body):
        lfs = lambda f: f["size"] >= self.server.lfs_from
        self.send(
            200,
            {
                "files": [
                    {"path": f["path"], "uploadMode": "lfs" if lfs(f) else "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
            },
        )

    def batch(self, repository, revision, body):
        objects = [
            {
                "oid": o["oid"],
                "size": o["size"],
                **(
                    {}
                    if o["oid"] in self.server.large
                    else {"actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}}
                ),
            }
            for o in json.loads(body)["objects"]
        ]
        self.send(200, {"transfer": "basic", "objects": objects})

    def store(self, oid, body):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, text="not the content of that name")
        self.server.large[oid] = body
        self.send(200)

    def commit(self, repository, revision, body):
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"
        }
        files |= {
            v["value"]["path"]: self.server.large[v["value"]["oid"]] for v in lines if v["key"] == "lfsFile"
        }
        with self.server.lock: sha = repository.commit(files)
        page = self.path.removeprefix("/api/").removeprefix("models/").partition("/commit/")[0]
        self.send(
            200,
            {
                "commitUrl": f"{self.server.url}/{page}/commit/{sha}",
                "commitOid": sha,
                "success": True,
            },
        )
