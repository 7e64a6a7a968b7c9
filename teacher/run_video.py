"""Run a checkpoint on a video: decode, find people, stream, write a result folder and the latencies."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError, is_installed
from distill.export import load_exported
from distill.files import save_arrays, write_json
from distill.fuser.log import ObservationLog
from distill.fuser.whole import WholePaths, smooth_clip
from distill.gaussian_stream import GaussianStream, GaussianStreamConfig, student_of
from distill.gaussian_views import write_gaussian_results
from distill.live import PacedSource, Picture, Source, open_source, overlapped
from distill.live.capture import shown
from distill.live.shrink import Shrink
from distill.live.stages import Passing, Points, Stages, place_points, statures
from distill.models.student import Student
from distill.on_device import place_student
from distill.people.tracker import PeopleTracker, TrackerConfig
from distill.provenance import code_commit
from distill.recorder import Recorder
from distill.results import save_result
from distill.spool import Rows
from distill.stream import TIMES_KEPT, Finder, FrameResult, Network, Stream, StreamConfig
from teacher.progress import Progress


@dataclass(kw_only=True)
class RunConfig:
    """`footfall run`."""

    long_side: int = 640
    """Frames are reduced to this longer side, pixels, before people are looked for."""
    image_fps: float = 30.0
    """Frame rate of a folder of images."""
    people: Literal["auto", "tokens", "landmarks"] = "auto"
    """Who finds and follows people: the student in its own tokens, or the landmark tracker (extra `people`).
    "auto" takes the tracker where it is installed: it has seen real people."""
    device: str = "auto"
    """Where the network runs: "cpu", "cuda", "cuda:1"; "auto" takes a CUDA device if there is one."""
    scene_every: int = 15
    """Frames between those whose points join the scene."""
    live: Literal["auto", "always"] = "auto"
    """Cameras and streams without an end are live: frames that come while others are worked on are dropped, and the
    newest is taken. "always" plays a file at its own speed, as if it were live."""
    most_frames: int = 0
    """Stop after this many frames of the source; 0 goes on to its end."""
    offline: bool = False
    """`--offline`: improve every frame by all later ones, once the video has ended."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    gaussians: GaussianStreamConfig = field(default_factory=GaussianStreamConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)

    def __post_init__(self) -> None:
        if self.live not in ("auto", "always") or self.most_frames < 0:
            raise ValueError("run: live of auto or always and most_frames >= 0 are expected")
        if self.long_side < 64 or self.image_fps <= 0 or self.scene_every < 1:
            raise ValueError("run: long_side >= 64, image_fps > 0 and scene_every >= 1 are expected")


def load_network(checkpoint: str, device: str = "auto") -> tuple[Network, str]:
    """A student or exported graphs, and the name of its body model.

    Raises:
        FootfallError: neither, or one that cannot be loaded.
    """
    folder = Path(checkpoint)
    if (folder / "export.json").is_file():
        exported = load_exported(folder)
        return exported, exported.body_model
    student = Student.from_pretrained(checkpoint)
    return place_student(student, None if device == "auto" else device), student.config.body_model


