"""Shards that are not on this disk: `https://`, `s3://` and `hf://`, read as streams that survive a broken line.

A transfer that breaks is taken up where it stopped, a few times; what cannot be mended (not found, not allowed) is a
`FootfallError`. URLs are only ever shown without user names, passwords and signatures.
"""

from __future__ import annotations

import base64
import functools
import http.client
import io
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from distill.errors import FootfallError, require

ATTEMPTS: Final = 5
"""Tries without any progress before a transfer is given up."""
FIRST_WAIT_S: Final = 0.5
"""Before the second try; doubled each time."""
TIMEOUT_S: Final = 60.0
_BUFFER_BYTES: Final = 1 << 20
_PASSING: Final = (408, 425, 429)
"""Refusals by HTTP that may end; all of 500 and above may too."""

Start = Callable[[int], BinaryIO]
"""Byte offset -> a stream from there to the end. OSError: try again; FootfallError: do not."""


def shown(url: str) -> str:
    """A URL without user name, password and query: fit for logs and messages."""
    if "://" not in url:
        return url
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def open_url(url: str) -> BinaryIO:
    """A stream of a local path or of an `http(s)://`, `s3://BUCKET/KEY`, `hf://datasets/ORG/NAME[@REVISION]/PATH` URL.

    Raises:
        FootfallError: not found, not allowed, or a kind of URL that is not known.
        OSError: out of reach after several tries; also while reading.
    """
    kind = url.split("://", 1)[0] if "://" in url else "file"
    if kind == "file":
        return Path(url.removeprefix("file://")).open("rb")
    if kind == "hf":
        return _from_hub(url).open("rb")
    starts: dict[str, Callable[[str], Start]] = {"http": _http, "https": _http, "s3": _s3}
    if kind not in starts:
        raise FootfallError(
            f"shard {shown(url)}", got=f"{kind}://", expected="a path, https://, s3:// or hf://", do="check the URL"
        )
    return io.BufferedReader(_Resumed(starts[kind](url)), _BUFFER_BYTES)


class _Resumed(io.RawIOBase):
    """Reads from `start`, and again from where it stopped if the line breaks."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        self._start, self._at, self._failed = start, 0, 0
        self._stream: BinaryIO | None = None
        self._again(None)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what comes next; 0 at the end."""
        while True:
            try:
                assert self._stream is not None
                data = self._stream.read(len(buffer))
            except (OSError, http.client.HTTPException) as error:
                self._again(error)
                continue
            buffer[: len(data)] = data
            self._at += len(data)
            if data:
                self._failed = 0
            return len(data)

    def close(self) -> None:
        """Let go of the connection."""
        if self._stream is not None:
            self._stream.close()
        super().close()

    def _again(self, error: Exception | None) -> None:
        """Open at the current offset; wait longer from time to time."""
        while True:
            if error is not None:
                self._failed += 1
                if self._failed >= ATTEMPTS:
                    raise OSError(f"{type(error).__name__} after {ATTEMPTS} tries at byte {self._at}") from error
                time.sleep(FIRST_WAIT_S * 2 ** (self._failed - 1))
            try:
                if self._stream is not None:
                    self._stream.close()
                self._stream = self._start(self._at)
                return
            except (OSError, http.client.HTTPException) as failure:
                error = failure


class _Exact(io.RawIOBase):
    """A stream that must give `length` bytes: an early end is a broken line, not the end of the file."""

    def __init__(self, stream: Any, length: int | None) -> None:
        super().__init__()
        self._stream, self._left = stream, length

    def read(self, size: int = -1) -> bytes:
        """What comes next."""
        data: bytes = self._stream.read(size)
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left > 0:
                raise ConnectionError(f"the transfer ended {self._left} bytes early")
        return data

    def close(self) -> None:
        """Let go of the connection."""
        self._stream.close()
        super().close()


