"""The stage `student`: a checkpoint streams over the clip's frames, with the boxes of the `people` stage.

student/
    cameras.npz, motion.npz, scene.ply, meta.json   its streaming result, as `footfall run` writes it
    pass.npz                                         what else the initialisers need (`StudentPass`)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.fuser.scale import smooth_log_scale
from distill.models.pretrained import find_student, load_student
from distill.models.student import Student
from distill.models.student_files import read_config
from distill.on_device import OnDevice, place_student
from distill.recorder import Recorder
from distill.results import save_result
from distill.stream import FrameResult, Stream
from teacher.initialisers.pretrained import card_licence
from teacher.initialisers.registry import Outcome, Report, StageMissingError
from teacher.initialisers.student.config import StudentInitConfig
from teacher.stagefiles import Frames, People, StageFile, read_image
from teacher.workspace import ClipFolder

Array = NDArray[Any]


@dataclass(kw_only=True)
class StudentPass(StageFile):
    """What a stream said, frame by frame, with how sure it was. T frames, P people of the clip.

    Positions are in metres, at one scale for the whole clip; entries where `present` is False are finite.
    """

    file = "pass.npz"
    weights: dict[str, Any]
    """Weights used: id -> {sha256, licence}, for the records of all stages that start here."""
    body_model: str
    """Whose parameters `betas` and `body_rot` are."""
    K: Array
    """[3, 3] intrinsics that the stream was given, pixels."""
    K_known: bool
    """Whether they came with the clip; the student does not estimate a focal length."""
    world_from_cam: Array
    """[T, 4, 4]."""
    camera_sigma: Array
    """[T, 2] standard deviations per axis, from the first camera on: rotation (rad), translation (m)."""
    static_prob: Array
    """[T] probability that the camera stands."""
    log_scale_sigma: Array
    """[T] standard deviation of the natural logarithm of the scale."""
    present: Array
    """[T, P] bool."""
    betas: Array
    """[P, B]."""
    body_rot: Array
    """[T, P, 23, 3, 3]."""
    cam_from_body: Array
    """[T, P, 4, 4]."""
    depth_sigma: Array
    """[T, P] relative standard deviation of the pelvis's depth."""
    contact_prob: Array
    """[T, P, 6]."""
    depth: Array | None = None
    """[T, h, w] float16 depth of what the network sees; None if its backbone has no points."""


def checkpoint_hash(checkpoint: str) -> str:
    """Hash of a checkpoint's weights, as its config states it; empty without a checkpoint or where it is not found.

    The stage's record goes stale when it changes. What is wrong with a checkpoint is said by the stage itself.
    """
    try:
        return str(read_config(find_student(checkpoint))["weights_sha256"]) if checkpoint else ""
    except FootfallError:
        return ""


def run(clip: ClipFolder, config: StudentInitConfig, report: Report) -> Outcome:
    """Stream the clip's frames through the checkpoint.

    Raises:
        StageMissingError: no checkpoint is named.
        FootfallError: it cannot be loaded, or it saw nobody.
    """
    if not config.checkpoint:
        raise StageMissingError("no student asked for (student.checkpoint)")
    folder = find_student(config.checkpoint)
    student = load_student(folder)
    frames, people = Frames.load(clip.require("frames")), People.load(clip.require("people"))
    body = load_body_model(student.config.body_model)
    seen = _Collector(clip, student, body, frames, people, config)
    for index in range(len(frames.timestamps)):
        seen.step(index)
        report((index + 1) / len(frames.timestamps), f"frame {index + 1} of {len(frames.timestamps)}")
    result, found = seen.finish(_weights(config.checkpoint, folder))
    result.meta |= {"made_by": "footfall label", "checkpoint": config.checkpoint}
    save_result(clip.stage_dir("student"), result)
    found.save(clip.stage_dir("student"))
    if not found.present.any():
        raise FootfallError(
            f"clip {clip.id}: student {config.checkpoint}", got="nobody in any frame", expected="somebody",
            do="label this clip without --init",
        )  # fmt: skip
    static = float(np.median(found.static_prob))
    return Outcome(
        summary={
            "present_frames": found.present.sum(0).tolist(), "static_prob": round(static, 3),
            "stature_m": [round(float(s), 3) for s in result.motion.stature],
            "log_scale_sigma": round(float(found.log_scale_sigma[-1]), 3), "has_depth": found.depth is not None,
            "masks_and_keypoints": "of the people stage, because a student has none",
        },
        weights=found.weights,
    )  # fmt: skip


