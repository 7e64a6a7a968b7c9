"""All scores of one clip: a predicted `Result` against the true one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel, load_body_model
from distill.errors import FootfallError
from distill.metrics.cameras import ate, rmse, rpe
from distill.metrics.feet import (
    contact_f1,
    foot_floating_rate,
    foot_gap,
    foot_sliding,
    height_over_scene,
    penetration,
    slip,
)
from distill.metrics.inputs import DegenerateError, Protocol
from distill.metrics.matching import PersonMatch, match_frames, match_people
from distill.metrics.people import person_penetration
from distill.metrics.pose import accel_error, mpjpe, pa_mpjpe, stature_error
from distill.metrics.world import SEGMENT, jitter, path_length, rte, w_mpjpe, wa_mpjpe, world_size_error
from distill.results import Result

Array = NDArray[Any]
STILL_M_S: Final = 0.3
"""A sole slower than this stands: the published 1 cm per frame at 30 frames a second."""
FEET: Final = 4
"""The first four contact sites are heel and toe of each foot."""
SHORTEST_PATH_M: Final = 1.0
"""RTE divides by the path's length; for somebody who stands it would say nothing but that."""
NEAR_M: Final = 1.0
"""Only people with pelvises this near can stand in each other."""


@dataclass
class Scores:
    """Samples of each metric, so that clips can be averaged over frames, and why some are missing."""

    samples: dict[str, Array] = field(default_factory=dict)
    """Metric -> samples in the unit that its name says."""
    undefined: dict[str, str] = field(default_factory=dict)
    """Metric -> why it has no value."""

    def add(self, names: str | tuple[str, ...], compute: Callable[[], Any]) -> None:
        """Compute one metric, or several at once; note the reason if it is not defined here."""
        keys = (names,) if isinstance(names, str) else names
        try:
            values = compute()
        except (DegenerateError, FootfallError) as error:
            self.undefined.update(dict.fromkeys(keys, str(error)))
            return
        for key, value in zip(keys, values if len(keys) > 1 else (values,), strict=True):
            self.samples[key] = np.atleast_1d(np.asarray(value, dtype=np.float64))

    def means(self) -> dict[str, float]:
        """Metric -> mean of its samples."""
        return {name: float(values.mean()) for name, values in self.samples.items()}


@dataclass
class ClipScores:
    """One clip."""

    camera: Scores
    people: list[tuple[PersonMatch, Scores]]
    """One entry per true person, missed ones too (without samples)."""
    shared_frames: int
    """True frames for which there is a predicted one."""
    extra_person_frames: int
    """(frame, person) pairs that were predicted and belong to nobody."""
    overlap: Scores
    """How deep predicted people stand in each other."""


def score_clip(
    truth: Result, prediction: Result, *, protocol: Protocol = "footfall", segment: int = SEGMENT,
    contact_threshold: float = 0.5,
) -> ClipScores:  # fmt: skip
    """Score a predicted result against the true one.

    Frames are matched by timestamp, people by their joints in the image (`matching`). Everything is computed on
    the frames in which both are present.

    Args:
        segment: frames that share one alignment in W- and WA-MPJPE.
        contact_threshold: probability from which a site counts as touching.
    """
    frame_of = match_frames(truth.cameras.timestamps, prediction.cameras.timestamps)
    matches = match_people(truth, prediction, frame_of)
    on_truth = _at(prediction, frame_of)
    people = []
    for match in matches:
        scores = Scores()
        if match.predicted is not None:
            pair = _PersonPair(truth, on_truth, match, protocol, segment, contact_threshold)
            pair.score(scores)
        people.append((match, scores))
    taken = sum(int(match.frames.sum()) for match in matches)
    return ClipScores(
        camera=_score_camera(truth, on_truth, frame_of >= 0, protocol),
        people=people,
        shared_frames=int((frame_of >= 0).sum()),
        extra_person_frames=int(prediction.motion.present[frame_of[frame_of >= 0]].sum()) - taken,
        overlap=_score_overlap(prediction),
    )


