"""Folders of solved clips without a solve, and processes that are killed at a chosen step, for several test files."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.files import save_arrays, write_json
from distill.geometry.rotations import matrix_from_quat
from distill.geometry.transforms import from_quat_trans
from distill.results import Cameras, Motion, Result, save_result
from distill.shards.schema import Sample
from teacher.stagefiles import DepthInit, Frames, People
from teacher.workspace import ClipFolder, ClipSource, StageRecord
from tests.shard_support import SIZE, make_sample

FRAMES = 20


def finish(clip: ClipFolder, stage: str, weights: dict[str, object] | None = None) -> None:
    clip.finish(
        StageRecord(
            stage=stage, status="done", implementation=stage, config_hash=f"hash-{stage}", inputs={},
            weights=weights or {},
        )
    )  # fmt: skip


def make_clip(out: Path, name: str, decision: str, *, depth: bool = True, **source: Any) -> Sample:
    """A solved clip's folder; returns what its labels are, as one chunk. `source`: fields of its `ClipSource`."""
    truth = make_sample(f"{name}-000000", frames=FRAMES)
    truth.arrays["timestamps"] += source.get("start_s", 0.0)
    arrays = truth.arrays
    clip = ClipFolder(out / "clips" / name)
    clip.write_source(
        ClipSource(**{
            "id": name, "path": "/v.mp4", "sha256": hashlib.sha256(name.encode()).hexdigest(), "licence": "CC-BY-4.0",
            "source": "https://x.org", **source,
        })
    )  # fmt: skip
    for stage in ("frames", "people", "joint", "quality", *(["depth"] if depth else [])):
        clip.begin(stage)
    for k, (frame, mask) in enumerate(zip(truth.frames, truth.masks, strict=True)):
        Frames.image_path(clip.stage_dir("frames"), k).write_bytes(frame)
        path = People.mask_path(clip.stage_dir("people"), k)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mask)
    visible = arrays["present"].copy()
    visible[3, 1] = False
    People(
        visible=visible, box_xyxy=arrays["box_xyxy"], score=visible.astype(np.float32),
        keypoints_px=np.zeros((FRAMES, 2, 23, 2), np.float32), keypoint_score=np.zeros((FRAMES, 2, 23), np.float32),
        keypoints_hip=np.zeros((FRAMES, 2, 23, 3), np.float32),
    ).save(clip.stage_dir("people"))  # fmt: skip
    save_result(clip.stage_dir("joint"), make_result(truth))
    save_arrays(clip.stage_dir("joint") / "scale.npz", {"metres_per_unit": np.full(FRAMES, 2.0)})
    weight = np.linspace(0.5, 1, FRAMES * 2, dtype=np.float32).reshape(FRAMES, 2)
    save_arrays(clip.stage_dir("quality") / "quality.npz", {"frame_weight": weight})
    verdict = {"decision": decision, "weight": 0.75, "reasons": ["slip"], "numbers": {}}
    write_json(clip.stage_dir("quality") / "quality.json", verdict)
    if depth:
        DepthInit(depth=np.full((FRAMES, 4, 6), 1.5, np.float16)).save(clip.stage_dir("depth"))
        finish(clip, "depth")
    for stage in ("frames", "joint", "quality"):
        finish(clip, stage)
    finish(clip, "people", {"blazepose": {"sha256": "1", "licence": "Apache-2.0"}})
    return truth


def make_result(truth: Sample) -> Result:
    """The labels of a sample as a result."""
    a = {name: torch.from_numpy(array) for name, array in truth.arrays.items()}
    return Result(
        cameras=Cameras(
            K=truth.arrays["K"], size=SIZE, timestamps=truth.arrays["timestamps"],
            world_from_cam=from_quat_trans(a["world_from_cam_quat"], a["world_from_cam_trans"]).numpy(),
            valid=np.arange(FRAMES) != 5,
        ),
        motion=Motion(
            ids=np.array([0, 1]), present=truth.arrays["present"], body_model="anny", betas=truth.arrays["betas"],
            body_rot=matrix_from_quat(a["body_quat"]).numpy(),
            cam_from_body=from_quat_trans(a["cam_from_body_quat"], a["cam_from_body_trans"]).numpy(),
            joints_cam=truth.arrays["joints_cam"], contact_prob=truth.arrays["contact_prob"],
            stature=truth.arrays["stature"], confidence=np.ones((FRAMES, 2), np.float32),
        ),
        meta={"world": "first_camera"},
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but locks: relative path -> bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "lock" not in path.name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def cut_off_at(step: int, work: Callable[[], Any]) -> bool:
    """Do some work in a process that dies at its `step`-th change of the disk; whether it died before it was done.

    Changes are replacing, renaming and deleting a file. It dies as if killed: nothing is cleaned up.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(900)
        left = [step]

        def counted(change: Any) -> Any:
            def changed(*words: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return change(*words, **named)

            return changed

        for name in ("replace", "rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    return status == 9
