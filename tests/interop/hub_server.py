"""A stand-in for the Hugging Face Hub on the loopback: repositories in memory, and their faults."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

from hermes.interop.hub import HubName, fetch

TOKEN = "hf_thisIsASecretNobodyMayRead"
LARGE = (".safetensors",)

NAME = HubName("me/small")
# The advice in errors about missing permissions.
MAY = "give a token that may, in HF_TOKEN or by 'hf auth login'"


def fetch_to(hub, tmp_path, name=NAME):
    """Fetch a model into a cache of the test's own."""
    return fetch(name, endpoint=hub.url, cache=tmp_path / "cache")


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """commits: each a mapping of name to bytes, the last one main."""

    commits: list = field(default_factory=lambda: [{}])
    private: bool = False
    gated: bool = False

    def sha(self, number=-1):
        number %= len(self.commits)
        return hashlib.sha1(repr((number, sorted(self.commits[number]))).encode()).hexdigest()

    def files(self, revision):
        if revision == "main":
            return self.sha(), self.commits[-1]
        for number, files in enumerate(self.commits):
            if self.sha(number) == revision:
                return revision, files
        return None


@dataclass
class Hub:
    """repos by name; writers: names that TOKEN may write to; asked: every request's line.

    cut: names of files whose body ends half way; altered: whose bytes are others; down: what the
    server answers to everything, where it is not None.
    """

    repos: dict = field(default_factory=dict)
    writers: tuple = ("me",)
    asked: list = field(default_factory=list)
    cut: tuple = ()
    altered: tuple = ()
    down: int | None = None
    blobs: dict = field(default_factory=dict)
    url: str = ""


@contextmanager
def serving():
    """A running stand-in, its address in `url`."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._route("HEAD")

    def do_GET(self):
        self._route("GET")

    def do_POST(self):
        self._route("POST")

    def do_PUT(self):
        self._route("PUT")

    def _json(self, body, status=200, **headers):
        self._send(json.dumps(body).encode(), status, **headers)

    def _send(self, data, status=200, *, whole=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(whole if whole is not None else data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            if whole is not None and len(whole) != len(data):
                self.close_connection = True

    def _refuse(self, status, code=""):
        # A careless server might say back what it was told.
        said = f"refused, you sent {self.headers.get('Authorization')}"
        self._json({"error": said}, status, X_Error_Code=code, X_Error_Message=said)

    def _route(self, method):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{method} {path}")
        if self.hub.down is not None:
            return self._refuse(self.hub.down)
        self.known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for pattern, handle in ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return handle(self, body, **found.groupdict())
        return self._refuse(404)

    def _repo(self, name, revision="main"):
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.known):
            self._refuse(404 if self.known else 401, "RepoNotFound")
            return None
        if repo.gated:
            self._refuse(403, "GatedRepo")
            return None
        found = repo.files(revision)
        if found is None:
            self._refuse(404, "RevisionNotFound")
        return found

    def info(self, body, repo, revision="main"):
        if found := self._repo(repo, revision):
            sha, files = found
            self._json(
                {"id": repo, "sha": sha, "siblings": [_listed(n, d) for n, d in files.items()]}
            )

    def tree(self, body, repo, revision):
        if found := self._repo(repo, revision):
            self._json([_listed(name, data, "path") for name, data in found[1].items()])

    def resolve(self, body, repo, revision, file):
        if not (found := self._repo(repo, revision)):
            return
        sha, files = found
        if file not in files:
            return self._refuse(404, "EntryNotFound")
        data = files[file]
        etag = hashlib.sha256(data).hexdigest() if file.endswith(LARGE) else git_hash(data)
        headers = {"X_Repo_Commit": sha, "ETag": f'"{etag}"'}
        if file in self.hub.altered:
            data = bytes([data[0] ^ 1]) + data[1:]
        sent = data[: len(data) // 2] if file in self.hub.cut else data
        self._send(sent, whole=data, **headers)

    def who(self, body):
        if not self.known:
            return self._refuse(401)
        self._json({"name": "me", "type": "user", "orgs": []})

    def create(self, body):
        wanted = json.loads(body)
        owner = wanted.get("organization") or "me"
        name = f"{owner}/{wanted['name']}"
        if not self.known:
            return self._refuse(401)
        if owner not in self.hub.writers:
            return self._refuse(403)
        if name in self.hub.repos:
            return self._json({"url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repos[name] = Repo(private=wanted.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def preupload(self, body, repo, revision):
        if self._may_write(repo):
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            self._json({"files": [{"path": f["path"], "shouldIgnore": False,
                                   "uploadMode": modes[f["path"].endswith(LARGE)]}
                                  for f in files]})  # fmt: skip

    def batch(self, body, repo):
        if self._may_write(repo):
            objects = [{"oid": one["oid"], "size": one["size"], "authenticated": True,
                        "actions": {"upload": {"href": f"{self.hub.url}/blob/{one['oid']}",
                                               "header": {}}}}
                       for one in json.loads(body)["objects"]]  # fmt: skip
            self._json({"transfer": "basic", "objects": objects})

    def blob(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._send(b"")

    def commit(self, body, repo, revision):
        if not self._may_write(repo):
            return
        files = dict(self.hub.repos[repo].commits[-1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.hub.repos[repo].commits.append(files)
        sha = self.hub.repos[repo].sha()
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def card(self, body):
        self._json({"errors": [], "warnings": []})

    def _may_write(self, repo):
        if self.known and repo.partition("/")[0] in self.hub.writers:
            return True
        self._refuse(403 if self.known else 401)
        return False


def _listed(name, data, key="rfilename"):
    entry = {key: name, "size": len(data), "type": "file"}
    entry["oid" if key == "path" else "blobId"] = git_hash(data)
    if name.endswith(LARGE):
        entry["lfs"] = {"size": len(data), "pointerSize": 100}
        entry["lfs"]["oid" if key == "path" else "sha256"] = hashlib.sha256(data).hexdigest()
    return entry


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[\w.-]+)"
ROUTES = [
    (rf"GET /api/models/{REPO}", _Handler.info),
    (rf"GET /api/models/{REPO}/revision/{REVISION}", _Handler.info),
    (rf"GET /api/models/{REPO}/tree/{REVISION}", _Handler.tree),
    (rf"(GET|HEAD) /{REPO}/resolve/{REVISION}/(?P<file>.+)", _Handler.resolve),
    (r"GET /api/whoami-v2", _Handler.who),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.card),
    (rf"POST /api/models/{REPO}/preupload/{REVISION}", _Handler.preupload),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /blob/(?P<oid>\w+)", _Handler.blob),
    (rf"POST /api/models/{REPO}/commit/{REVISION}", _Handler.commit),
]
