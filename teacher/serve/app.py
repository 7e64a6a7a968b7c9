"""The server: `GET /health`, `GET /checkpoint`, `POST /video`, and `/stream` as a WebSocket.

One thread computes for all clients, a frame at a time; a client's next frame is read when its last one is answered, so
that nothing piles up.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.body import load_body_model
from distill.errors import FootfallError, require
from teacher.run_video import load_network, takes_landmarks
from teacher.serve.config import ServeConfig
from teacher.serve.connections import Connections
from teacher.serve.guard import Guard
from teacher.serve.images import decode_frame
from teacher.serve.sessions import Session
from teacher.serve.videos import receive, work

if TYPE_CHECKING:
    from aiohttp import web

MOST_MISTAKES = 20
"""Messages that cannot be used, after which a client is let go."""


class Server:
    """A checkpoint behind HTTP and WebSocket."""

    def __init__(self, checkpoint: str, config: ServeConfig, token: str | None) -> None:
        """Load the checkpoint.

        Raises:
            FootfallError: it cannot be loaded.
        """
        self._aiohttp = require("aiohttp", extra="serve")
        self._web = require("aiohttp.web", extra="serve")
        self.checkpoint, self.config = checkpoint, config
        self.network, self.body_model = load_network(checkpoint, config.device)
        self.body = load_body_model(self.body_model)
        self.landmarks = takes_landmarks(config.people, self.network)
        self._guard = Guard(config, token)
        self._streams = self._videos = 0
        self._frames = 0
        self._started = time.monotonic()
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self.connections: Connections | None = None

    def app(self) -> web.Application:
        """The routes."""

        @self._web.middleware  # type: ignore[untyped-decorator]
        async def watch(request: web.Request, handler: Any) -> web.StreamResponse:
            return await self._watch(request, handler)

        app: web.Application = self._web.Application(middlewares=[watch], client_max_size=1 << 16)
        app.router.add_get("/health", self.health)
        app.router.add_get("/checkpoint", self.about)
        app.router.add_get("/stream", self.stream)
        app.router.add_post("/video", self.video)
        return app

    async def _watch(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Who may pass; one answer per connection; mistakes become answers."""
        if self.connections is not None:
            self.connections.began(request.protocol)
        refused = self._guard.refusal(request.headers)
        try:
            answer = self._refuse(*refused) if refused else await handler(request)
        except FootfallError as error:
            answer = self._refuse(400, str(error))
        except TimeoutError:
            answer = self._refuse(408, "too slow")
        if not answer.prepared:
            answer.force_close()
            answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    async def health(self, _: web.Request) -> web.Response:
        """That it runs, and how busy it is."""
        return self._web.json_response({
            "status": "ok", "streams": self._streams, "videos": self._videos, "frames": self._frames,
            "up_s": round(time.monotonic() - self._started, 1),
        })  # fmt: skip

    async def about(self, _: web.Request) -> web.Response:
        """What it runs."""
        return self._web.json_response({
            "checkpoint": self.checkpoint, "body_model": self.body_model,
            "people": "landmarks" if self.landmarks else "tokens", "max_frame_mb": self.config.max_frame_mb,
            "max_pixels": self.config.max_pixels, "max_video_mb": self.config.max_video_mb,
        })  # fmt: skip

    async def video(self, request: web.Request) -> web.StreamResponse:
        """A video in, a zip of its results out."""
        if self._videos >= self.config.max_videos:
            return self._refuse(503, "busy with other videos; try again later")
        if (request.content_length or 0) > self.config.max_video_mb * 1e6:
            return self._refuse(413, f"at most {self.config.max_video_mb:g} MB")
        self._videos += 1
        try:
            with tempfile.TemporaryDirectory(prefix="footfall-") as folder:
                path = Path(folder) / "video"
                await receive(request.content, path, self.config)
                offline = request.query.get("offline") == "true"
                packed = await work(path, Path(folder) / "result", self.checkpoint, self.config, offline=offline)
                response: web.StreamResponse = self._web.StreamResponse(headers={"Content-Type": "application/zip"})
                response.content_length = packed.stat().st_size
                response.force_close()
                await response.prepare(request)
                with packed.open("rb") as file:
                    while chunk := file.read(1 << 16):
                        async with asyncio.timeout(self.config.idle_seconds):
                            await response.write(chunk)
                await response.write_eof()
                return response
        finally:
            self._videos -= 1

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Frames in, JSON out."""
        if self._streams >= self.config.max_streams:
            return self._refuse(503, "busy with other streams; try again later")
        socket: web.WebSocketResponse = self._web.WebSocketResponse(
            max_msg_size=int(self.config.max_frame_mb * 1e6), timeout=self.config.idle_seconds, compress=False
        )  # no compression: a small message cannot grow
        self._streams += 1
        try:
            await socket.prepare(request)
            session = Session(self.network, self.body, self.config, landmarks=self.landmarks)
            await self._serve(socket, session)
        finally:
            self._streams -= 1
        return socket

    async def _serve(self, socket: web.WebSocketResponse, session: Session) -> None:
        codes, kinds = self._aiohttp.WSCloseCode, self._aiohttp.WSMsgType
        first, mistakes = time.monotonic(), 0
        while mistakes < MOST_MISTAKES:
            try:
                message = await socket.receive(timeout=self.config.idle_seconds)
            except TimeoutError:
                await socket.close(code=codes.POLICY_VIOLATION, message=b"idle")
                return
            if message.type not in (kinds.BINARY, kinds.TEXT):
                return  # closed, or broken
            try:
                answer = await self._answer(session, message.data, time.monotonic() - first)
            except FootfallError as error:
                mistakes += 1
                answer = {"error": str(error)}
            if answer is not None:
                async with asyncio.timeout(self.config.idle_seconds):
                    await socket.send_json(answer)
        await socket.close(code=codes.POLICY_VIOLATION, message=b"too many mistakes")

    async def _answer(self, session: Session, data: str | bytes, arrived: float) -> dict[str, Any] | None:
        """Of one message; None for settings."""
        if isinstance(data, str):
            session.tell(data)
            return None

        def compute() -> dict[str, Any]:
            return session.step(decode_frame(data, self.config), arrived)

        answer = await asyncio.get_running_loop().run_in_executor(self._compute, compute)
        self._frames += 1
        return answer

    async def run(self, ready: Callable[[str, int], None]) -> None:
        """Serve until cancelled; `ready` is called with address and port."""
        runner = self._web.AppRunner(
            self.app(), access_log=None, handle_signals=False, max_line_size=4096, max_field_size=4096,
            max_headers=64, keepalive_timeout=1.0, shutdown_timeout=2.0,
        )  # fmt: skip
        await runner.setup()
        assert runner.server is not None
        self.connections = Connections(
            runner.server, most=self.config.max_connections, header_seconds=self.config.header_seconds
        )
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self.connections, self.config.host, self.config.port, backlog=64)
        try:
            ready(*server.sockets[0].getsockname()[:2])
            await asyncio.Event().wait()
        finally:
            server.close()
            await runner.cleanup()
            self._compute.shutdown(wait=False, cancel_futures=True)

    def _refuse(self, status: int, words: str) -> web.Response:
        answer: web.Response = self._web.json_response({"error": words}, status=status)
        return answer
