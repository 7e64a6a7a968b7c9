"""One Markdown row per labelled clip, as in docs/log.md: `python benchmarks/clip_table.py LABELS`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.body import load_body_model
from distill.files import read_json
from distill.metrics import foot_floating_rate
from distill.results import load_result
from teacher.status import STAGE_NAMES, ClipStatus, read_status
from teacher.workspace import ClipFolder

HEADER = (
    "clip", "frames", "size", "people found / kept", "camera", "registered", "focal px", "background px",
    "keypoints px before / after", "slip m/s before / after", "FFR %", "stature m", "decision",
    "seconds: " + " / ".join(STAGE_NAMES),
)  # fmt: skip


def row_of(out: Path, status: ClipStatus) -> list[str]:
    """Cells of one clip."""
    clip = ClipFolder(out / "clips" / status.id)
    records = {stage: clip.record(stage) for stage in STAGE_NAMES}
    summary: dict[str, dict[str, Any]] = {k: r.summary if r else {} for k, r in records.items()}
    frames, people, cameras, joint = (summary[k] for k in ("frames", "people", "cameras", "joint"))
    before, after = joint.get("before", {}), joint.get("after", {})
    why = f"{status.decision}: {status.why}" if status.why else status.decision
    return [
        status.id, _text(frames.get("frames")), "x".join(map(str, frames.get("size", []))),
        f"{_text(people.get('found'))} / {_text(people.get('kept'))}", _text(cameras.get("kind")),
        _text(cameras.get("registered")), _text(joint.get("focal_px", [None, None])[1]),
        _text(after.get("background_px")),
        _pair(before, after, "keypoint_px"), _pair(before, after, "slip_mps"), floating(clip),
        ", ".join(f"{s:.2f}" for s in joint.get("stature_m", [])), why,
        " / ".join(f"{status.seconds.get(stage, 0):.0f}" for stage in STAGE_NAMES),
    ]  # fmt: skip


def floating(clip: ClipFolder) -> str:
    """Foot floating rate over everybody, percent (facts: feet farther than 0.2 m from any scene point)."""
    if not clip.is_done("joint"):
        return ""
    result = load_result(clip.stage_dir("joint"))
    if len(result.scene_points) == 0:
        return "no scene"
    body, rates = load_body_model(result.motion.body_model), []
    for person in range(len(result.motion.ids)):
        seen = result.motion.present[:, person]
        betas = torch.from_numpy(result.motion.betas[person]).expand(int(seen.sum()), -1)
        rotation = torch.from_numpy(result.motion.body_rot[seen, person]).float()
        root = torch.from_numpy(result.world_from_body[seen, person]).float()
        feet = body.sites(betas.float(), rotation, root)[:, :4].numpy()
        rates.append(foot_floating_rate(feet, result.scene_points))
    return f"{100 * np.concatenate(rates).mean():.0f}"


def _pair(before: dict[str, Any], after: dict[str, Any], key: str) -> str:
    return f"{_text(before.get(key))} / {_text(after.get(key))}"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 100
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


def print_table(labels: Path) -> None:
    """Print the table of all clips of a labelling folder."""
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * len(HEADER))
    for status in read_status(labels):
        if read_json(labels / "clips" / status.id / "clip.json"):
            print("| " + " | ".join(cell.replace("|", "/") for cell in row_of(labels, status)) + " |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, help="a folder made by footfall label")
    print_table(parser.parse_args().labels)


if __name__ == "__main__":
    main()
