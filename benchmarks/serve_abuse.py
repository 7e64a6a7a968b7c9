"""A thousand bad requests at `footfall serve`: does it stay up, is its memory bounded, does anybody get in?

    python benchmarks/serve_abuse.py --out work/serve_abuse.json [--requests 1000]

Starts a server with a token as a process of its own, sends random bytes, broken HTTP and WebSocket, wrong tokens,
foreign pages and hosts, oversized and lying frames, picture bombs, posts too large, and connections that dribble or say
nothing; then asks a good client whether all is well. `tests/test_serve.py` runs the same with fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import os
import random
import secrets
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from distill.errors import require
from distill.files import write_json

WAIT_S = 1.0
"""For an answer to a request that may get none."""
ANSWER_S = 20.0
"""For one that must get an answer."""


def request_of(path: str, headers: dict[str, str], *, method: str = "GET", body: bytes = b"") -> bytes:
    """Bytes of an HTTP request."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def upgrade_of(token: str | None, **more: str) -> bytes:
    """Bytes of a WebSocket handshake."""
    given = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return request_of("/stream", {
        "Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(), **given, **more,
    })  # fmt: skip


def frame_of(data: bytes, *, code: int = 2, masked: bool = True, length: int | None = None, first: int = 0x80) -> bytes:
    """Bytes of a WebSocket frame; `length` may lie."""
    size, mask = len(data) if length is None else length, 0x80 if masked else 0
    head = bytes([first | code])
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", size)
    return head + (bytes(4) if masked else b"") + data