def _at(prediction: Result, frame_of: NDArray[np.int64]) -> Result:
    """The prediction at the true frames; where there is none, its first frame (masked by the caller)."""
    pick = np.maximum(frame_of, 0)
    cameras, motion = prediction.cameras, prediction.motion
    return Result(
        cameras=replace(
            cameras, timestamps=cameras.timestamps[pick], world_from_cam=cameras.world_from_cam[pick],
            valid=cameras.valid[pick],
        ),
        motion=replace(
            motion, present=motion.present[pick], body_rot=motion.body_rot[pick],
            cam_from_body=motion.cam_from_body[pick], joints_cam=motion.joints_cam[pick],
            contact_prob=motion.contact_prob[pick], confidence=motion.confidence[pick],
        ),
        scene_points=prediction.scene_points,
        scene_rgb=prediction.scene_rgb,
        meta=prediction.meta,
    )  # fmt: skip


def _score_camera(truth: Result, prediction: Result, shared: NDArray[np.bool_], protocol: Protocol) -> Scores:
    scores = Scores()
    true, predicted = truth.cameras.world_from_cam, prediction.cameras.world_from_cam

    def path_error(align_to: Any) -> tuple[float, float]:
        errors = ate(true, predicted, mask=shared, align_to=align_to, allow_degenerate=True, protocol=protocol)
        return float(errors.mean()), rmse(errors)

    scores.add(("ate_m", "ate_rmse_m"), lambda: path_error("se3"))
    scores.add(("ate_sim3_m", "ate_sim3_rmse_m"), lambda: path_error("sim3"))
    scores.add(("rpe_m", "rpe_deg"), lambda: rpe(true, predicted, mask=shared))
    scores.add("focal_error_percent", lambda: _focal_error(truth, prediction))
    return scores


def _focal_error(truth: Result, prediction: Result) -> float:
    """Relative error of the focal length, %, at the true image size."""
    per_width = [result.cameras.K[0, 0] / result.cameras.size[0] for result in (truth, prediction)]
    return float(100 * abs(per_width[1] / per_width[0] - 1))


class _PersonPair:
    """A true and a predicted person on the true frames."""

    def __init__(
        self, truth: Result, prediction: Result, match: PersonMatch, protocol: Protocol, segment: int,
        contact_threshold: float,
    ) -> None:  # fmt: skip
        assert match.predicted is not None
        self.truth, self.prediction = truth, prediction
        self.true, self.predicted, self.mask = match.true, match.predicted, match.frames
        self.protocol, self.segment, self.threshold = protocol, segment, contact_threshold
        times = truth.cameras.timestamps
        self.fps = 1 / float(np.median(np.diff(times))) if len(times) > 1 else 30.0

    def score(self, scores: Scores) -> None:
        """Add every metric of the person."""
        cam = self.truth.motion.joints_cam[:, self.true], self.prediction.motion.joints_cam[:, self.predicted]
        world = self.truth.joints_world[:, self.true], self.prediction.joints_world[:, self.predicted]
        options: dict[str, Any] = {"mask": self.mask, "protocol": self.protocol}
        scores.add("mpjpe_mm", lambda: mpjpe(*cam, mask=self.mask))
        scores.add("pa_mpjpe_mm", lambda: pa_mpjpe(*cam, mask=self.mask))
        scores.add("metric_mpjpe_mm", lambda: mpjpe(*cam, mask=self.mask, align_to="none"))
        scores.add("accel_m_s2", lambda: accel_error(*cam, fps=self.fps, **options))
        scores.add("w_mpjpe_mm", lambda: w_mpjpe(*world, length=self.segment, **options))
        scores.add("wa_mpjpe_mm", lambda: wa_mpjpe(*world, length=self.segment, **options))
        scores.add("rte_percent", lambda: self._rte(world[0][:, 0], world[1][:, 0]))
        scores.add("jitter", lambda: jitter(world[1], fps=self.fps, **options))
        scores.add("jitter_of_truth", lambda: jitter(world[0], fps=self.fps, **options))
        scores.add(
            "world_size_percent", lambda: world_size_error(world[0][self.mask, 0], world[1][self.mask, 0])
        )  # fmt: skip
        self._score_feet(scores)
        stature = self.truth.motion.stature[[self.true]], self.prediction.motion.stature[[self.predicted]]
        scores.add("stature_error_cm", lambda: np.abs(stature_error(*stature)))

    def _rte(self, true_root: Array, predicted_root: Array) -> Array:
        length = path_length(true_root[self.mask])
        if length < SHORTEST_PATH_M:
            raise DegenerateError(f"the true path is only {length:.2f} m long")
        return rte(true_root, predicted_root, mask=self.mask)

    def _score_feet(self, scores: Scores) -> None:
        touches = self.truth.motion.contact_prob[:, self.true] > self.threshold
        guessed = self.prediction.motion.contact_prob[:, self.predicted] > self.threshold
        scores.add("contact_f1", lambda: contact_f1(touches[self.mask], guessed[self.mask]))
        try:
            true_feet = _feet(self.truth, self.true)
            predicted_feet = _feet(self.prediction, self.predicted)
        except FootfallError as error:
            names = ("foot_sliding_mm", "slip_cm_s", "ffr_percent", "foot_gap_cm", "penetration_cm")
            scores.undefined.update(dict.fromkeys(names, str(error)))
            return
        still = STILL_M_S / self.fps
        scores.add(
            "foot_sliding_mm",
            lambda: foot_sliding(true_feet, predicted_feet, mask=self.mask, still_m=still, protocol=self.protocol),
        )
        contact = touches[:, :FEET] & self.mask[:, None]
        scores.add("slip_cm_s", lambda: slip(predicted_feet, contact, fps=self.fps))
        scene = self.prediction.scene_points
        scores.add("ffr_percent", lambda: 100 * foot_floating_rate(predicted_feet[self.mask], scene))
        if self.prediction.meta["world"] != "z_up_ground":
            reason = "the predicted world has no known vertical"
            scores.undefined.update(foot_gap_cm=reason, penetration_cm=reason)
            return
        scores.add(
            ("foot_gap_cm", "penetration_cm"),
            lambda: _over_ground(predicted_feet[self.mask], scene, contact[self.mask]),
        )


