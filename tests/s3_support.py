"""A small store that speaks S3: PUT, GET, HEAD, DELETE and the list of a bucket; it can refuse and drop the line."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape


@dataclass
class Store:
    """Objects of one bucket `bucket`, and what was asked."""

    objects: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, key) of every request."""
    puts_left: int = -1
    """After so many more uploads the store refuses all (503); -1 never."""
    read_only: bool = False


class _Handler(http.server.BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def key(self) -> str:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        key = path.removeprefix("/bucket").lstrip("/")
        self.store.asked.append((self.command, key))
        return key

    def do_PUT(self) -> None:
        key, store = self.key(), self.store
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if store.read_only:
            return self.refuse(403, "AccessDenied")
        if store.puts_left == 0:
            return self.refuse(503, "SlowDown")
        store.puts_left -= 1
        wanted = self.headers.get("x-amz-checksum-sha256", "")
        if base64.b64encode(hashlib.sha256(data).digest()).decode() != wanted:
            return self.refuse(400, "BadDigest")
        store.objects[key] = data
        names = [name for name in self.headers if name.lower().startswith("x-amz-meta-")]
        store.metadata[key] = {name: self.headers[name] for name in names}
        return self.answer(200, b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key = self.key()
        if not self.path.startswith("/bucket"):
            return self.refuse(404, "NoSuchBucket")
        if not key:
            return self.list()
        if key not in self.store.objects:
            return self.refuse(404, "NoSuchKey")
        return self.answer(200, self.store.objects[key], self.store.metadata[key])

    def do_DELETE(self) -> None:
        key = self.key()
        self.store.objects.pop(key, None)
        self.store.metadata.pop(key, None)
        return self.answer(204, b"")

    def list(self) -> None:
        """Two objects a page, so that pages matter."""
        query = urllib.parse.parse_qs(self.path.partition("?")[2])
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        names = [name for name in sorted(self.store.objects) if name.startswith(prefix) and name > after]
        rows = "".join(f"<Contents><Key>{escape(name)}</Key></Contents>" for name in names[:2])
        more = f"<NextContinuationToken>{escape(names[1])}</NextContinuationToken>" if len(names) > 2 else ""
        cut = str(len(names) > 2).lower()
        body = f"<ListBucketResult><IsTruncated>{cut}</IsTruncated>{rows}{more}</ListBucketResult>"
        self.answer(200, body.encode(), {"Content-Type": "application/xml"})

    def refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.answer(status, body, {"Content-Type": "application/xml"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve_store() -> Iterator[tuple[str, Store]]:
    """Address and content of a store that runs while the block does."""
    store = Store()
    handler = type("Handler", (_Handler,), {"store": store})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", store
        server.shutdown()
