"""A server of files for tests: plain HTTP with ranges, S3's GetObject, the Hub's downloads; it can break the line."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Behaviour:
    """What a server does and has seen."""

    root: Path
    cut_after: int = 0
    """Bytes after which a connection is dropped; 0 never."""
    cuts: int = 0
    """How many more connections are dropped."""
    busy: int = 0
    """How many more requests are answered with 503."""
    ranges: bool = True
    password: str = ""
    """Basic authentication "user:password" that is asked for."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every request."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """/PATH is a file below root; /datasets/ORG/NAME/resolve/REV/PATH is the Hub's name for it."""

    behaviour: Behaviour

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        behaviour, path = self.behaviour, urllib.parse.unquote(self.path.partition("?")[0])
        behaviour.asked.append((self.command, self.path, dict(self.headers)))
        if behaviour.busy > 0:
            behaviour.busy -= 1
            self._refuse(503, "SlowDown")
            return
        if behaviour.password and self.headers.get("Authorization", "") != behaviour.password:
            self._refuse(403, "AccessDenied")
            return
        hub = re.fullmatch(r"/datasets/org/name/resolve/(main|" + COMMIT + r")/(.+)", path)
        file = behaviour.root / (hub[2] if hub else path.lstrip("/"))
        if not file.is_file():
            self._refuse(404, "EntryNotFound" if hub else "NoSuchKey")
            return
        data, asked = file.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        partial = asked is not None and behaviour.ranges
        first = int(asked[1]) if partial and asked else 0
        last = int(asked[2]) if partial and asked and asked[2] else len(data) - 1
        body = data[first : last + 1]
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        if hub:
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            if behaviour.cuts > 0 and len(body) > behaviour.cut_after > 0:
                behaviour.cuts -= 1
                self.wfile.write(body[: behaviour.cut_after])
                self.wfile.flush()
                self.connection.close()
            else:
                self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/xml")
        self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Dropped lines are meant."""


@contextlib.contextmanager
def serve(root: Path, certificate: Path | None = None, **behaviour: Any) -> Iterator[tuple[str, Behaviour]]:
    """Address and behaviour of a server that runs while the block does; `certificate`: PEM of key and certificate."""
    kept = Behaviour(root=root, **behaviour)
    handler = type("Handler", (_Handler,), {"behaviour": kept})
    with _Server(("127.0.0.1", 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}", kept
        server.shutdown()
