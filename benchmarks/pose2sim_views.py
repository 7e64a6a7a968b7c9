"""Each of four calibrated views solved alone, against joints triangulated from all four.

python benchmarks/pose2sim_views.py --raw ../shared/gt/pose2sim_SinglePerson --out FOLDER [key=value ...]

Writes FOLDER/pose2sim_views.json and .md and prints the table. Settings are those of `footfall label`.

The reference is made of the same kind of landmarks as the labels, but of four views at full resolution: it knows
depth and size in metres, and it shares the landmarks' habits (where they put a hip). It is not motion capture.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from multiview import SHIFTS, Array, Rig, Spread, at_first_clock, errors, sample, search_shifts, triangulate

from distill.body import load_body_model
from distill.config import load_config
from distill.errors import FootfallError
from distill.files import write_json, write_text
from distill.geometry.alignment import align_points
from distill.geometry.conventions import KEYPOINTS
from distill.results import Result, load_result
from teacher.benchmark.provenance import provenance
from teacher.config import LabelConfig
from teacher.manifest import fingerprint, read_inputs
from teacher.pipeline import label
from teacher.stagefiles import Frames, People
from teacher.stages import run_clip
from teacher.workspace import ClipFolder

JOINTS: Final = tuple(KEYPOINTS[5:17])
"""Shoulders, elbows, wrists, hips, knees, ankles: what landmarks and body model both have."""
HIPS: Final = (JOINTS.index("left_hip"), JOINTS.index("right_hip"))
CHAIN: Final = (("shoulder", "hip"), ("hip", "knee"), ("knee", "ankle"))
"""Bones whose summed length stands for the stature."""
KNOWN: Final = {"video": "nothing", "lens": "lens", "camera": "lens and pose"}
"""Ways to solve a view: the manifest tells ..."""


@dataclass(kw_only=True)
class Reference:
    """What the four views say together."""

    rig: Rig
    """Refined cameras, for frames of full size."""
    points: Array
    """[T, J, 3] metres, world, at the first view's clock."""
    without: Array
    """[V, T, J, 3] the same from all views but one."""
    facts: dict[str, Any]
    """JSON-able."""