def _over_ground(feet: Array, scene: Array, contact: Array) -> tuple[Array, Array]:
    height = height_over_scene(feet, scene)
    return foot_gap(height, contact), penetration(height)


def _body_of(result: Result) -> BodyModel:
    """The body model of a result's parameters, if it can be had without the user's files."""
    return load_body_model(result.motion.body_model).double()


def _feet(result: Result, person: int) -> Array:
    """Soles of heel and toe of each foot [T, 4, 3] in the world, metres.

    They play the part of SMPL's four foot vertices: each is the mean of its site's vertices on that body.
    """
    body = _body_of(result)
    sites = body.sites(*_pose(result, person))[:, :FEET]
    return sites.numpy()


def _pose(result: Result, person: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    motion = result.motion
    frames = len(motion.present)
    betas = torch.from_numpy(motion.betas[person].astype(np.float64)).expand(frames, -1)
    body_rot = torch.from_numpy(motion.body_rot[:, person].astype(np.float64))
    return betas, body_rot, torch.from_numpy(result.world_from_body[:, person].astype(np.float64))


def _score_overlap(prediction: Result) -> Scores:
    """Mean over frames of the greatest depth by which any two predicted people stand in each other, cm."""
    scores = Scores()
    motion = prediction.motion
    if motion.present.shape[1] < 2:
        scores.undefined["people_overlap_cm"] = "fewer than two people"
        return scores
    scores.add("people_overlap_cm", lambda: _overlap(prediction))
    return scores


def _overlap(prediction: Result) -> Array:
    body, motion = _body_of(prediction), prediction.motion
    roots = prediction.world_from_body[:, :, :3, 3]
    depth = np.zeros(len(motion.present))
    count = motion.present.shape[1]
    for a, b in ((a, b) for a in range(count) for b in range(count) if a != b):
        distance = np.linalg.norm(roots[:, a] - roots[:, b], axis=-1)
        frames = np.flatnonzero(motion.present[:, a] & motion.present[:, b] & (distance < NEAR_M))
        for frame in frames:
            mesh_a, mesh_b = (_mesh(body, prediction, person, int(frame)) for person in (a, b))
            depth[frame] = max(depth[frame], person_penetration(mesh_a, mesh_b, body.faces.numpy())[0])
    return depth


def _mesh(body: BodyModel, result: Result, person: int, frame: int) -> Array:
    """Vertices [1, V, 3] in the world, metres."""
    betas, body_rot, world_from_body = (part[frame : frame + 1] for part in _pose(result, person))
    vertices = body(betas, body_rot, world_from_body, body.all_vertices).vertices
    return vertices.numpy()