def run_video(video: Path | str | Source, checkpoint: str, out: Path, config: RunConfig) -> dict[str, Any]:
    """Stream a video, a camera or a URL; write `cameras.npz`, `motion.npz`, `scene.ply`, `stream.npz`, `meta.json` and
    `latency.json` to `out`. Interrupted once (Ctrl-C), it ends as if the video had ended there.

    A checkpoint with a Gaussian head adds `gaussians.ply`, `avatars/` and `views/`; `meta.json` says if it has none.

    Returns:
        Frames, people, frames per second, `dropped` frames of a live source, `ended`: "end", "most_frames" or
        "interrupted".

    Raises:
        FootfallError: video or checkpoint cannot be read; nothing is written then.
    """
    network, body_name = load_network(checkpoint, config.device)
    source = open_source(str(video), image_fps=config.image_fps) if isinstance(video, Path | str) else video
    if config.live == "always" and not source.live:
        source = PacedSource(source)
    body = load_body_model(body_name)
    shown_name = shown(str(video)) if isinstance(video, Path | str) else type(video).__name__
    pictures = source.frames()
    first = next(pictures, None)
    if first is None:
        raise FootfallError(
            f"video {shown_name}", got="no readable frame", expected="a video", do="check that it plays"
        )
    shrink = Shrink((first.image.shape[1], first.image.shape[0]), config.long_side, config.stream)
    stream = Stream(
        network, shrink.size, config.stream, K=shrink.K, K_known=config.stream.knows_lens, body=body
    )  # fmt: skip
    use_tokens = not takes_landmarks(config.people, network)
    out.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(
        stream.K.numpy(), shrink.size, body_name, scale_seconds=config.stream.fuser.scale_seconds, folder=out
    )
    gaussians = None if config.offline else start_gaussians(stream, config.gaussians, body)
    stages = Stages(
        stream, shrink, None if use_tokens else PeopleTracker(config.tracker), body, scene_every=config.scene_every,
        gaussians=gaussians, log=ObservationLog(out) if config.offline else None,
    )  # fmt: skip
    run = _Run(source, itertools.chain([first], pictures), stages, recorder, config)
    with torch_threads(config.device), stop_on_interrupt(source) as interrupted:
        start = time.perf_counter()
        run.go(shown_name)
        seconds = time.perf_counter() - start
    ended = "interrupted" if interrupted.is_set() else run.ended
    smoothed = _smooth(recorder, stages, config) if stages.log is not None and len(recorder) else None
    whole = recorder.result(smoothed=smoothed)
    finder = "tokens" if use_tokens else "landmarks"
    whole.meta |= {
        "made_by": "footfall run", "checkpoint": checkpoint, "people": finder, "commit": code_commit(),
        "offline": config.offline, "stream": run.summary(shown_name, ended),
    }  # fmt: skip
    whole.meta["gaussians"] = _why_no_gaussians(config)
    parts = {name: list(spent) for name, spent in (stages.times | run.times).items()}
    if gaussians is not None:
        turn = torch.tensor(whole.meta.get("world_from_first_camera", np.eye(4).tolist()))
        whole.meta["gaussians"] = write_gaussian_results(out, gaussians, turn)
        parts |= {f"gaussians_{name}": list(spent) for name, spent in gaussians.times.items()}
    save_result(out, whole)
    save_arrays(out / "stream.npz", {"source_frame": run.source_frames.read()["frame"]})
    frames = len(whole.cameras.timestamps)
    times = stream.latency() | {name: percentiles(part) for name, part in parts.items() if part}
    machine = {"hardware": _hardware(), "torch": torch.__version__, "commit": code_commit()}
    write_json(out / "latency.json", {**times, "frames_per_s": frames / seconds, "frames": frames, **machine})
    return {
        "frames": frames, "people": len(whole.motion.ids), "frames_per_s": frames / seconds, "dropped": run.dropped,
        "ended": ended,
    }  # fmt: skip


