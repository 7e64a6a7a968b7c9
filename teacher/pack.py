"""From solved clips to shards: what quality accepted, cut into chunks, with everything that made it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.config import config_hash
from distill.files import atomic_path, load_arrays, read_json, sha256_of
from distill.geometry.rotations import quat_from_matrix
from distill.geometry.transforms import to_quat_trans
from distill.provenance import code_commit
from distill.results import Result, load_result
from distill.shards.labels import Labels, folder_lock, read_labels
from distill.shards.schema import FIELDS, MAX_FRAMES, SCHEMA_VERSION, Sample
from distill.shards.statistics import write_statistics
from distill.shards.writer import append_shards, replaced_shards, write_shards
from teacher.pack_plan import Plan, make_plan
from teacher.stagefiles import DepthInit, Frames, People
from teacher.workspace import ClipFolder

Array = NDArray[Any]


@dataclass(kw_only=True)
class PackConfig:
    """Packing."""

    chunk_frames: int = 32
    """Frames per sample; the last chunk of a clip is moved back so that it is full."""
    shard_mb: float = 64.0
    """A shard is closed when it is this large, megabytes."""
    append: bool = True
    """Leave shards of unchanged clips alone and put new clips into new ones; false packs everything anew."""
    page: bool = True
    """Write statistics.html, with pictures."""

    def __post_init__(self) -> None:
        if not 8 <= self.chunk_frames <= MAX_FRAMES or self.shard_mb <= 0:
            raise ValueError(f"pack: 8 <= chunk_frames <= {MAX_FRAMES} and shard_mb > 0 are expected")


def pack(out: Path, config: PackConfig) -> dict[str, Any]:
    """Pack every accepted clip of a labelling folder; returns the manifest.

    Clips that are packed already and have not changed stay in the shards where they are; the others go into new ones.
    """
    with folder_lock(out):
        labels = read_labels(out)
        plan = make_plan(out, labels if config.append else None, config.chunk_frames)
        samples = (sample for clip in plan.new for sample in clip_samples(clip, config))
        provenance: dict[str, Any] = {
            "teacher_commit": code_commit(), "pack_config": config_hash(config), "duplicates": plan.duplicates,
            "gaussians": _all_gaussians(out, labels, plan),
        }  # fmt: skip
        max_bytes = int(config.shard_mb * 1e6)
        if labels is not None and plan.kept:
            manifest = append_shards(
                labels, keep=lambda row: row.clip in plan.kept, samples=samples, max_bytes=max_bytes,
                provenance=provenance, made_of=plan.made_of,
            )  # fmt: skip
        else:
            manifest = write_shards(
                out, samples, max_bytes=max_bytes, provenance=provenance, made_of=plan.made_of,
                replaced=replaced_shards(labels),
            )  # fmt: skip
        if config.page:
            write_statistics(out, manifest)
    return manifest


def _all_gaussians(out: Path, labels: Labels | None, plan: Plan) -> dict[str, Any]:
    """Gaussians of the new clips and of those whose samples stay."""
    packed = labels.manifest.get("gaussians", {}) if labels is not None else {}
    solved = [
        clip for clip in map(ClipFolder, (out / "clips" / name for name in sorted(plan.kept))) if clip.root.is_dir()
    ]
    tidied = plan.kept - {clip.id for clip in solved}
    rows = {name: row for name, row in packed.items() if name in tidied}
    return pack_gaussians(out, [*solved, *plan.new], rows)


def pack_gaussians(out: Path, clips: list[ClipFolder], others: dict[str, Any] | None = None) -> dict[str, Any]:
    """Copy the Gaussians of clips to `out/gaussians/CLIP/`; clips without any are left out.

    Args:
        out: labelling folder.
        clips: whose stage `gaussians` is looked at.
        others: rows of clips whose Gaussians stay as they are.

    Returns:
        Clip -> {decision, before, after (numbers of the stage `gaussians`), scene (points or backdrop), files: name ->
        {bytes, sha256}}.
    """
    rows: dict[str, Any] = dict(others or {})
    folder = out / "gaussians"
    for clip in clips:
        if not clip.is_done("gaussians"):
            continue
        source = clip.stage_dir("gaussians")
        verdict = read_json(source / "verdict.json")
        rows[clip.id] = {name: verdict[name] for name in ("decision", "reasons", "before", "after", "lpips")}
        rows[clip.id]["scene"] = verdict.get("scene", "points")  # before backdrops there was no other
        rows[clip.id]["files"] = {}
        for path in sorted(source.glob("*.npz")):
            with atomic_path(folder / clip.id / path.name) as temporary:
                shutil.copyfile(path, temporary)
            rows[clip.id]["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    for stale in folder.glob("*"):
        if stale.name not in rows:
            shutil.rmtree(stale)
    return rows


def labelled_result(clip: ClipFolder) -> Result:
    """What labels say of a clip: the refined result where the stage `gaussians` took it, else the geometric one."""
    folder = clip.stage_dir("gaussians")
    if clip.is_done("gaussians") and read_json(folder / "verdict.json")["decision"] == "refined":
        return load_result(folder / "refined")
    return load_result(clip.require("joint"))


def clip_samples(clip: ClipFolder, config: PackConfig) -> Iterator[Sample]:
    """The chunks of one solved clip."""
    result = labelled_result(clip)
    people = People.load(clip.require("people"))
    weights = load_arrays(clip.require("quality") / "quality.npz")[0]["frame_weight"]
    depth = _metric_depth(clip, result)
    meta = _meta(clip, result)
    count = len(result.cameras.timestamps)
    length = min(config.chunk_frames, count)
    for start in chunk_starts(count, length):
        frames = range(start, start + length)
        yield Sample(
            key=f"{key_stem(clip.id)}-{start:06d}",
            meta={**meta, "first_frame": start},
            arrays=sample_arrays(result, people, weights, depth, slice(start, start + length)),
            frames=[Frames.image_path(clip.require("frames"), k).read_bytes() for k in frames],
            masks=[People.mask_path(clip.require("people"), k).read_bytes() for k in frames],
        )


def key_stem(clip_id: str) -> str:
    """A clip's name in sample keys, which have no dots: those become '_', and a hash keeps "a.b" apart from "a_b"."""
    if "." not in clip_id:
        return clip_id
    return f"{clip_id.replace('.', '_')}-{hashlib.sha256(clip_id.encode()).hexdigest()[:6]}"


