"""Who may talk to the server: hosts, pages, tokens.

A server on loopback is reached by every page that the user's browser shows: by address (which CORS does not stop where
only the request matters, and WebSockets know no CORS at all) and by a name that the page's owner lets point to
127.0.0.1 (DNS rebinding). Hence on loopback the Host must be a name of this machine, and wherever a browser says which
page asks (Origin), that page must have been allowed.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from distill.errors import FootfallError
from teacher.serve.config import LOOPBACK, ServeConfig

TOKEN_VARIABLE: Final = "FOOTFALL_TOKEN"
SHORTEST_TOKEN: Final = 16


def read_token(config: ServeConfig) -> str | None:
    """The token; None where there is none and none is needed.

    Raises:
        FootfallError: none, or too short a one, for an address that others reach.
    """
    if config.token_file:
        path = Path(config.token_file)
        if not path.is_file():
            raise FootfallError(f"token {path}", got="no such file", expected="a token", do="check token_file")
        token = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    else:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise FootfallError(
            "token", got=f"{len(token)} characters", expected=f"{SHORTEST_TOKEN} or more, printable ASCII",
            do="make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )  # fmt: skip
    if not token and config.host not in LOOPBACK:
        raise FootfallError(
            f"host {config.host}", got="no token", expected=f"one in {TOKEN_VARIABLE} or in token_file",
            do="set one, or listen at 127.0.0.1",
        )  # fmt: skip
    return token or None


class Guard:
    """Judges the headers of a request."""

    def __init__(self, config: ServeConfig, token: str | None) -> None:
        self._local = config.host in LOOPBACK
        self._origins = {origin.rstrip("/").lower() for origin in config.origins}
        self._token = None if token is None else token.encode()

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """HTTP status and words; None if the request may pass."""
        if self._local and host_name(headers.get("Host", "")) not in LOOPBACK:
            return 403, "this server answers to 127.0.0.1 and localhost alone"
        origin = headers.get("Origin")
        if origin is not None and origin.rstrip("/").lower() not in self._origins:
            return 403, "this page may not connect; allow it with origins=[...]"
        if self._token is not None and not self._has_token(headers.get("Authorization", "")):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None

    def _has_token(self, authorization: str) -> bool:
        """In constant time, whatever is given."""
        assert self._token is not None
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        return same and scheme.lower() == "bearer"


def host_name(host: str) -> str:
    """Name of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
