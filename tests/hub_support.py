"""A small Hub: an HTTP server with the endpoints that `huggingface_hub` uses, and clients of it.

Datasets have other addresses than models and are otherwise the same here; a name is either.

The server keeps repositories in memory: commits with their trees, LFS objects by hash. It checks tokens, redirects
large files to `/cdn/...` as the Hub does, answers `Range`, and can be told to break off downloads. The clients are
processes of their own, because the library reads its endpoint, token and cache when it is imported.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

READER: Final = "hf_readertokenvalue"
WRITER: Final = "hf_writertokenvalue"
"""Tokens the server knows. Both see private repositories; only the writer may make and change any."""
LARGE: Final = (".safetensors", ".tar")
"""Endings of files that go by Git LFS."""


@dataclass(kw_only=True)
class Repo:
    """One repository: commits in order, the last one is the branch `main`."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, changes: Mapping[str, bytes | None]) -> str:
        """Add a commit that changes, adds or (None) removes files; returns its id."""
        known = {**(self.commits[-1][1] if self.commits else {}), **changes}
        tree = {name: data for name, data in known.items() if data is not None}
        digest = hashlib.sha1(f"{len(self.commits)}".encode())
        for name, data in sorted(tree.items()):
            digest.update(name.encode() + hashlib.sha1(data).digest())
        self.commits.append((digest.hexdigest(), tree))
        return digest.hexdigest()

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, tree) of a branch or commit."""
        if revision == "main":
            return self.commits[-1]
        return next((found for found in self.commits if found[0] == revision), None)


class Hub(ThreadingHTTPServer):
    """The server. `with Hub() as hub:` serves until the end of the block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}/cdn"  # another host by name, as the Hub's is
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []
        """"METHOD path" of every request, in order."""
        self.break_after: list[int] = []
        """Bytes after which the next downloads of large files break off, one entry each."""
        self.fail_commits = False
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """Put files into a repository as if somebody had pushed them; returns the commit."""
        repo = self.repos.setdefault(name, Repo(private=private))
        return repo.commit(files)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for since the log was cleared."""
        return [line.rsplit("/", 1)[-1] for line in self.log if line.startswith("GET ") and "/resolve/" in line] + [
            "model.safetensors" for line in self.log if line.startswith("GET /cdn/")
        ]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay silent: the server keeps its own log."""

    def do_HEAD(self) -> None:
        """HEAD is GET without a body; `answer` leaves the body out."""
        self.do_GET()

    def do_GET(self) -> None:
        """Repository facts, trees and files."""
        path = self.begin()
        if path == "/api/whoami-v2":
            return self.answer({"name": "tester", "type": "user", "orgs": []}) if self.token() else self.refuse(401)
        if found := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            return self.send_file(self.server.objects[found[1]], found[1], breaks=True)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            return self.send_facts(found[1], found[2] or "revision", found[3] or "main")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.send_resolved(*found.groups())
        return self.refuse(404)

    def do_POST(self) -> None:
        """Make repositories, negotiate uploads, commit."""
        path, body = self.begin(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.token() is None:
            return self.refuse(401)
        if self.token() != WRITER:
            return self.refuse(403)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                 "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self.answer({"files": files})
        if re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.answer({"transfer": "basic", "objects": [self.lfs(o) for o in json.loads(body)["objects"]]})
        if path == "/verify":
            return self.answer({})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        return self.refuse(404)

    def do_PUT(self) -> None:
        """A large file arrives; httpx sends it in chunks."""
        path, data = self.begin(), self.read_chunks()
        oid = path.removeprefix("/upload/")
        if hashlib.sha256(data).hexdigest() != oid:
            return self.refuse(400)
        self.server.objects[oid] = data
        return self.answer({})

    def begin(self) -> str:
        """Log the request; its path without the query, unquoted."""
        path = unquote(urlsplit(self.path).path)
        self.server.log.append(f"{self.command} {path}")
        return re.sub(r"^/datasets/", "/", re.sub(r"^/api/datasets/", "/api/models/", path))

    def token(self) -> str | None:
        """The token that came with the request, if it is a known one."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return given if given in (READER, WRITER) else None

    def answer(self, content: Any, *, code: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, error_code: str = "") -> None:
        """Send an error as the Hub does."""
        self.answer({"error": error_code}, code=code, headers={"X-Error-Code": error_code} if error_code else {})

    def visible(self, name: str) -> Repo | None:
        """The repository, or None after a refusal: who may not see it learns no more than that."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self.token() is None):
            self.refuse(404 if self.token() else 401, "RepoNotFound")
            return None
        return repo

    def send_facts(self, name: str, kind: str, revision: str) -> None:
        if (repo := self.visible(name)) is None:
            return
        if (found := repo.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        commit, tree = found
        if kind == "tree":
            rows = [self.row(path, data) for path, data in tree.items()]
            return self.answer([{"type": "file", **row} for row in rows])
        siblings = [{"rfilename": path} for path in tree]
        self.answer({"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []})

    def row(self, path: str, data: bytes) -> dict[str, Any]:
        """A file of a tree."""
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        own = {"path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        return {**own, "lfs": lfs} if path.endswith(LARGE) else own

    def send_resolved(self, name: str, revision: str, file: str) -> None:
        if (repo := self.visible(name)) is None:
            return
        if (found := repo.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        commit, tree = found
        if file not in tree:
            return self.answer({}, code=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = tree[file]
        if not file.endswith(LARGE):
            return self.send_file(data, hashlib.sha1(data).hexdigest(), commit=commit)
        oid = hashlib.sha256(data).hexdigest()
        self.server.objects[oid] = data
        facts = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        self.answer({}, code=302, headers={**facts, "Location": f"{self.server.cdn}/{oid}"})

    def send_file(self, data: bytes, etag: str, *, commit: str = "", breaks: bool = False) -> None:
        begin = int(re.sub(r"\D", "", self.headers.get("Range", "0").split("-")[0]) or 0)
        part = data[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{etag}"')
        if commit:
            self.send_header("X-Repo-Commit", commit)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if breaks and self.server.break_after:
            part = part[: self.server.break_after.pop(0)]
            self.close_connection = True
        self.wfile.write(part)

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repos:
            return self.answer({"error": "exists", "url": f"{self.server.url}/{name}"}, code=409)
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.server.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self.answer({"url": f"{self.server.url}/{name}", "name": name})

    def lfs(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Where to upload an object; nowhere if it is there."""
        if wanted["oid"] in self.server.objects:
            return wanted
        href = f"{self.server.url}/upload/{wanted['oid']}"
        verify = {"href": f"{self.server.url}/verify"}
        return {**wanted, "actions": {"upload": {"href": href}, "verify": verify}}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if (repo := self.visible(name)) is None:
            return
        if self.server.fail_commits:
            return self.refuse(500)
        changes: dict[str, bytes | None] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                changes[value["path"]] = None
        commit = repo.commit(changes)
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})

    def read_chunks(self) -> bytes:
        """A body of known length, or in chunks."""
        if length := int(self.headers.get("Content-Length", 0)):
            return self.rfile.read(length)
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data


_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["roma", "safetensors.torch", "omegaconf"])  # torch comes with them, once for all


def serve_client(environment: dict[str, str], pipe: Connection) -> None:
    """What a client's process does: answer each list of words with [result, stdout, stderr] until None comes."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        del os.environ[name]
    os.environ.update(environment)  # before the first import of huggingface_hub
    from distill.errors import FootfallError
    from distill.models.student import Student
    from teacher.cli import main

    def do(kind: str, *words: Any) -> int | float:
        if kind == "run":
            return main(words)
        student = Student.from_pretrained(words[0], **words[1])
        return float(sum(tensor.double().sum() for tensor in student.state_dict().values()))

    while (request := pipe.recv()) is not None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                result: int | float | str = do(*request)
            except FootfallError as error:
                result = str(error)
            except BaseException:
                result = f"not a message for users: {traceback.format_exc()}"
        pipe.send([result, out.getvalue(), err.getvalue()])


class Client:
    """A process that runs commands and loads students, one after another, with its own endpoint, token and cache."""

    def __init__(self, url: str, home: Path, *, token: str | None = None, offline: bool = False) -> None:
        environment = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}  # for busy machines
        environment |= {"HF_TOKEN": token} if token else {}
        environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = _PROCESSES.Process(target=serve_client, args=(environment, theirs), daemon=True)
        self._process.start()
        self.home = home
        self.said = ""
        """Everything that any command printed or returned so far."""

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()

    def run(self, *words: str) -> tuple[int, str, str]:
        """`footfall WORDS`: (exit code, stdout, stderr)."""
        code, out, err = self._ask("run", *words)
        assert isinstance(code, int), code
        return code, out, err

    def load(self, name: str, **keywords: str) -> float | str:
        """`Student.from_pretrained`: the sum of all weights, or the error's text."""
        return self._ask("load", name, keywords)[0]

    def _ask(self, *words: Any) -> tuple[int | float | str, str, str]:
        self._pipe.send(words)
        result, out, err = self._pipe.recv()
        self.said += f"{result} {out} {err}"
        return result, out, err
