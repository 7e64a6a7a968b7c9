"""Run a checkpoint on a video: decode, find people, stream, write a result folder and the latencies."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError, is_installed
from distill.export import load_exported
from distill.files import write_json
from distill.gaussian_stream import GaussianStream, GaussianStreamConfig, student_of
from distill.gaussian_views import write_gaussian_results
from distill.models.student import Student
from distill.on_device import place_student
from distill.people.tracker import PeopleTracker, TrackerConfig
from distill.provenance import code_commit
from distill.recorder import Recorder
from distill.results import save_result
from distill.stream import Finder, FrameResult, Network, Stream, StreamConfig
from distill.video import Decoder
from teacher.progress import Progress


@dataclass(kw_only=True)
class RunConfig:
    """`footfall run`."""

    long_side: int = 640
    """Frames are reduced to this longer side, pixels, before people are looked for."""
    image_fps: float = 30.0
    """Frame rate of a folder of images."""
    people: Literal["auto", "tokens", "landmarks"] = "auto"
    """Who finds and follows people: the student in its own tokens, or the landmark tracker (extra `people`), which
    exported graphs always take. "auto" takes the tracker where it is installed: it has seen real people."""
    device: str = "auto"
    """Where the network runs: "cpu", "cuda", "cuda:1"; "auto" takes a CUDA device if there is one."""
    scene_every: int = 15
    """Frames between those whose points join the scene."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    gaussians: GaussianStreamConfig = field(default_factory=GaussianStreamConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)

    def __post_init__(self) -> None:
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


def run_video(video: Path, checkpoint: str, out: Path, config: RunConfig) -> dict[str, Any]:
    """Stream a video; write `cameras.npz`, `motion.npz`, `scene.ply`, `meta.json` and `latency.json` to `out`.

    A checkpoint with a Gaussian head adds `gaussians.ply`, `avatars/` and `views/`; `meta.json` says if it has none.

    Returns:
        Frames, people and frames per second.

    Raises:
        FootfallError: video or checkpoint cannot be read; nothing is written then.
    """
    network, body_name = load_network(checkpoint, config.device)
    decoder = Decoder(video, fps=config.image_fps if video.is_dir() else None)
    body = load_body_model(body_name)
    wanted = config.people if config.people != "auto" else "landmarks" if _has_tracker() else "tokens"
    use_tokens = wanted == "tokens" and isinstance(network, Finder)
    tracker = None if use_tokens else PeopleTracker(config.tracker)
    stream: Stream | None = None
    recorder: Recorder | None = None
    gaussians: GaussianStream | None = None
    progress = Progress(1, title="run")
    parts: dict[str, list[float]] = {"people": []}
    start = time.perf_counter()
    scale = 1.0
    for index, frame in decoder.frames(range(len(decoder))):
        if frame is None:
            continue
        scale = min(1.0, config.long_side / max(frame.shape[:2]))
        size = (2 * round(frame.shape[1] * scale / 2), 2 * round(frame.shape[0] * scale / 2))
        image = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        if stream is None or recorder is None:
            settings = config.stream
            K = settings.intrinsics((frame.shape[1], frame.shape[0])) * torch.tensor([[scale], [scale], [1.0]])
            stream = Stream(network, size, settings, K=K, K_known=settings.focal_px > 0, body=body)
            recorder = Recorder(stream.K.numpy(), size, body_name, scale_seconds=settings.fuser.scale_seconds)
            gaussians = start_gaussians(stream, config.gaussians, body)
        boxes = None
        if tracker is not None:
            began = time.perf_counter()
            boxes = {p.id: p.pose.box_xyxy for p in tracker.step(image)}
            parts["people"].append(time.perf_counter() - began)
        result = stream.step(image, float(decoder.timestamps[index]), boxes)
        if gaussians is not None:
            gaussians.look(image, result)
        for ready in stream.settled() if config.stream.settle else [result]:
            recorder.add(ready, _statures(ready, body))
            if gaussians is not None:
                gaussians.settle(ready)
        if index % config.scene_every == 0:
            recorder.cloud.add(*stream.scene(image, result))
        progress.update(video.name, (index + 1) / len(decoder), f"frame {index + 1} of {len(decoder)}")
    if recorder is None or stream is None:
        raise FootfallError(f"video {video}", got="no readable frame", expected="a video", do="check that it plays")
    for ready in stream.finish() if config.stream.settle else []:
        recorder.add(ready, _statures(ready, body))
        if gaussians is not None:
            gaussians.settle(ready)
    seconds = time.perf_counter() - start
    whole = recorder.result()
    finder = "tokens" if use_tokens else "landmarks"
    whole.meta |= {"made_by": "footfall run", "checkpoint": checkpoint, "people": finder, "commit": code_commit()}
    asked = config.gaussians.use == "auto"
    whole.meta["gaussians"] = "the checkpoint has no Gaussian head" if asked else "not asked for"
    if gaussians is not None:
        turn = torch.tensor(whole.meta.get("world_from_first_camera", np.eye(4).tolist()))
        whole.meta["gaussians"] = write_gaussian_results(out, gaussians, turn)
        parts |= {f"gaussians_{name}": list(spent) for name, spent in gaussians.times.items()}
    save_result(out, whole)
    frames = len(whole.cameras.timestamps)
    times = stream.latency() | {name: percentiles(part) for name, part in parts.items() if part}
    machine = {"hardware": _hardware(), "torch": torch.__version__, "commit": code_commit()}
    write_json(out / "latency.json", {**times, "frames_per_s": frames / seconds, "frames": frames, **machine})
    return {"frames": frames, "people": len(whole.motion.ids), "frames_per_s": frames / seconds}


def start_gaussians(stream: Stream, config: GaussianStreamConfig, body: BodyModel) -> GaussianStream | None:
    """Gaussians beside a stream; None where they are not wanted or its network has no head for them."""
    student = student_of(stream.network)
    has_head = student is not None and student.gaussians is not None
    return GaussianStream(stream, config, body) if has_head and config.use == "auto" else None


def _has_tracker() -> bool:
    return is_installed("cv2") and is_installed("ai_edge_litert")


def _statures(frame: FrameResult, body: BodyModel) -> dict[int, float]:
    return {person.id: float(body.stature(person.betas)) for person in frame.people}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 of durations, in milliseconds."""
    p50, p95, p99 = 1e3 * np.percentile(seconds, [50, 95, 99])
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3), "p99_ms": round(float(p99), 3)}


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
