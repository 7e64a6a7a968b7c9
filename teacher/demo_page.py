"""The demo's page: what went in, what came out, how good it is and how long it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from distill.body import load_body_model
from distill.errors import require
from distill.files import atomic_path, read_json
from distill.pictures.overlay import overlay, sheet
from distill.pictures.page import Page
from distill.pictures.plots import plot_curves, plot_top_down
from distill.pictures.scene3d import scene_data, scene_html
from distill.results import Result, load_result
from teacher.stagefiles import Frames, read_image
from teacher.status import STAGE_NAMES, read_status
from teacher.workspace import ClipFolder

if TYPE_CHECKING:
    from teacher.demo import Timing

METRICS: Final = ("w_mpjpe_mm", "wa_mpjpe_mm", "rte_percent", "ate_m", "foot_sliding_mm", "ffr_percent", "jitter")


def write_page(out: Path, page_path: Path, timings: list[Timing], *, test_ids: list[str], has_truth: bool) -> None:
    """Write `index.html` and its pictures below `out`."""
    page = Page("footfall demo")
    page.text(
        "A teacher solved every clip below for cameras, bodies and scene in metres; a student was trained on "
        "those labels and then streamed a clip, one frame at a time."
    )
    pictures = out / "pictures"
    page.heading("Labels by the teacher")
    for clip in _solved(out / "labels"):
        sheet_path = clip.stage_dir("pictures") / "overlay.jpg"
        page.picture(sheet_path, f"{clip.id}: the solved bodies over the frames", base=out)
    page.heading("Held-out clip" if has_truth else "The clip, streamed")
    for clip_id in test_ids:
        _compare(page, out, clip_id, has_truth=has_truth)
    page.heading("Training")
    page.picture(_loss_curve(out / "runs" / "demo" / "log" / "log.jsonl", pictures), "loss by step", base=out)
    page.heading("Numbers")
    if has_truth:
        _metric_table(page, out / "reports")
    else:
        page.text("No truth is known for this video, so nothing is scored.")
    page.heading("Timings")
    _stage_table(page, out / "labels")
    page.table(("step", "seconds", "command"), [(t.name, t.seconds, t.command) for t in timings])
    page.write(page_path)


def _solved(labels: Path) -> list[ClipFolder]:
    clips = [ClipFolder(labels / "clips" / row.id) for row in read_status(labels)]
    return [clip for clip in clips if clip.is_done("pictures")]


def _compare(page: Page, out: Path, clip_id: str, *, has_truth: bool) -> None:
    """Truth, teacher and student of one clip: film strip, seen from above, in 3D."""
    results: dict[str, Result] = {}
    if has_truth:
        results["truth"] = load_result(out / "clips" / clip_id / "truth")
    teacher = ClipFolder(out / ("labels-held-out" if has_truth else "labels") / "clips" / clip_id)
    if teacher.is_done("joint"):
        results["teacher"] = load_result(teacher.stage_dir("joint"))
    results["student"] = load_result(out / "stream" / clip_id)
    pictures = out / "pictures"
    reference = "truth" if has_truth else "teacher" if "teacher" in results else "student"
    if teacher.is_done("frames"):
        film = _film(teacher, {k: v for k, v in results.items() if k != "truth"}, pictures / f"{clip_id}.mp4")
        seen = "it never saw this clip" if has_truth else "it was trained on this very clip"
        page.picture(film, f"{clip_id}: left the teacher, right the student ({seen})", base=out)
    seen_from_above = pictures / f"{clip_id}-above.png"
    plot_top_down(seen_from_above, results, reference=reference)
    page.picture(seen_from_above, f"seen from above, moved rigidly (no scale) onto the {reference}", base=out)
    if teacher.is_done("frames"):
        _summary(teacher, results, seen_from_above, pictures / f"{clip_id}-summary.jpg")
    lines = ", ".join(f"{style} {name}" for style, name in zip(("solid:", "dashed:", "dotted:"), results, strict=False))
    page.text(f"Drag to turn, scroll to come nearer. Lines {lines}.")
    page.raw(scene_html(scene_data(results, reference=reference), f"scene-{clip_id}"))


def _summary(clip: ClipFolder, results: dict[str, Result], above: Path, path: Path) -> None:
    """One picture of a clip for a README: frames with the teacher's bodies, and the paths from above."""
    result = results.get("teacher", results["student"])
    body = load_body_model(result.motion.body_model)
    tiles = []
    for index in np.linspace(0, len(result.cameras.timestamps) - 1, 4).round().astype(int):
        frame = read_image(Frames.image_path(clip.stage_dir("frames"), int(index)))
        tiles.append(overlay(frame, result, int(index), body))
    frames = sheet(tiles, columns=2)
    with Image.open(above) as image:
        plot = image.convert("RGB")
        plot = plot.resize((round(plot.width * frames.height / plot.height), frames.height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (frames.width + plot.width + 8, frames.height), (255, 255, 255))
    canvas.paste(frames, (0, 0))
    canvas.paste(plot, (frames.width + 8, 0))
    with atomic_path(path) as temporary:
        canvas.save(temporary, quality=88)


def _film(clip: ClipFolder, results: dict[str, Result], path: Path) -> Path:
    """Frames with the results drawn on them, side by side, as H.264."""
    ffmpeg = require("imageio_ffmpeg", extra="demo")
    frames = Frames.load(clip.stage_dir("frames"))
    bodies = {name: load_body_model(result.motion.body_model) for name, result in results.items()}
    step = max(1, len(frames.timestamps) // 60)
    span = max(float(frames.timestamps[-1] - frames.timestamps[0]), 1e-3)
    fps = max(1.0, (len(frames.timestamps) - 1) / span / step)
    with atomic_path(path) as temporary:
        writer = None
        for index in range(0, len(frames.timestamps), step):
            image = read_image(Frames.image_path(clip.stage_dir("frames"), index))
            tiles = [
                overlay(image, result, index, bodies[name], label=name)
                for name, result in results.items()
                if index < len(result.cameras.timestamps)
            ]
            row = np.asarray(sheet(tiles, columns=len(tiles)))
            row = row[: row.shape[0] // 2 * 2, : row.shape[1] // 2 * 2]
            if writer is None:
                size = (row.shape[1], row.shape[0])
                writer = ffmpeg.write_frames(
                    str(temporary), size, fps=fps, macro_block_size=2, ffmpeg_log_level="error"
                )
                writer.send(None)
            if row.shape[1::-1] == size:
                writer.send(np.ascontiguousarray(row))
        if writer is not None:
            writer.close()
    return path


def _loss_curve(log: Path, pictures: Path) -> Path:
    """Loss terms over steps from the trainer's log."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name.startswith("loss") and isinstance(value, int | float):
                curves.setdefault(name, []).append((row["step"], value))
    path = pictures / "loss.png"
    plot_curves(path, curves, x="step", y="loss", log=True)
    return path


def _metric_table(page: Page, reports: Path) -> None:
    rows = []
    for path in sorted(reports.glob("*.json")):
        overall = read_json(path)["overall"]
        rows.append((path.stem, *(overall.get(metric) for metric in METRICS)))
    page.table(("who", *METRICS), rows)


def _stage_table(page: Page, labels: Path) -> None:
    rows: list[tuple[Any, ...]] = []
    for clip in read_status(labels):
        rows.append((clip.id, clip.decision, *(clip.seconds.get(stage) for stage in STAGE_NAMES)))
    page.text("Seconds of the teacher by clip and stage:")
    page.table(("clip", "decision", *STAGE_NAMES), rows)
