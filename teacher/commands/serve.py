"""`footfall serve [--checkpoint ID_OR_DIR] [key=value ...]`: a stream for other programs, over HTTP and WebSocket."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `footfall serve`."""
    parser.add_argument("--checkpoint", default="tiny", help="folder or Hub id; default: the one that ships")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, see docs/configuration.md")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    import asyncio
    import contextlib
    import logging

    from distill.config import load_config
    from distill.errors import require
    from teacher.serve.config import ServeConfig
    from teacher.serve.guard import read_token

    config = load_config(ServeConfig, None, args.overrides)
    token = read_token(config)
    require("aiohttp", extra="serve")
    from teacher.serve.app import Server

    server = Server(args.checkpoint, config, token)

    def ready(host: str, port: int) -> None:
        host = f"[{host}]" if ":" in host else host
        print(f"footfall: serving {args.checkpoint} at http://{host}:{port}; Ctrl-C ends it", flush=True)

    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # it quotes bad requests, and with them their headers
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.run(ready))
    return 0