def _recipe() -> Any:
    """The data set's recipe, which is a script and not a module of a package."""
    path = Path(__file__).resolve().parent.parent / "datasets" / "pose2sim" / "prepare_pose2sim.py"
    spec = importlib.util.spec_from_file_location("prepare_pose2sim", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def landmarks(rows: list[dict[str, Any]], out: Path) -> tuple[Rig, list[Array], list[Array]]:
    """The people stage on every view at full size.

    Returns:
        The published rig, and per view the landmarks [T, P, J, 2] and their scores [T, P, J] of all people.
    """
    settings = load_config(LabelConfig, None, ["video.long_side=1920"])
    write_text(out / "published.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    K, poses, tracks, scores = [], [], [], []
    for source in read_inputs([out / "published.jsonl"]):
        clip = ClipFolder(out / "reference" / source.id)
        clip.write_source(replace(source, sha256=fingerprint(Path(source.path))))
        run_clip(clip, settings, lambda *_: None, until="people")
        frames, people = Frames.load(clip.require("frames")), People.load(clip.require("people"))
        take = slice(5, 17)
        K.append(np.asarray(frames.K))
        poses.append(np.asarray(source.world_from_cam))
        tracks.append(people.keypoints_px[:, :, take].astype(np.float64))
        scores.append((people.keypoint_score * people.visible[..., None])[:, :, take].astype(np.float64))
    return Rig(K=np.stack(K), world_from_cam=np.stack(poses), shift=np.zeros(len(rows))), tracks, scores


def same_person(rig: Rig, tracks: list[Array], scores: list[Array], spread: Spread) -> tuple[Array, Array]:
    """Of everybody in each view, those who are one person in 3D: landmarks [V, T, J, 2] and scores [V, T, J]."""
    best: tuple[float, Array, Array] | None = None
    for chosen in itertools.product(*(range(track.shape[1]) for track in tracks)):
        track = np.stack([t[:, k] for t, k in zip(tracks, chosen, strict=True)])
        score = np.stack([s[:, k] for s, k in zip(scores, chosen, strict=True)])
        error = float(np.nanmean(errors(rig, track, score, spread)))
        if best is None or error < best[0]:
            best = (error, track, score)
    assert best is not None
    return best[1], best[2]


def build_reference(rows: list[dict[str, Any]], out: Path) -> Reference:
    """Landmarks of all views -> refined cameras and clocks -> points, and how far they can be believed."""
    spread = Spread()
    published, tracks, scores = landmarks(rows, out)
    track, score = same_person(published, tracks, scores, spread)
    rig, curves = search_shifts(published, track, score, spread)
    before, after = (errors(cameras, track, score, spread) for cameras in (published, rig))
    pixels, _, weight = at_first_clock(track, score, rig.shift)
    shape = (track.shape[1], len(JOINTS), 3)
    points = triangulate(rig, pixels, weight, pixel_sd=spread.pixels).reshape(shape)
    others = 1 - np.eye(len(rows))
    without = [triangulate(rig, pixels, weight * use[:, None], pixel_sd=spread.pixels).reshape(shape) for use in others]
    apart = np.linalg.norm(np.stack(without) - points, axis=-1)
    turned = np.swapaxes(published.world_from_cam[:, :3, :3], -1, -2) @ rig.world_from_cam[:, :3, :3]
    moved = np.linalg.norm(rig.world_from_cam[:, :3, 3] - published.world_from_cam[:, :3, 3], axis=-1)
    _, bones = chain_length(points)
    facts = {
        "joints": JOINTS,
        "px_before": _median(before), "px_before_by_view": _medians(before),
        "px_after": _median(after), "px_after_by_view": _medians(after),
        "px_after_by_view_and_joint": np.nanmedian(after.reshape(len(rows), -1, len(JOINTS)), 1).round(1).tolist(),
        "turned_deg": np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))).tolist(),
        "moved_mm": (1e3 * moved).tolist(),
        "clock_frames": rig.shift.tolist(),
        "clock_tried_frames": SHIFTS.tolist(), "clock_px_by_view": curves,
        "without_one_view_mm": [float(1e3 * np.median(values)) for values in apart],
        "bone_sd_mm": {name: float(1e3 * length.std()) for name, length in bones.items()},
        "bone_mm": {name: float(1e3 * np.median(length)) for name, length in bones.items()},
    }  # fmt: skip
    return Reference(rig=rig, points=points, without=np.stack(without), facts=facts)


def chain_length(points: Array) -> tuple[float, dict[str, Array]]:
    """Summed length of `CHAIN`, median over frames, mean of both sides; and each bone's length [T], metres."""
    at = {name: points[:, k] for k, name in enumerate(JOINTS)}
    bones = {
        f"{side} {a}-{b}": np.linalg.norm(at[f"{side}_{a}"] - at[f"{side}_{b}"], axis=-1)
        for side in ("left", "right") for a, b in CHAIN
    }  # fmt: skip
    return sum(float(np.median(length)) for length in bones.values()) / 2, bones


def write_views(rows: list[dict[str, Any]], rig: Rig, path: Path) -> None:
    """A manifest with every view once for each entry of `KNOWN`."""
    lines = []
    for view, row in enumerate(rows):
        for way in KNOWN:
            told = {key: row[key] for key in ("path", "licence", "source")} | {"id": f"{row['id']}-{way}"}
            if way != "video":
                told["intrinsics"] = row["intrinsics"]
            if way == "camera":
                told["world_from_cam"] = rig.world_from_cam[view].tolist()
            lines.append(json.dumps(told) + "\n")
    write_text(path, "".join(lines))


