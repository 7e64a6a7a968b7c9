"""`footfall bench stream`: a video from its file to a written result, by way of running the networks.

Everything a user waits for is in it: decoding, preparing, encoding, finding people, pairing, tracked corners, fusing,
writing. The pipeline is that of `distill.runner` for all ways, so that only the networks differ. Wall time is what a
user sees on this machine as it is; processor time is what the work costs, however busy the machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.config import config_hash, config_to_dict
from distill.errors import FootfallError
from distill.files import read_json
from teacher.benchmark.provenance import provenance
from teacher.benchmark.student_speed import FORMAT, make_backbone, parse_size

if TYPE_CHECKING:
    from distill.runner.network import ArrayNetwork
    from distill.runner.torch_network import TorchNetwork

Array = NDArray[Any]
GRAPHS: Final = ("onnx", "pt2", "aoti")
WAYS: Final = {"cpu": ("eager", "compile", *GRAPHS), "cuda": ("graphs",)}
"""Device -> ways of running: PyTorch eager and compiled, exported graphs; replayed CUDA graphs in bfloat16."""
TARGETS: Final = {"cpu": 30.0, "cuda": 150.0}
"""Frames per second that are wanted: tiny on two cores, MASt3R's size at 512x288 on a GPU."""
PEERS: Final = {"JOSH3R, claimed": 15.4, "JOSH3R, measured by others": 6.1}
"""Frames per second (docs/josh3r.md)."""


@dataclass(kw_only=True)
class Bench:
    """`footfall bench stream`."""

    checkpoint: str = "tiny"
    """Student that is run on the CPU."""
    gpu_backbone: str = "mast3r-random"
    """Backbone of the student that is run on a GPU, heads fresh; mast3r-random: MASt3R's full size, random weights."""
    gpu_size: str = "512x288"
    """Its network size, WIDTHxHEIGHT."""
    ways: list[str] = field(default_factory=lambda: ["onnx", "eager", "compile"])
    """On the CPU: onnx, pt2, aoti (exported graphs), eager, compile (PyTorch)."""
    devices: list[str] = field(default_factory=list)
    """cpu, cuda; empty: the CPU, and a GPU where there is one."""
    video: str = ""
    """Video to run; empty: a drawn clip of 640x360 (extra `synthetic`)."""
    frames: int = 240
    """Frames of the drawn clip."""
    repeats: int = 3
    """Runs of each way after a first one; the quickest counts."""
    threads: int = 1
    """Threads of one call of a network; stages overlap in any case."""
    corners: bool = True
    """Whether corners are tracked, as is usual where OpenCV is installed."""
    graphs: str = ""
    """Folder that keeps the exported graphs (one folder each for onnx, pt2, aoti); empty: a temporary one."""
    out: str = ""
    """JSON file to write; empty: print only."""

    def __post_init__(self) -> None:
        if not self.ways or not set(self.ways) <= set(WAYS["cpu"]):
            raise ValueError(f"bench: ways of {', '.join(WAYS['cpu'])} are expected")
        if not set(self.devices) <= set(WAYS):
            raise ValueError(f"bench: devices of {sorted(WAYS)} are expected")
        if min(self.frames, self.repeats, self.threads) < 1:
            raise ValueError("bench: frames, repeats and threads of at least 1 are expected")
        parse_size(self.gpu_size)