def chunk_starts(count: int, length: int) -> list[int]:
    """First frames of the chunks of `count` frames; the last is moved back so that it is full."""
    starts = list(range(0, count - length + 1, length))
    return starts if starts[-1] + length >= count else [*starts, count - length]


def _meta(clip: ClipFolder, result: Result) -> dict[str, Any]:
    source = clip.source
    records = {name: clip.record(name) for name in ("frames", "people", "cameras", "depth", "bodies", "contacts")}
    joint = clip.record("joint")
    assert joint is not None
    if clip.is_done("gaussians"):
        records["gaussians"] = clip.record("gaussians")
    quality = read_json(clip.stage_dir("quality") / "quality.json")
    weights: dict[str, Any] = {}
    for record in records.values():
        weights.update(record.weights if record else {})
    return {
        "schema_version": SCHEMA_VERSION,
        "clip": clip.id,
        "size": list(result.cameras.size),
        "body_model": result.motion.body_model,
        "world": result.meta["world"],
        "source": source.source,
        "licence": source.licence,
        "source_sha256": source.sha256,
        "teacher_commit": joint.commit,
        "config_hash": {name: r.config_hash for name, r in {**records, "joint": joint}.items() if r is not None},
        "weights": weights,
        "quality": {key: quality[key] for key in ("decision", "weight", "reasons")},
        "source_id": source.source_id or source.sha256 or clip.id,
        "consent": source.consent,
        "blurred": bool(records["frames"] and records["frames"].summary.get("blurred")),
    }


def _metric_depth(clip: ClipFolder, result: Result) -> Array:
    """[T, h, w] float16 metres: the depth stage's maps times the solved scale of each frame."""
    count = len(result.cameras.timestamps)
    if not clip.is_done("depth"):
        return np.zeros((count, 0, 0), np.float16)
    depth = DepthInit.load(clip.require("depth")).depth.astype(np.float32)
    scale = np.asarray(load_arrays(clip.stage_dir("joint") / "scale.npz")[0]["metres_per_unit"])
    return np.clip(depth * scale[:, None, None], 0, 6e4).astype(np.float16)


def sample_arrays(result: Result, people: People, weights: Array, depth: Array, part: slice) -> dict[str, Array]:
    """The arrays of a sample (`FIELDS`) from some frames of a solved clip.

    Args:
        result: the clip.
        people: boxes, and where each person is visible.
        weights: [T, P] trust in each label.
        depth: [T, h, w] float16 of the background, metres.
        part: frames of the sample.
    """
    cameras, motion = result.cameras, result.motion
    cam_quat, cam_trans = _quat_trans(cameras.world_from_cam[part])
    root_quat, root_trans = _quat_trans(motion.cam_from_body[part])
    body_quat = quat_from_matrix(torch.from_numpy(motion.body_rot[part].astype(np.float64))).numpy()
    arrays = {
        "timestamps": cameras.timestamps[part],
        "K": cameras.K,
        "world_from_cam_quat": cam_quat,
        "world_from_cam_trans": cam_trans,
        "camera_valid": cameras.valid[part],
        "present": motion.present[part] & people.visible[part],
        "box_xyxy": people.box_xyxy[part],
        "betas": motion.betas,
        "body_quat": body_quat,
        "cam_from_body_quat": root_quat,
        "cam_from_body_trans": root_trans,
        "joints_cam": motion.joints_cam[part],
        "contact_prob": motion.contact_prob[part],
        "stature": motion.stature,
        "frame_weight": weights[part],
        "depth": depth[part],
    }
    return {name: np.ascontiguousarray(array).astype(FIELDS[name].dtype) for name, array in arrays.items()}


def _quat_trans(transform: Array) -> tuple[Array, Array]:
    quat, trans = to_quat_trans(torch.from_numpy(np.ascontiguousarray(transform, np.float64)))
    return quat.numpy(), trans.numpy()
