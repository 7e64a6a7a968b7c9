"""Labelling a collection: inputs -> clips -> stages -> shards. `footfall label` is this module.

    OUT/
        config.yaml        the complete configuration
        clips/ID/...       one workspace per clip (`workspace`)
        shards/*.tar       labels of the accepted clips (`distill.shards`)
        manifest.json      what is in the shards and where it came from

A run that was stopped goes on where it was: stages whose records hold are skipped.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import queue
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.config import load_config, save_config
from distill.errors import FootfallError, require
from distill.files import write_text
from teacher.manifest import fingerprint, read_inputs
from teacher.progress import Progress
from teacher.workspace import ClipFolder, ClipSource

NEEDED_PACKAGES = ("cv2", "ai_edge_litert", "pycolmap")
"""What the embedded initialisers import; the extra [teacher] brings them."""


@dataclass(kw_only=True)
class LabelReport:
    """What a labelling run did."""

    clips: list[str]
    """Every clip of this run, in order."""
    failed: dict[str, str]
    """Clip -> the reason why it has no label."""
    manifest: dict[str, Any]
    """The shards' manifest."""


def label(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> LabelReport:
    """Label videos: solve every clip and pack the accepted ones into shards.

    Args:
        inputs: video files, folders of videos or of numbered images, manifests (`teacher.manifest`).
        out: folder for clips, shards and manifest; an existing one is continued.
        config: YAML file of `teacher.config.LabelConfig`; None for the defaults.
        overrides: dotted assignments such as "optimise.steps=200".

    Raises:
        FootfallError: bad input, config or folder; nothing has been started then. A clip that fails later
            does not stop the others: see `LabelReport.failed`.
    """
    for package in NEEDED_PACKAGES:
        require(package, extra="teacher")
    from teacher.config import LabelConfig
    from teacher.pack import pack

    settings = load_config(LabelConfig, Path(config) if config else None, overrides)
    sources = read_inputs(inputs)
    out = Path(out)
    _make_writable(out)
    save_config(out / "config.yaml", settings)
    clips = [clip for source in sources for clip in _clips_of(source, out, settings)]
    failed = _run_all(clips, settings)
    manifest = pack(out, settings.pack)
    return LabelReport(clips=[clip.id for clip in clips], failed=failed, manifest=manifest)


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FootfallError(
            f"output folder {out}", got=error.strerror, expected="a folder that can be written",
            do="choose another --out",
        ) from error  # fmt: skip


def _clips_of(source: ClipSource, out: Path, settings: Any) -> Iterator[ClipFolder]:
    """Split a source at its shot cuts and write `clip.json` of each part."""
    from teacher.video import split_shots

    source = replace(source, sha256=source.sha256 or fingerprint(Path(source.path)))
    known = _known_shots(source, out)
    if known:  # cut points of an unchanged file are known from last time
        yield from known
        return
    try:
        window = (source.start_s, source.end_s)
        shots = split_shots(Path(source.path), settings.video, source.fps, window=window)
    except FootfallError:  # the frames stage will meet the same fault and record it
        shots = [(source.start_s, source.end_s)]
    for number, (start_s, end_s) in enumerate(shots):
        identifier = source.id if number == 0 else f"{source.id}-shot{number:03d}"
        clip = ClipFolder(out / "clips" / identifier)
        clip.write_source(replace(source, id=identifier, start_s=start_s, end_s=end_s))
        yield clip


def _known_shots(source: ClipSource, out: Path) -> list[ClipFolder]:
    """The clips of last time, if they are those of the same source and cover the same part of it; else none."""
    folders = [out / "clips" / source.id, *sorted((out / "clips").glob(f"{source.id}-shot*"))]
    clips = [ClipFolder(folder) for folder in folders if (folder / "clip.json").is_file()]
    same = [clip for clip in clips if _same_source(clip, source)]
    if not same or same[0].id != source.id:
        return []
    covered = (same[0].source.start_s, same[-1].source.end_s)
    return same if covered == (source.start_s, source.end_s) else []


def _same_source(clip: ClipFolder, source: ClipSource) -> bool:
    stored = clip.source
    return replace(stored, id=source.id, start_s=source.start_s, end_s=source.end_s) == source


def _run_all(clips: list[ClipFolder], settings: Any) -> dict[str, str]:
    progress = Progress(len(clips), title="label")
    failed: dict[str, str] = {}

    def ended(clip_id: str, reason: str) -> None:
        progress.update(clip_id, 1.0, "failed" if reason else "done")
        if reason:
            failed[clip_id] = reason
            progress.message(f"clip {clip_id} failed: {reason}")

    if settings.workers == 1 or len(clips) == 1:
        for clip in clips:
            ended(clip.id, _run_one(clip.root, settings, progress.update))
        return failed
    context = mp.get_context("spawn")  # decoders and thread pools do not survive a fork
    with context.Manager() as manager:
        messages = manager.Queue()
        workers = min(settings.workers, len(clips))
        with ProcessPoolExecutor(workers, context, _init_worker, (messages,)) as pool:
            futures = {clip.id: pool.submit(_run_in_worker, clip.root, settings) for clip in clips}
            _follow(futures, messages, progress, ended)
    return failed


def _follow(futures: dict[str, Future[str]], messages: Any, progress: Progress, ended: Any) -> None:
    """Show the workers' progress until every clip has ended."""
    open_clips = dict(futures)
    while open_clips:
        with contextlib.suppress(queue.Empty):
            progress.update(*messages.get(timeout=0.5))
        for clip_id in [name for name, future in open_clips.items() if future.done()]:
            future = open_clips.pop(clip_id)
            error = future.exception()
            ended(clip_id, f"worker died: {error}" if error else future.result())


_messages: Any = None
"""The queue of this worker process, set once by `_init_worker`."""


def _init_worker(messages: Any) -> None:
    global _messages
    _messages = messages


def _run_in_worker(root: Path, settings: Any) -> str:
    return _run_one(root, settings, lambda *message: _messages.put(message))


def _run_one(root: Path, settings: Any, update: Any) -> str:
    """Run one clip; returns the reason if it failed, else "". A fault of ours costs this clip only."""
    import torch

    from teacher.stages import StageFailedError, run_clip

    clip = ClipFolder(root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the teacher's tensors are small: more threads wait for each other
    try:
        with clip.lock() as mine:
            if not mine:
                return "another process is working on it"
            run_clip(clip, settings, lambda fraction, text: update(clip.id, fraction, text))
    except StageFailedError as failure:
        return f"{failure.stage}: {failure.reason}"
    except Exception as error:
        write_text(clip.root / "error.txt", traceback.format_exc())
        return f"internal error: {type(error).__name__}: {error} (see {clip.root / 'error.txt'})"
    finally:
        torch.set_num_threads(threads)
    return ""
