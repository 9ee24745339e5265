"""A hub on this machine: the requests that huggingface_hub makes to find, fetch and upload a repository's files.

Its own cache can also be laid out by hand, as the hub's client keeps it.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

TOKEN: Final = "hf_of_a_test"
FILES: Final = ("bundle.json", "model.onnx")


def commit_of(files: Mapping[str, bytes]) -> str:
    """A commit's name, of what is in it."""
    return hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()


def lay_out(cache: Path, repository: str, folder: Path, revision: str = "main") -> str:
    """A bundle in the cache as huggingface_hub lays it out: blobs, a snapshot of links to them, a ref; the commit."""
    files = {name: (folder / name).read_bytes() for name in FILES}
    commit = commit_of(files)
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot, ref = home / "snapshots" / commit, home / "refs" / revision
    for needed in (home / "blobs", snapshot, ref.parent):
        needed.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        blob = home / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", blob.name))
    ref.write_text(commit)
    return commit


@dataclass
class Repository:
    """Branches by name, and every commit's files."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files on a branch, over those that are there."""
        merged = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        name = commit_of(merged)
        self.commits[name], self.branches[branch] = merged, name
        return name


class Hub:
    """What the server holds, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.url = ""

    def environment(self, home: Path) -> dict[str, str]:
        """For a client of this hub alone, with a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}

    def add(self, name: str, folder: Path, branch: str = "main") -> str:
        """A commit of a bundle's files."""
        repository = self.repositories.setdefault(name, Repository())
        return repository.commit({file: (folder / file).read_bytes() for file in FILES}, branch)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
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

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if len(parts) < 4:
            self._fail(404, None)
            return
        if parts[:2] == ["api", "models"]:
            name, what, revision = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
        else:
            name, what, revision = "/".join(parts[:2]), parts[2], parts[3]
        repository = self._repository(name)
        if repository is None:
            return
        commit = repository.branches.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            self._fail(404, "RevisionNotFound")
        elif what == "revision":
            self._answer({"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]})
        elif what == "tree":
            self._answer([{"type": "file", "path": file, **_blob(content)} for file, content in files.items()])
        else:
            content = files[parts[4]]
            self._send(200, content, {"ETag": f'"{_blob(content)["oid"]}"', "X-Repo-Commit": commit})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, None)
        elif parts == ["api", "validate-yaml"]:
            self._answer({"errors": [], "warnings": []})
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            self._answer({"transfer": "basic", "objects": [self._slot(each) for each in json.loads(body)["objects"]]})
        else:
            self._change("/".join(parts[2:4]), parts[4], "/".join(parts[5:]), body)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self._send(200, b"", {})

    def _change(self, name: str, what: str, revision: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        if what == "branch":
            repository.branches[revision] = repository.branches.get("main", "")
            self._answer({})
        elif what == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {file: "lfs" if file.endswith(".onnx") else "regular" for file in files}
            self._answer(
                {"files": [{"path": file, "uploadMode": modes[file], "shouldIgnore": False} for file in files]}
            )
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            repository.messages.append(lines[0]["value"]["summary"])
            commit = repository.commit(dict(self._file(line) for line in lines[1:]), revision)
            self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.hub.repositories:
            self._send(409, json.dumps({"url": f"{self.hub.url}/{name}"}).encode(), {})
            return
        self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        self._answer({"url": f"{self.hub.url}/{name}"})

    def _slot(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}"}}}

    def _file(self, line: dict[str, Any]) -> tuple[str, bytes]:
        value = line["value"]
        if line["key"] == "lfsFile":
            return value["path"], self.hub.large[value["oid"]]
        return value["path"], base64.b64decode(value["content"])

    def _repository(self, name: str) -> Repository | None:
        """The repository; answered where it is not for whoever asks."""
        repository, known = self.hub.repositories.get(name), self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            self._fail(404, "RepoNotFound")
        elif repository.gated and not known:
            self._fail(403, "GatedRepo")
        else:
            return repository
        return None

    def _fail(self, status: int, code: str | None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code} if code else {})

    def _answer(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _blob(content: bytes) -> dict[str, Any]:
    return {"oid": hashlib.sha1(content, usedforsecurity=False).hexdigest(), "size": len(content)}
