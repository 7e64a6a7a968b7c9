"""The server: good clients get a stream, bad ones nothing, and none of them bring it down."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import serve_abuse
from distill.errors import FootfallError
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.people.token_tracker import TokenTrackerConfig
from distill.stream import Stream, StreamConfig
from teacher.cli import main
from teacher.serve.config import ServeConfig
from teacher.serve.guard import Guard, host_name, read_token
from teacher.serve.images import decode_frame
from teacher.serve.sessions import Session, as_numbers
from tests.live_support import noise, python_blocks
from tests.student_support import one_thread, wake  # noqa: F401 (a fixture)

aiohttp = pytest.importorskip("aiohttp")
TOKEN = "a-token-of-good-length"
LOW = StreamConfig(gaps=[1, 3], tracker=TokenTrackerConfig(enter_score=0.02, stay_score=0.01, max_people=2))
SETTINGS: dict[str, Any] = {
    "port": 0, "people": "tokens", "header_seconds": 1.0, "idle_seconds": 2.0, "max_connections": 24,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("checkpoint")
    wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[tuple[Any, int]]:
    """A server with a token, in a thread, and its port."""
    from teacher.serve.app import Server

    running = Server(str(checkpoint), ServeConfig(**SETTINGS, stream=LOW), TOKEN)
    ports: list[int] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()

    def ready(_: str, port: int) -> None:
        ports.append(port)
        up.set()

    task = loop.create_task(running.run(ready))

    def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert up.wait(60)
    yield running, ports[0]
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)


def talk(port: int, what: Callable[[Any, str], Awaitable[Any]], token: str | None = TOKEN) -> Any:
    """Run a client."""

    async def session() -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with aiohttp.ClientSession(headers=headers) as client:
            return await what(client, f"http://127.0.0.1:{port}")

    return asyncio.run(session())


def png(image: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "PNG")
    return packed.getvalue()


# Good clients


def test_a_stream_over_the_socket_is_the_stream(server: tuple[Any, int]) -> None:
    running, port = server
    images = noise(4)

    async def ask(client: Any, address: str) -> list[dict[str, Any]]:
        answers = []
        async with client.ws_connect(f"{address}/stream") as socket:
            await socket.send_str(json.dumps({"focal_px": 90.0, "camera": "static"}))
            for k, image in enumerate(images):
                await socket.send_str(json.dumps({"timestamp": k / 30}))
                await socket.send_bytes(png(image))
                answers.append(await socket.receive_json(timeout=60))
        return answers

    answers = talk(port, ask)
    config = StreamConfig(gaps=LOW.gaps, tracker=LOW.tracker, focal_px=90.0, camera="static")
    stream = Stream(running.network, (96, 64), config)
    for k, (image, answer) in enumerate(zip(images, answers, strict=True)):
        assert answer == json.loads(json.dumps(as_numbers(stream.step(image, k / 30), stream.K)))
        assert answer["timestamp"] == k / 30 and answer["K"][0][0] == 90.0
        for person in answer["people"]:
            assert np.shape(person["joints_cam"]) == (24, 3) and np.shape(person["cam_from_body"]) == (4, 4)
    assert any(answer["people"] for answer in answers)


def test_mistakes_are_answered_and_the_stream_goes_on(server: tuple[Any, int]) -> None:
    async def ask(client: Any, address: str) -> list[str]:
        words = []
        async with client.ws_connect(f"{address}/stream") as socket:
            for bad in (b"no picture", png(noise(1)[0])[:300], serve_abuse.bomb_of(20_000), png(noise(1, (16, 16))[0])):
                await socket.send_bytes(bad)
                words.append((await socket.receive_json(timeout=60))["error"])
            for text in ("{", "[1]", '{"lag": 3}', '{"timestamp": "now"}', '{"focal_px": -1}', '{"camera": "fixed"}'):
                await socket.send_str(text)
                words.append((await socket.receive_json(timeout=60))["error"])
            await socket.send_bytes(png(noise(1)[0]))
            assert (await socket.receive_json(timeout=60))["index"] == 0
            await socket.send_bytes(png(noise(1, (64, 96))[0]))
            words.append((await socket.receive_json(timeout=60))["error"])
        return words

    words = talk(port := server[1], ask)
    assert all("no picture" in word for word in words[:2])
    assert "too many pixels" in words[2] and "16x16" in words[3]
    assert "no JSON" in words[4] and "shape of the first frame" in words[-1]
    assert talk(port, health)["status"] == "ok"


async def health(client: Any, address: str) -> dict[str, Any]:
    async with client.get(f"{address}/health") as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


def test_a_client_that_only_errs_is_let_go(server: tuple[Any, int]) -> None:
    async def ask(client: Any, address: str) -> int:
        async with client.ws_connect(f"{address}/stream") as socket:
            for count in range(100):
                await socket.send_bytes(b"x")
                message = await socket.receive(timeout=60)
                if message.type != aiohttp.WSMsgType.TEXT:
                    return count
        return 100

    assert talk(server[1], ask) == 20


def test_the_client_of_the_documentation(server: tuple[Any, int]) -> None:
    code = next(block for block in python_blocks("docs/stream.md") if "ws_connect" in block)
    names: dict[str, Any] = {}
    exec(code, names)
    answers = asyncio.run(names["follow"](f"http://127.0.0.1:{server[1]}", [png(image) for image in noise(3)], TOKEN))
    assert [answer["timestamp"] for answer in answers] == [0.0, 1 / 30, 2 / 30]


def test_what_it_runs(server: tuple[Any, int], checkpoint: Path) -> None:
    async def ask(client: Any, address: str) -> dict[str, Any]:
        async with client.get(f"{address}/checkpoint") as response:
            found: dict[str, Any] = await response.json()
            return found

    about = talk(server[1], ask)
    assert about["checkpoint"] == str(checkpoint) and about["people"] == "tokens" and about["body_model"] == "anny"


def test_a_posted_video_comes_back_as_results(server: tuple[Any, int], tmp_path: Path) -> None:
    from tests.test_live import write_video

    write_video(tmp_path / "walk.mp4", noise(8))

    async def ask(client: Any, address: str) -> bytes:
        async with client.post(f"{address}/video", data=(tmp_path / "walk.mp4").read_bytes(), timeout=None) as response:
            assert response.status == 200, await response.text()
            found: bytes = await response.read()
            return found

    async def ask_badly(client: Any, address: str) -> tuple[int, str]:
        async with client.post(f"{address}/video", data=b"no video at all" * 99, timeout=None) as response:
            return response.status, await response.text()

    with zipfile.ZipFile(io.BytesIO(talk(server[1], ask))) as packed:
        assert {"meta.json", "motion.npz", "cameras.npz"} <= set(packed.namelist())
        assert json.loads(packed.read("meta.json"))["stream"]["used"] == 8
    status, words = talk(server[1], ask_badly)
    assert status == 400 and "cannot be decoded" in words and "/tmp" not in words


# Bad ones


def test_a_hundred_bad_requests(server: tuple[Any, int]) -> None:
    """The script sends a thousand (benchmarks/serve_abuse.py)."""
    running, port = server
    report = serve_abuse.attack(port, TOKEN, 100, seed=3)
    assert report["got_in"] == 0 and report["outside_unanswered"] == 0
    assert sum(report["sent"].values()) == 100 and len(report["sent"]) > 20
    assert set(report["answers"]) <= {
        "101",
        "400",
        "401",
        "403",
        "404",
        "405",
        "408",
        "411",
        "413",
        "414",
        "431",
        "none",
    }
    assert asyncio.run(serve_abuse.ask_well(port, TOKEN))["health"]["status"] == "ok"
    assert running._videos == 0


def test_slow_clients_are_let_go_and_are_bounded(server: tuple[Any, int]) -> None:
    running, port = server
    held = serve_abuse.slow_clients(port, TOKEN, 60)
    time.sleep(0.3)
    assert len(running.connections) <= SETTINGS["max_connections"]
    assert running._streams <= ServeConfig().max_streams
    until = time.monotonic() + 30
    while serve_abuse.still_open(held) and time.monotonic() < until:
        time.sleep(0.2)
    assert serve_abuse.still_open(held) == 0
    assert talk(port, health)["streams"] == 0


def test_more_streams_than_allowed_are_refused(server: tuple[Any, int]) -> None:
    async def ask(client: Any, address: str) -> int:
        async with client.ws_connect(f"{address}/stream"), client.ws_connect(f"{address}/stream"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(f"{address}/stream")
            return int(refused.value.status)

    assert talk(server[1], ask) == 503


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper()])
def test_nobody_without_the_token_gets_in(server: tuple[Any, int], token: str | None) -> None:
    async def ask(client: Any, address: str) -> list[int]:
        found = []
        for path in ("/health", "/checkpoint", "/stream", "/nothing"):
            async with client.get(f"{address}{path}") as response:
                found.append(response.status)
        async with client.post(f"{address}/video", data=b"x") as response:
            return [*found, response.status]

    assert talk(server[1], ask, token) == [401] * 5


# Rules


def test_who_may_pass() -> None:
    local = Guard(ServeConfig(origins=["https://good.example"]), None)
    assert local.refusal({"Host": "127.0.0.1:8765"}) is None
    assert local.refusal({"Host": "[::1]:8765"}) is None
    assert local.refusal({"Host": "localhost", "Origin": "https://good.example"}) is None
    for headers in (
        {}, {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Host": "127.0.0.1@evil.example:80"},
        {"Host": "localhost", "Origin": "https://evil.example"}, {"Host": "localhost", "Origin": "null"},
        {"Host": "localhost", "Origin": "http://localhost:3000"}, {"Host": "["},
    ):  # fmt: skip
        refused = local.refusal(headers)
        assert refused is not None and refused[0] == 403, headers
    outside = Guard(ServeConfig(host="0.0.0.0"), TOKEN)
    assert outside.refusal({"Host": "camera.lan", "Authorization": f"Bearer {TOKEN}"}) is None
    for given in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer \udcff", "Bearer"):
        refused = outside.refusal({"Host": "camera.lan", "Authorization": given})
        assert refused is not None and refused[0] == 401, given
    assert host_name("a:b:c") == "a"


def test_another_address_needs_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FOOTFALL_TOKEN", raising=False)
    assert read_token(ServeConfig()) is None
    assert main(["serve", "host=0.0.0.0"]) == 2
    assert "no token" in capsys.readouterr().err
    monkeypatch.setenv("FOOTFALL_TOKEN", "short")
    assert main(["serve"]) == 2
    assert "5 characters" in capsys.readouterr().err
    monkeypatch.setenv("FOOTFALL_TOKEN", TOKEN)
    assert read_token(ServeConfig(host="0.0.0.0")) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}-2\nmore\n", encoding="utf-8")
    assert read_token(ServeConfig(token_file=str(tmp_path / "token"))) == f"{TOKEN}-2"
    with pytest.raises(FootfallError, match="no such file"):
        read_token(ServeConfig(token_file=str(tmp_path / "none")))


def test_frames_are_bounded_before_they_are_decoded() -> None:
    config = ServeConfig(max_frame_mb=0.01, max_pixels=64 * 64)
    assert decode_frame(png(np.zeros((64, 64, 3), np.uint8)), config).shape == (64, 64, 3)
    for data, words in (
        (bytes(20_000), "0.0 MB"), (png(np.zeros((64, 65, 3), np.uint8)), "65x64"), (b"", "no picture"),
        (serve_abuse.bomb_of(60_000), "too many pixels"), (serve_abuse.bomb_of(9000), "9000x9000"),
        (b"GIF89a" + bytes(100), "no picture"),
    ):  # fmt: skip
        with pytest.raises(FootfallError, match=words):
            decode_frame(data, config)


def test_settings_of_a_session_are_bounded(checkpoint: Path) -> None:
    student = Student.from_pretrained(checkpoint)
    from distill.body import load_body_model

    session = Session(student, load_body_model("anny"), ServeConfig(stream=LOW), landmarks=False)
    for text in ("x" * 2000, "[" * 999, "null", '{"timestamp": true}', '{"timestamp": NaN}', '{"gaps": [1]}'):
        with pytest.raises(FootfallError):
            session.tell(text)
    session.tell('{"focal_px": 77}')
    assert session.step(noise(1)[0], 0.0)["K"][0][0] == 77.0
    with pytest.raises(FootfallError, match="timestamp alone"):
        session.tell('{"focal_px": 78}')