def solved_joints(result: Result) -> Array:
    """`JOINTS` of everybody in the camera [T, P, J, 3], metres."""
    motion = result.motion
    body = load_body_model(motion.body_model)
    betas = torch.from_numpy(motion.betas).float().expand(len(motion.present), *motion.betas.shape)
    rotation, root = (torch.from_numpy(a).float() for a in (motion.body_rot, motion.cam_from_body))
    return body.keypoints(betas, rotation, root)[..., 5:17, :].double().numpy()


def score_view(result: Result, reference: Reference, view: int) -> dict[str, Any]:
    """Errors of one solved view; millimetres unless the name says otherwise."""
    rig = reference.rig
    at = np.arange(len(result.cameras.timestamps)) - rig.shift[view]
    truth_all, inside = sample(reference.points, at)
    truth_rest, _ = sample(reference.without[view], at)
    truth, rest = (_in_camera(points, rig.world_from_cam[view]) for points in (truth_all, truth_rest))
    everybody = solved_joints(result)
    person = _who(everybody, result.motion.present, truth)
    use = inside & result.motion.present[:, person]
    solved, truth, rest = everybody[use, person], truth[use], rest[use]
    root, true_root = (points[:, HIPS].mean(1) for points in (solved, truth))
    off = root - true_root
    by_joint = 1e3 * np.linalg.norm((solved - root[:, None]) - (truth - true_root[:, None]), axis=-1)
    scale, aligned = _procrustes(truth, solved)
    without_view = (solved - root[:, None]) - (rest - rest[:, HIPS].mean(1)[:, None])
    length, true_length = chain_length(solved)[0], chain_length(truth)[0]
    stature = float(result.motion.stature[person])
    return {
        "frames": int(use.sum()),
        "mpjpe": float(by_joint.mean()),
        "pa_mpjpe": float(1e3 * np.linalg.norm(aligned - truth, axis=-1).mean()),
        "mpjpe_other_views": float(1e3 * np.linalg.norm(without_view, axis=-1).mean()),
        "mpjpe_by_joint": dict(zip(JOINTS, by_joint.mean(0).round(1).tolist(), strict=True)),
        "root": float(1e3 * np.linalg.norm(off, axis=-1).mean()),
        "root_depth_signed": float(1e3 * np.median(off[:, 2])),
        "root_across": float(1e3 * np.linalg.norm(off[:, :2], axis=-1).mean()),
        "root_path_shape": float(1e3 * np.sqrt(((off - off.mean(0)) ** 2).sum(-1).mean())),
        "distance_m": float(np.median(true_root[:, 2])),
        "chain": float(1e3 * (length - true_length)),
        "stature_cm": float(100 * stature * (1 - true_length / length)),
        "stature_solved_m": stature,
        "scale_asked_for": float(np.median(scale)),
        "focal_percent": float(100 * (result.cameras.K[0, 0] / _true_focal(result, rig, view) - 1)),
    }


def _in_camera(points: Array, world_from_cam: Array) -> Array:
    return (points - world_from_cam[:3, 3]) @ world_from_cam[:3, :3]


def _true_focal(result: Result, rig: Rig, view: int) -> float:
    """Calibrated focal length in pixels of the labelled frames; the reference's are 1920 pixels high."""
    return float(rig.K[view, 0, 0]) * max(result.cameras.size) / 1920


def _who(everybody: Array, present: Array, truth: Array) -> int:
    """The solved person whose joints lie in the directions of the true ones."""

    def apart(person: int) -> float:
        a, b = everybody[present[:, person], person], truth[present[:, person]]
        return float(np.median(np.linalg.norm(a[..., :2] / a[..., 2:] - b[..., :2] / b[..., 2:], axis=-1)))

    return min(range(everybody.shape[1]), key=apart)


def _procrustes(truth: Array, solved: Array) -> tuple[Array, Array]:
    """Per frame, the similarity that moves the solved joints onto the true ones: scale [T], moved joints."""
    target, source = torch.from_numpy(truth), torch.from_numpy(solved)
    scale, rotation, translation = align_points(target, source, with_scale=True)
    moved = scale[:, None, None] * (source @ rotation.transpose(-1, -2)) + translation[:, None]
    return scale.numpy(), moved.numpy()