def bomb_of(side: int) -> bytes:
    """A small PNG that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    header = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
        + chunk(b"IEND", b"")
    )


def without_token(rng: random.Random) -> list[tuple[str, bytes]]:
    """Requests that must not get in: kind and bytes."""
    paths = ["/health", "/checkpoint", "/stream", "/video", "/../etc/passwd", "//", "/%00", "/stream?token=x"]
    here, wrong = {"Host": "127.0.0.1"}, "Bearer " + secrets.token_urlsafe(rng.choice([1, 16, 32, 2000]))
    return [
        ("no token", request_of(rng.choice(paths), here)),
        ("no token, upgrade", upgrade_of(None)),
        ("wrong token", request_of(rng.choice(paths), here | {"Authorization": wrong})),
        ("wrong token, upgrade", upgrade_of(secrets.token_urlsafe(32))),
        ("wrong scheme", request_of("/checkpoint", here | {"Authorization": wrong.replace("Bearer", "Basic")})),
        ("odd token", request_of("/checkpoint", here | {"Authorization": "Bearer \xff\xfe\xe9"})),
        ("post, no token", request_of("/video", here | {"Content-Length": "99"}, method="POST", body=bytes(99))),
    ]


def broken(rng: random.Random, token: str) -> list[tuple[str, bytes]]:
    """Broken or oversized requests; most with the token, since without it they get nowhere."""
    up, settings = upgrade_of(token), [b"[" * 900, b"{}", b"\xff", b'{"timestamp": 1e400}']
    inside = {"Host": "127.0.0.1", "Authorization": f"Bearer {token}"}

    def post(**headers: str) -> bytes:
        return request_of(
            "/video", inside | {name.replace("_", "-"): value for name, value in headers.items()}, method="POST"
        )

    return [
        ("random bytes", rng.randbytes(rng.randrange(1, 4000))),
        ("half a request", request_of("/health", inside)[: rng.randrange(1, 40)]),
        ("odd method", request_of("/health", inside, method=rng.choice(["BREW", "G\x00T", "", "TRACE"]))),
        ("long line", request_of("/" + "a" * rng.choice([5000, 200_000]), inside)),
        ("long header", request_of("/health", inside | {"X": "b" * rng.choice([5000, 200_000])})),
        ("many headers", request_of("/health", inside | {f"X{k}": "1" for k in range(300)})),
        ("bad length", post(Content_Length=rng.choice(["-1", "x", "1e9"]))),
        ("huge length", post(Content_Length=str(1 << 40))),
        ("bad chunks", post(Transfer_Encoding="chunked") + b"zz\r\n\r\n"),
        ("two lengths", post(Content_Length="5", Transfer_Encoding="gzip")),
        ("foreign host", request_of("/checkpoint", inside | {"Host": "evil.example"})),
        ("foreign page", upgrade_of(token, Origin="https://evil.example")),
        ("null page", upgrade_of(token, Origin="null")),
        ("bad handshake", up.replace(b"Version: 13", b"Version: 99")),
        ("no mask", up + frame_of(b"x" * 100, masked=False)),
        ("odd code", up + frame_of(b"x", code=rng.choice([3, 7, 11, 15]))),
        ("reserved bits", up + frame_of(b"x", first=0xF0)),
        ("lying length", up + frame_of(b"x" * 100, length=1 << 40)),
        ("endless fragments", up + frame_of(bytes(99), first=0) + frame_of(bytes(99), code=0, first=0) * 500),
        ("no picture", up + frame_of(rng.randbytes(2000))),
        ("picture bomb", up + frame_of(bomb_of(rng.choice([9000, 20_000, 60_000])))),
        ("half a picture", up + frame_of(picture()[: rng.randrange(20, 500)])),
        ("no settings", up + frame_of(rng.choice(settings), code=1)),
        ("long settings", up + frame_of(b"{" * 100_000, code=1)),
        ("oversized frame", up + frame_of(b"", length=20_000_000)),
    ]


def picture() -> bytes:
    """A good JPEG."""
    from PIL import Image

    packed = io.BytesIO()
    Image.effect_noise((96, 64), 60).convert("RGB").save(packed, "JPEG")
    return packed.getvalue()


def send(port: int, data: bytes, *, wait_s: float = WAIT_S) -> bytes:
    """What comes back until the server ends it, or says nothing for `wait_s`."""
    came = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        connection.sendall(data)
        while more := connection.recv(1 << 16):
            came += more
    return came


def is_in(answer: bytes) -> bool:
    """Whether an answer is what only somebody with the token may get."""
    status = answer.split(b"\r\n", 1)[0]
    return b" 200" in status or b" 101" in status


def slow_clients(port: int, token: str, count: int) -> list[socket.socket]:
    """Connections that say nothing, dribble headers, or open a stream and are silent."""
    held = []
    said = [b"", b"GET /health HT", upgrade_of(token), upgrade_of(token) + frame_of(b"x", length=5000)]
    for k in range(count):
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
            connection.sendall(said[k % len(said)])
            held.append(connection)
    return held


def still_open(connections: list[socket.socket]) -> int:
    """How many the server has not ended."""
    count = 0
    for connection in connections:
        connection.settimeout(0.05)
        try:
            while connection.recv(1 << 16):
                pass
        except TimeoutError:
            count += 1
        except OSError:
            pass
    return count


def attack(port: int, token: str, requests: int, seed: int = 0) -> dict[str, Any]:
    """Send bad requests; who got in, and what the server answered."""
    rng = random.Random(seed)
    sent, got_in, answers, unanswered = Counter[str](), Counter[str](), Counter[str](), 0
    for k in range(requests):
        outside = k % 3 == 0
        kind, data = rng.choice(without_token(rng) if outside else broken(rng, token))
        answer = send(port, data, wait_s=ANSWER_S if outside else WAIT_S)
        sent[kind] += 1
        got_in[kind] += outside and is_in(answer)
        unanswered += outside and not answer
        answers[answer.split(b"\r\n", 1)[0].decode("latin-1")[9:12] or "none"] += 1
    return {
        "sent": dict(sent),
        "got_in": sum(got_in.values()),
        "outside_unanswered": unanswered,
        "answers": dict(answers),
    }


async def ask_well(port: int, token: str) -> dict[str, Any]:
    """What a good client gets: a frame's answer and the server's health."""
    aiohttp = require("aiohttp", extra="serve")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        async with session.ws_connect(f"http://127.0.0.1:{port}/stream") as stream:
            await stream.send_bytes(picture())
            answer: dict[str, Any] = await stream.receive_json(timeout=120)
        async with session.get(f"http://127.0.0.1:{port}/health") as response:
            answer["health"] = await response.json()
    return answer


def memory_mb(pid: int) -> float:
    """What a process holds of the machine's memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Start, attack, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    token = secrets.token_urlsafe(32)
    words = ["serve", "port=0", "people=tokens", "header_seconds=4", "idle_seconds=8"]
    server = subprocess.Popen(
        [sys.executable, "-m", "teacher.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FOOTFALL_TOKEN": token},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().split(";")[0].rpartition(":")[2])
        asyncio.run(ask_well(port, token))
        before = memory_mb(server.pid)
        start = time.perf_counter()
        report = attack(port, token, args.requests)
        slow = slow_clients(port, token, 100)
        time.sleep(1)
        held = still_open(slow)
        time.sleep(20)
        report |= {
            "requests": args.requests, "seconds": round(time.perf_counter() - start), "slow_clients": len(slow),
            "slow_open_after_1_s": held, "slow_open_after_21_s": still_open(slow),
            "memory_before_mb": round(before, 1), "memory_after_mb": round(memory_mb(server.pid), 1),
            "answers_after": asyncio.run(ask_well(port, token))["health"], "running": server.poll() is None,
        }  # fmt: skip
    finally:
        server.terminate()
        _, said = server.communicate(timeout=60)
    report["token_in_output"] = token in said
    report["lines_of_log"] = len(said.splitlines())
    write_json(args.out, report)
    print({name: value for name, value in report.items() if name != "sent"})


if __name__ == "__main__":
    main()
