"""A video through an exported folder: decode, encode, pair and fuse at the same time, then write a result folder."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import write_json
from distill.live.files import FileSource
from distill.live.pipeline import overlapped
from distill.live.shrink import Shrink
from distill.live.source import Picture
from distill.provenance import code_commit, hardware, versions
from distill.recorder import Recorder
from distill.results import save_result
from distill.runner.body import Body
from distill.runner.frames import Found, Frame, Predicted
from distill.runner.network import ArrayNetwork, OnnxNetwork
from distill.runner.stream import ArrayStream
from distill.stream_config import StreamConfig

Array = NDArray[Any]
Points = tuple[Array, Array]
"""[N, 3] and their colours [N, 3] uint8."""


@dataclass(kw_only=True)
class RunnerConfig:
    """The runner on onnxruntime."""

    long_side: int = 640
    """Frames are reduced to this longer side, pixels, before anything is looked for."""
    image_fps: float = 30.0
    """Frame rate of a folder of images."""
    scene_every: int = 15
    """Frames between those whose points join the scene."""
    threads: int = 1
    """Threads of one call of a graph. Decoding, encoding, pairing and fusing each have a thread of their own."""
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        if self.long_side < 64 or self.image_fps <= 0 or min(self.scene_every, self.threads) < 1:
            raise ValueError("long_side >= 64, image_fps > 0, scene_every and threads of 1 or more are expected")


@dataclass(kw_only=True)
class Known:
    """What is known after a picture."""

    newest: Frame
    settled: list[Frame]
    """Frames that nothing will change any more."""
    scene: Points | None
    """Points [N, 3] of the background in the world, metres, and their colours [N, 3] uint8, once in a while."""


@dataclass(kw_only=True)
class Running:
    """A stream over a source of pictures, its stages overlapped."""

    stream: ArrayStream
    shrink: Shrink
    scene_every: int

    def frames(self, pictures: Iterator[Picture]) -> Iterator[Known]:
        """Everything, in order, while later pictures are already on their way."""
        return overlapped(self._read(pictures), [self._encode, self._predict, self._fuse])

    def _read(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        """Each method is all that one thread does."""
        end = object()
        while (picture := self.stream.timed("decode", lambda: next(pictures, end))) is not end:
            assert isinstance(picture, Picture)
            yield picture

    def _encode(self, picture: Picture) -> tuple[float, Points | None, Found]:
        """All that looks at the frame itself."""
        stream = self.stream
        small = stream.timed("shrink", lambda: self.shrink(picture.image))
        found = stream.find(stream.encode(small, picture.timestamp))
        wanted = stream.network.has_points and found.frame.index % self.scene_every == 0
        return picture.came, stream.timed("scene", lambda: stream.background(found)) if wanted else None, found

    def _predict(self, item: tuple[float, Points | None, Found]) -> tuple[float, Points | None, Predicted]:
        came, scene, frame = item
        return came, scene, self.stream.predict(frame)

    def _fuse(self, item: tuple[float, Points | None, Predicted]) -> Known:
        came, scene, frame = item
        newest = self.stream.fuse(frame)
        self.stream.times["latency"].append(time.monotonic() - came)
        placed = None if scene is None else _place(scene, frame.log_scale, newest)
        return Known(newest=newest, settled=self.stream.settled(), scene=placed)


def _place(scene: Points, log_scale: float, newest: Frame) -> Points:
    """A frame's points in the world, true metres, with their colours."""
    (points, rgb), world = scene, newest.world_from_cam
    return points * np.exp(log_scale - newest.log_scale) @ world[:3, :3].T + world[:3, 3], rgb


def start(network: ArrayNetwork, body: Body, first: Picture, config: RunnerConfig) -> Running:
    """A stream for pictures of the size of the first."""
    size = (first.image.shape[1], first.image.shape[0])
    shrink = Shrink(size, config.long_side, config.stream)
    stream = ArrayStream(
        network, shrink.size, body, config.stream, K=shrink.matrix, K_known=config.stream.knows_lens
    )  # fmt: skip
    return Running(stream=stream, shrink=shrink, scene_every=config.scene_every)


def run_graphs(video: Path, graphs: Path, out: Path, config: RunnerConfig) -> dict[str, Any]:
    """Run exported ONNX graphs on a video; write `cameras.npz`, `motion.npz`, `scene.ply`, `meta.json` and
    `latency.json` to `out`.

    Returns:
        Frames, people and frames per second.

    Raises:
        FootfallError: video or graphs cannot be read; nothing is written then.
    """
    network, body = OnnxNetwork(graphs, threads=config.threads), Body(graphs / "body.npz")
    return run_network(network, body, video, out, config)


def run_network(network: ArrayNetwork, body: Body, video: Path, out: Path, config: RunnerConfig) -> dict[str, Any]:
    """`run_graphs` with any network of arrays."""
    pictures = FileSource(video, image_fps=config.image_fps).frames()
    began, processor = time.perf_counter(), time.process_time()
    first = next(pictures, None)
    if first is None:
        raise FootfallError(f"video {video}", got="no readable frame", expected="a video", do="check that it plays")
    running = start(network, body, first, config)
    stream, shrink = running.stream, running.shrink
    recorder = Recorder(shrink.matrix, shrink.size, body.name, scale_seconds=config.stream.fuser.scale_seconds)
    for known in running.frames(itertools.chain([first], pictures)):
        stream.timed("record", lambda known=known: _record(recorder, known, body, settle=config.stream.settle))  # type: ignore[misc]
    for ready in stream.finish() if config.stream.settle else []:
        recorder.add(ready, {person.id: body.stature(person.betas) for person in ready.people})
    whole = recorder.result()
    whole.meta |= {"made_by": "footfall-onnx", "people": "tokens", "commit": code_commit()}
    stream.timed("write", lambda: save_result(out, whole))
    seconds, spent = time.perf_counter() - began, time.process_time() - processor
    frames = len(whole.cameras.timestamps)
    summary = {"frames": frames, "people": len(whole.motion.ids), "frames_per_s": frames / seconds}
    write_json(out / "latency.json", {
        "ms": percentiles(stream.times), "processor_ms": percentiles(stream.processor), **summary,
        "processor_ms_per_frame": round(1e3 * spent / frames, 3), "hardware": hardware(),
        "versions": versions("onnxruntime", "numpy", "torch"), "commit": code_commit(),
    })  # fmt: skip
    return summary


def _record(recorder: Recorder, known: Known, body: Body, *, settle: bool) -> None:
    for ready in known.settled if settle else [known.newest]:
        recorder.add(ready, {person.id: body.stature(person.betas) for person in ready.people})
    if known.scene is not None:
        recorder.cloud.add(*known.scene)


def percentiles(times: Mapping[str, Iterable[float]]) -> dict[str, dict[str, float]]:
    """Part -> milliseconds p50, p95, p99 and mean, of part -> seconds."""
    found = {}
    for part, seconds in times.items():
        ms = 1e3 * np.fromiter(seconds, float)
        p50, p95, p99 = np.percentile(ms, [50, 95, 99])
        found[part] = {
            name: round(float(value), 3)
            for name, value in (("p50", p50), ("p95", p95), ("p99", p99), ("mean", ms.mean()))
        }
    return found