def _weights(checkpoint: str, folder: Path) -> dict[str, Any]:
    """Entry of the records: the heads with the licence of their card, and the backbone with its own."""
    stored = read_config(folder)
    backbone = stored["backbone"]
    return {
        f"student:{checkpoint}": {"sha256": stored["weights_sha256"], "licence": card_licence(folder)},
        f"backbone:{backbone['id']}": {"sha256": backbone["sha256"], "licence": backbone["licence"]},
    }


class _Collector:
    """Feeds a stream and keeps what it says."""

    def __init__(
        self, clip: ClipFolder, student: Student, body: BodyModel, frames: Frames, people: People,
        config: StudentInitConfig,
    ) -> None:  # fmt: skip
        self.images, self.frames, self.people, self.config = clip.require("frames"), frames, people, config
        self.body, size = body, (frames.size[0], frames.size[1])
        self.network: Student | OnDevice = place_student(student, None if config.device == "auto" else config.device)
        K = None if frames.K is None else torch.tensor(frames.K, dtype=torch.float32)
        self.stream = Stream(self.network, size, config.stream, K=K, K_known=K is not None, body=body)
        self.recorder = Recorder(
            self.stream.K.numpy(), size, student.config.body_model, scale_seconds=config.stream.fuser.scale_seconds
        )
        self.results: list[FrameResult] = []
        self.depths: list[tuple[float, Array]] = []

    def step(self, index: int) -> None:
        """The next frame."""
        image = read_image(Frames.image_path(self.images, index))
        shown = np.flatnonzero(self.people.visible[index])
        boxes = {int(person): self.people.box_xyxy[index, person] for person in shown}
        now = self.stream.step(image, float(self.frames.timestamps[index]), boxes)
        if self.network.has_points:
            self._look()
        for ready in self.stream.settled() if self.config.stream.settle else [now]:
            self._add(ready)

    def finish(self, weights: dict[str, Any]) -> tuple[Any, StudentPass]:
        """The streaming result, and what the initialisers need beyond it."""
        for ready in self.stream.finish() if self.config.stream.settle else []:
            self._add(ready)
        result = self.recorder.result(min_frames=1)
        motion, count = result.motion, self.people.visible.shape[1]
        rows, columns = np.arange(len(self.results)), motion.ids.astype(int)

        def spread(values: Array, empty: Array) -> Array:
            """[T, found, ...] -> [T, P, ...]."""
            whole = np.broadcast_to(empty, (len(rows), count, *values.shape[2:])).astype(values.dtype).copy()
            whole[:, columns] = values
            return whole

        doubt = np.ones((len(rows), count), np.float32)
        for row, frame in enumerate(self.results):
            for person in frame.people:
                doubt[row, person.id] = person.depth_sigma
        betas = np.zeros((count, motion.betas.shape[1]), np.float32)
        betas[columns] = motion.betas
        return result, StudentPass(
            weights=weights, body_model=motion.body_model, K=result.cameras.K.astype(np.float64),
            K_known=self.frames.K is not None, world_from_cam=result.cameras.world_from_cam.astype(np.float64),
            camera_sigma=np.stack([frame.camera_sigma.numpy() for frame in self.results]),
            static_prob=np.array([frame.static_prob for frame in self.results]),
            log_scale_sigma=np.array([frame.log_scale_sigma for frame in self.results]),
            present=spread(motion.present, np.zeros(1, bool)), betas=betas,
            body_rot=spread(motion.body_rot, np.eye(3)), cam_from_body=spread(motion.cam_from_body, np.eye(4)),
            depth_sigma=doubt, contact_prob=spread(motion.contact_prob, np.zeros(1)), depth=self._depth(),
        )  # fmt: skip

    def _add(self, frame: FrameResult) -> None:
        self.results.append(frame)
        self.recorder.add(frame, {person.id: float(self.body.stature(person.betas)) for person in frame.people})

    @torch.inference_mode()
    def _look(self) -> None:
        """Depth of the frame just given, in the network's metres before the fuser's correction of the scale."""
        seen, stride = self.stream.seen(), self.config.depth_stride
        points, _ = self.network.points(seen.tokens, seen.other)
        self.depths.append((seen.log_scale, points[0, ::stride, ::stride, 2].float().cpu().numpy()))

    def _depth(self) -> Array | None:
        """[T, h, w] at the scale of the result."""
        if not self.depths:
            return None
        scales = np.array([frame.log_scale for frame in self.results])
        sigma = np.array([frame.log_scale_sigma for frame in self.results])
        wanted = smooth_log_scale(scales, sigma, self.frames.timestamps, self.config.stream.fuser.scale_seconds)
        of_scene = np.array([scale for scale, _ in self.depths])
        maps = np.stack([depth for _, depth in self.depths])
        return np.clip(maps * np.exp(of_scene - wanted)[:, None, None], 0, 6e4).astype(np.float16)
