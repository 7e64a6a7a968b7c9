"""Videos that clients post: received to disk within bounds, worked on by `footfall run` in a process of its own.

Decoders of video are large and read what strangers send; a crash, a huge picture or an endless file ends that process
and not the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

from distill.errors import FootfallError
from teacher.serve.config import ServeConfig

RESULTS: Final = ("meta.json", "cameras.npz", "motion.npz", "scene.ply", "stream.npz", "latency.json")


async def receive(content: Any, path: Path, config: ServeConfig) -> None:
    """A request's body into a file.

    Raises:
        FootfallError: too large. TimeoutError: too slow.
    """
    size, most = 0, config.max_video_mb * 1e6
    async with asyncio.timeout(config.upload_seconds):
        with path.open("wb") as file:
            async for chunk in content.iter_chunked(1 << 16):
                size += len(chunk)
                if size > most:
                    raise FootfallError(
                        "video", got="more", expected=f"at most {config.max_video_mb:g} MB", do="send a shorter one"
                    )
                file.write(chunk)


async def work(video: Path, out: Path, checkpoint: str, config: ServeConfig, *, offline: bool) -> Path:
    """Run a video and zip what came of it.

    Raises:
        FootfallError: it cannot be read, or took too long.
    """
    stream = config.stream
    words = [
        "run", str(video), "--checkpoint", checkpoint, "--out", str(out), f"people={config.people}",
        f"device={config.device}", f"long_side={config.long_side}", f"stream.camera={stream.camera}",
        f"stream.focal_px={stream.focal_px}", *(["--offline"] if offline else []),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "teacher.cli", *words, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        limit = int(config.max_video_memory_gb * 1e9)
        if hasattr(resource, "prlimit"):  # Linux; not the address space, of which CUDA takes more than there is memory
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (limit, limit))
        async with asyncio.timeout(config.max_video_seconds):
            _, said = await process.communicate()
    except TimeoutError as error:
        raise FootfallError(
            "video", got=f"more than {config.max_video_seconds:g} s of work", expected="less", do="send a shorter one"
        ) from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        lines = [line for line in said.decode(errors="replace").splitlines() if line.startswith("footfall:")]
        raise FootfallError(
            "video", got=_without(lines[-1], video) if lines else f"exit code {process.returncode}",
            expected="a video that plays", do="check that it plays",
        )  # fmt: skip
    packed = out.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in RESULTS:
            archive.write(out / name, name)
    return packed


def _without(text: str, path: Path) -> str:
    """A message without where the file lay."""
    return text.removeprefix("footfall:").replace(str(path), "").strip()
