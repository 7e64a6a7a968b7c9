"""Connections that are bounded in number, and in the time they take to say what they want.

aiohttp waits for the rest of a request's headers for ever. Here a connection that has not brought a whole request after
some seconds is cut, and one too many is cut at once. No connection serves a second request, so that this holds for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Connections:
    """Wraps a factory of protocols."""

    def __init__(self, make: Callable[[], Any], *, most: int, header_seconds: float) -> None:
        """`make`: of aiohttp's server; `most`: connections at the same time."""
        self._make, self._most, self._header_seconds = make, most, header_seconds
        self._open: set[Any] = set()
        self._began: set[Any] = set()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def began(self, protocol: Any) -> None:
        """A whole request has come."""
        self._began.add(protocol)

    def __call__(self) -> Any:
        """A protocol for a new connection, watched."""
        return _Watched(self, self._make())

    def opened(self, protocol: Any, transport: asyncio.Transport) -> None:
        """A connection was made."""
        if len(self._open) >= self._most:
            transport.abort()
            return
        self._open.add(protocol)
        asyncio.get_running_loop().call_later(self._header_seconds, self._check, protocol, transport)

    def closed(self, protocol: Any) -> None:
        """A connection was lost."""
        self._open.discard(protocol)
        self._began.discard(protocol)

    def _check(self, protocol: Any, transport: asyncio.Transport) -> None:
        if protocol in self._open and protocol not in self._began:
            transport.abort()


class _Watched(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, and says when its connection begins and ends."""

    def __init__(self, connections: Connections, protocol: Any) -> None:
        self._connections, self._protocol = connections, protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._connections.opened(self._protocol, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.closed(self._protocol)
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        answer: bool | None = self._protocol.eof_received()
        return answer

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