def _http(url: str) -> Start:
    """Plain GET with ranges. A user name in the URL becomes basic authentication, for that host only."""
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    plain = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    version: list[str] = []

    def start(offset: int) -> Any:
        request = urllib.request.Request(plain)
        if at:
            token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code >= 500 or error.code in _PASSING:
                raise ConnectionError(f"HTTP {error.code}") from None
            raise _refused(url, f"HTTP {error.code}") from None
        except urllib.error.URLError as error:
            raise ConnectionError(str(error.reason)) from None
        _check_version(url, version, answer.headers.get("ETag"))
        length = answer.headers.get("Content-Length")
        stream = _Exact(answer, int(length) if length else None)
        if offset and answer.status != 206:  # a server without ranges starts again
            while offset > 0:
                offset -= len(stream.read(min(offset, _BUFFER_BYTES)))
        return stream

    return start


@functools.lru_cache(maxsize=4)
def s3_client(process: int) -> Any:
    """A client of this process; without credentials it asks for what is public."""
    boto3 = require("boto3", extra="s3")
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.session.Session()
    public = {"signature_version": UNSIGNED} if session.get_credentials() is None else {}
    region = session.region_name or "us-east-1"
    return session.client("s3", region_name=region, config=Config(retries={"mode": "standard"}, **public))


def _s3(url: str) -> Start:
    """GetObject with ranges; endpoint and credentials are those of the AWS environment."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    client = s3_client(os.getpid())
    version: list[str] = []

    def start(offset: int) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = client.get_object(Bucket=bucket, Key=key, **({"Range": f"bytes={offset}-"} if offset else {}))
        except ClientError as error:
            status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            if status >= 500 or status in _PASSING:
                raise ConnectionError(f"S3 {status}") from None
            raise _refused(url, f"S3 {error.response['Error'].get('Code', status)}") from None
        except BotoCoreError as error:
            raise ConnectionError(type(error).__name__) from None
        _check_version(url, version, answer.get("ETag"))
        return _Exact(_S3Body(answer["Body"]), answer.get("ContentLength"))

    return start


class _S3Body:
    """Errors of botocore's body as the errors of a line."""

    def __init__(self, body: Any) -> None:
        self.body, self.close = body, body.close

    def read(self, size: int) -> bytes:
        """What comes next."""
        from botocore.exceptions import BotoCoreError

        try:
            data: bytes = self.body.read(size)
        except BotoCoreError as error:
            raise ConnectionError(type(error).__name__) from None
        return data


def _from_hub(url: str) -> Path:
    """hf://datasets/ORG/NAME[@REVISION]/PATH -> the file in the Hub's cache, downloaded if it is not there."""
    import huggingface_hub as hub

    parts = url.removeprefix("hf://").split("/", 3)
    if len(parts) < 4 or parts[0] not in ("datasets", "models"):
        raise FootfallError(
            f"shard {url}", got="too few parts", expected="hf://datasets/ORG/NAME/PATH", do="check the URL"
        )
    name, _, revision = parts[2].partition("@")
    try:
        return Path(
            hub.hf_hub_download(
                f"{parts[1]}/{name}", parts[3], repo_type=parts[0].removesuffix("s"), revision=revision or None
            )
        )
    except (hub.errors.EntryNotFoundError, hub.errors.RepositoryNotFoundError) as error:
        raise _refused(url, type(error).__name__) from None
    except (hub.errors.HfHubHTTPError, hub.errors.OfflineModeIsEnabled, OSError) as error:
        raise ConnectionError(f"{type(error).__name__} for {url}") from None


def _check_version(url: str, known: list[str], found: str | None) -> None:
    """Parts of one transfer must be of one file."""
    if found is not None:
        known.append(found)
    if len(set(known)) > 1:
        raise FootfallError(
            f"shard {shown(url)}", got="another file after a broken transfer", expected="the same one",
            do="do not replace shards while they are read",
        )  # fmt: skip


def _refused(url: str, got: str) -> FootfallError:
    return FootfallError(
        f"shard {shown(url)}", got=got, expected="a file that may be read",
        do="check the address, the revision and the credentials (environment of this process)",
    )  # fmt: skip