def run_bench(config: Bench) -> dict[str, Any]:
    """Run the benchmark; returns its rows, JSON-able.

    Raises:
        FootfallError: a video or checkpoint that cannot be read, or a device that is not there.
    """
    has_cuda = torch.cuda.is_available()
    devices = config.devices or (["cpu", "cuda"] if has_cuda else ["cpu"])
    if "cuda" in devices and not has_cuda:
        raise FootfallError("bench stream", got="no CUDA device", expected="one for cuda", do="leave it out of devices")
    torch.set_num_threads(config.threads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        video = Path(config.video) if config.video else draw_video(work / "clip", config.frames)
        for device in devices:
            for way in config.ways if device == "cpu" else WAYS["cuda"]:
                network = make_network(way, config, Path(config.graphs) if config.graphs else work)
                rows.append({"device": device, "way": way, **time_video(network, video, work, config)})
    skipped = [] if "cuda" in devices else [{"device": "cuda", "skipped": "no CUDA device on this machine"}]
    return {
        "format": FORMAT, "name": "stream", "provenance": provenance(), "targets_fps": TARGETS, "peers_fps": PEERS,
        "config_hash": config_hash(config), "config": config_to_dict(config), "rows": rows + skipped,
    }  # fmt: skip


def draw_video(folder: Path, frames: int) -> Path:
    """A drawn clip of 640x360: one person walks, the camera is carried along."""
    from distill.synthetic import ClipSpec, write_clip

    spec = ClipSpec(id="bench", seed=3, frames=frames, size=[640, 360], supersample=1)
    write_clip(folder, spec)
    return folder / "video.mp4"


def make_network(way: str, config: Bench, folder: Path) -> ArrayNetwork:
    """A network that is run in one of the `WAYS`; graphs are exported to `folder` unless they lie there."""
    from distill.export import example_input, export_student, load_exported
    from distill.models.student import Student, StudentConfig
    from distill.on_device import place_student
    from distill.runner.network import OnnxNetwork
    from distill.runner.torch_network import TorchNetwork

    if way == "graphs":
        student = Student(StudentConfig(), make_backbone(config.gpu_backbone))
        return _one_in_the_middle(TorchNetwork(place_student(student, "cuda"), parse_size(config.gpu_size)))
    student = Student.from_pretrained(config.checkpoint).eval()
    size = student.network_size((1920, 1080))
    if way not in GRAPHS:
        return TorchNetwork(student, size, compiled=way == "compile")
    exported = folder / way
    if not (exported / "export.json").is_file():
        images, people = example_input(size)
        export_student(student, exported, file_format=way, images=images, people=people, runs=1)
    if way == "onnx":
        return OnnxNetwork(exported, threads=config.threads)
    return TorchNetwork(load_exported(exported), size)


def _one_in_the_middle(network: TorchNetwork) -> TorchNetwork:
    """Fresh heads find nobody: they are asked all the same, and then somebody in the middle counts as found."""
    (width, height), really = network.size, network.detect
    box = np.array([[0.4 * width, 0.2 * height, 0.6 * width, 0.9 * height]], np.float32)

    def detect(features: Any) -> tuple[Array, Array]:
        really(features)
        return np.array([5.0], np.float32), box

    network.detect = detect  # type: ignore[method-assign]
    return network


def time_video(network: ArrayNetwork, video: Path, work: Path, config: Bench) -> dict[str, Any]:
    """The quickest of several runs from file to result, and how busy the machine was."""
    from distill.body import load_body_model
    from distill.export.body import write_body
    from distill.runner.body import Body
    from distill.runner.pipeline import RunnerConfig, run_network
    from distill.stream_config import StreamConfig

    write_body(work / "body.npz", load_body_model("anny"))
    body, found = Body(work / "body.npz"), []
    settings = RunnerConfig(stream=StreamConfig(corners="auto" if config.corners else "never"))
    for _ in range(1 + config.repeats):
        run_network(network, body, video, work / "result", settings)
        found.append(read_json(work / "result" / "latency.json"))
    best = max(found[1:], key=lambda record: record["frames_per_s"])
    cost = min(record["processor_ms_per_frame"] for record in found[1:])
    return {
        "size": list(network.size), "threads": config.threads, "frames": best["frames"], "people": best["people"],
        "frames_per_second": round(best["frames_per_s"], 2), "processor_ms_per_frame": cost,
        "parts_ms": best["ms"], "parts_processor_ms": best["processor_ms"],
        "load": [round(value, 1) for value in os.getloadavg()],
    }  # fmt: skip


def bench_lines(row: Mapping[str, Any]) -> list[str]:
    """The rows as Markdown."""
    made = row["provenance"]
    hardware = made["hardware"]
    lines = [
        f"commit {made['commit']}; {hardware['cpu']}, {hardware['cores']} cores, GPU {hardware['gpu'] or 'none'}; "
        f"torch {made['versions']['torch']}",
        "",
        "| device | way | size | frames/s | wanted | latency p50 / p95 / p99 ms | processor ms a frame | load |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    timed = [r for r in row["rows"] if "skipped" not in r]
    for r in timed:
        latency = " / ".join(f"{r['parts_ms']['latency'][name]:.1f}" for name in ("p50", "p95", "p99"))
        lines.append(
            f"| {r['device']} | {r['way']} | {r['size'][0]}x{r['size'][1]} | {r['frames_per_second']:.1f} "
            f"| {row['targets_fps'][r['device']]:.0f} | {latency} | {r['processor_ms_per_frame']:.1f} "
            f"| {r['load'][0]:.1f} |"
        )
    parts = sorted({part for r in timed for part in r["parts_processor_ms"]})
    lines += ["", "Processor milliseconds of each part, p50 (mean):", "", "| way | " + " | ".join(parts) + " |"]
    lines.append("|---|" + "---:|" * len(parts))
    for r in timed:
        cells = (r["parts_processor_ms"].get(part) for part in parts)
        lines.append(
            f"| {r['way']} | " + " | ".join(f"{c['p50']:.1f} ({c['mean']:.1f})" if c else "" for c in cells) + " |"
        )
    peers = ", ".join(f"{name} {fps}" for name, fps in row["peers_fps"].items())
    skipped = [f"{r['device']}: skipped, {r['skipped']}" for r in row["rows"] if "skipped" in r]
    return [*lines, "", f"Beside it, frames a second on a GPU: {peers}.", *skipped]