def _median(values: Array) -> float:
    return float(np.nanmedian(values))


def _medians(values: Array) -> list[float]:
    return [float(value) for value in np.nanmedian(values, axis=1)]


COLUMNS: Final = {
    "mpjpe": "MPJPE", "mpjpe_other_views": "MPJPE, other views' truth", "pa_mpjpe": "PA-MPJPE",
    "stature_cm": "stature cm", "root": "root path", "root_across": "across", "root_depth_signed": "in depth",
    "root_path_shape": "shape of path", "focal_percent": "focal %",
}  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """The report as a table with what the reference is worth."""
    facts, made, one = report["reference"], report["provenance"], ", ".join
    lines = [
        f"Reference: {len(JOINTS)} joints triangulated from {len(facts['px_after_by_view'])} views; landmarks lie "
        f"{facts['px_before']:.1f} px (median) from them with the published cameras and {facts['px_after']:.1f} px "
        f"after refinement ({one(f'{v:.1f}' for v in facts['px_before_by_view'])} -> "
        f"{one(f'{v:.1f}' for v in facts['px_after_by_view'])} by view, of 1920). Cameras turned by "
        f"{one(f'{v:.2f}' for v in facts['turned_deg'])} degrees and moved by "
        f"{one(f'{v:.0f}' for v in facts['moved_mm'])} mm; clocks {one(f'{v:+.2f}' for v in facts['clock_frames'])} "
        f"frames. Without one of the views the joints lie {one(f'{v:.0f}' for v in facts['without_one_view_mm'])} mm "
        f"(median) elsewhere; the lengths of bones vary by "
        f"{min(facts['bone_sd_mm'].values()):.0f} to {max(facts['bone_sd_mm'].values()):.0f} mm over the clip.",
        "",
        "Millimetres; root path, stature and depth without any alignment of scale. "
        f"Commit {made['commit']}, settings: {made['settings']}; {made['hardware']['cpu']}.",
        "",
        "| view | known | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|" + "---:|" * len(COLUMNS),
    ]  # fmt: skip
    for row in report["rows"]:
        cells = [f"{row[name]:+.1f}" if name in SIGNED else f"{row[name]:.0f}" for name in COLUMNS]
        lines.append(f"| {row['view']} | {row['known']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


SIGNED: Final = ("stature_cm", "root_depth_signed", "focal_percent")


def run(raw: Path, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Build the reference, solve every view in every way and score it."""
    rows = _recipe().manifest_rows(raw)
    reference = build_reference(rows, out)
    write_views(rows, reference.rig, out / "views.jsonl")
    label([out / "views.jsonl"], out / "labels", overrides=overrides, since_config_change=True)
    scored = []
    for view, row in enumerate(rows):
        for way, known in KNOWN.items():
            clip = ClipFolder(out / "labels" / "clips" / f"{row['id']}-{way}")
            record = clip.record("joint")
            assert record is not None
            values = score_view(load_result(clip.require("joint")), reference, view)
            scored.append({"view": row["id"], "known": known, "joint_seconds": record.seconds, "commit": record.commit,
                           **values})  # fmt: skip
    made = {**provenance(), "settings": " ".join(overrides) or "defaults"}
    return {"provenance": made, "reference": reference.facts, "rows": scored}


def main(arguments: list[str] | None = None) -> int:
    """Write and print the report; 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder with the videos and Calib.qca.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, labels and the report")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of footfall label")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        report = run(args.raw, args.out, args.overrides)
    except FootfallError as error:
        print(f"pose2sim_views: {error}", file=sys.stderr)
        return 2
    write_json(args.out / "pose2sim_views.json", report)
    table = markdown(report)
    write_text(args.out / "pose2sim_views.md", table)
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