class _Run:
    """Frames through all stages, and into the recorder."""

    def __init__(
        self, source: Source, pictures: Iterator[Picture], stages: Stages, recorder: Recorder, config: RunConfig
    ) -> None:
        self.source, self.stages, self.recorder, self.config = source, stages, recorder, config
        self._pictures = pictures
        self._points: dict[int, Points] = {}
        self.source_frames = Rows(np.dtype([("frame", "i8")]))
        self.ended = "end"
        self.dropped = self.given = 0
        self.times: dict[str, deque[float]] = {name: deque(maxlen=TIMES_KEPT) for name in ("decode", "write")}

    def go(self, name: str) -> None:
        """All frames, until the source ends or is closed."""
        progress = Progress(1, title="run")
        live, length = self.source.live, self.source.length
        passing = overlapped(self._decoded(), self.stages.all(), depth=1 if live else 2, newest=live)
        with contextlib.closing(passing):
            for frame in passing:
                start = time.perf_counter()
                self._take(frame)
                self.times["write"].append(time.perf_counter() - start)
                count = frame.picture.index + 1
                progress.update(
                    name, count / length if length else 0.0, f"frame {count} of {length or 'a live source'}"
                )
        for ready in self.stages.stream.finish():
            if self.config.stream.settle:
                self._record(ready)
            if self.stages.gaussians is not None:
                self.stages.gaussians.settle(ready)

    def _decoded(self) -> Iterator[Picture]:
        """Frames as they are read, with the time that took, up to the wanted number."""
        for count in itertools.count(1):
            start = time.perf_counter()
            picture = next(self._pictures, None)
            if picture is None:
                return
            self.times["decode"].append(time.perf_counter() - start)
            self.given = picture.index + 1
            yield picture
            if count == self.config.most_frames:
                self.ended = "most_frames"
                self.source.close()
                return

    def _take(self, frame: Passing) -> None:
        """A frame that has passed all stages."""
        if frame.result is None:
            return
        self.source_frames.add({"frame": frame.picture.index})
        if frame.background is not None:
            self._points[frame.result.index] = frame.background
        for ready in frame.settled if self.config.stream.settle else [frame.result]:
            self._record(ready)

    def _record(self, frame: FrameResult) -> None:
        index = len(self.recorder)
        self.recorder.add(frame, statures(frame, self.stages.body))
        if frame.index in self._points:
            self.recorder.cloud.add(*place_points(self._points.pop(frame.index), frame), index)

    def summary(self, name: str, ended: str) -> dict[str, Any]:
        """For `meta.json`: where frames came from and which of them were not used."""
        used, other = len(self.source_frames), self.stages.other_shapes
        missing = self.given - used - other
        self.dropped = missing if self.source.live else 0
        return {
            "source": name, "live": self.source.live, "ended": ended, "given": self.given, "used": used,
            "dropped": self.dropped, "unreadable": missing - self.dropped, "other_shape": other,
        }  # fmt: skip


def _smooth(recorder: Recorder, stages: Stages, config: RunConfig) -> WholePaths:
    """The pass over the whole clip."""
    assert stages.log is not None
    return smooth_clip(
        stages.log, recorder.paths(), config.stream.fuser, camera=config.stream.camera, starts=recorder.starts
    )


@contextlib.contextmanager
def stop_on_interrupt(source: Source) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) ends the source and sets the event; the second one interrupts for good."""
    interrupted = threading.Event()

    def stop(number: int, _: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        threading.Thread(target=source.close, daemon=True).start()  # it may wait for a frame

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def torch_threads(device: str) -> Iterator[None]:
    """Half of the cores for each of the two stages that compute on the CPU, encoding and pairing."""
    before = torch.get_num_threads()
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if on_cpu:
        torch.set_num_threads(max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _why_no_gaussians(config: RunConfig) -> str:
    if config.offline:
        return "left out: they would be made before --offline moves the cameras"
    return "the checkpoint has no Gaussian head" if config.gaussians.use == "auto" else "not asked for"


def start_gaussians(stream: Stream, config: GaussianStreamConfig, body: BodyModel) -> GaussianStream | None:
    """Gaussians beside a stream; None where they are not wanted or its network has no head for them."""
    student = student_of(stream.network)
    has_head = student is not None and student.gaussians is not None
    return GaussianStream(stream, config, body) if has_head and config.use == "auto" else None


def takes_landmarks(people: str, network: Network) -> bool:
    """Whether the landmark tracker finds people, and not the network, by the setting `people`."""
    has_tracker = is_installed("cv2") and is_installed("ai_edge_litert")
    wanted = people if people != "auto" else "landmarks" if has_tracker else "tokens"
    return wanted == "landmarks" or not isinstance(network, Finder)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 of durations, in milliseconds."""
    p50, p95, p99 = 1e3 * np.percentile(seconds, [50, 95, 99])
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3), "p99_ms": round(float(p99), 3)}


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
