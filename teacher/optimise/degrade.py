"""Problems from synthetic truth, made wrong as real initialisers go wrong, so that a solve can be held against truth.

Every knob is one way in which initialisers fail; `teacher.benchmark.calibration` measures the same numbers on real
ones. Each draws from a generator of its own, so that turning one knob leaves the draws of the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from scipy.ndimage import zoom
from scipy.spatial.transform import Rotation

from distill.geometry.conventions import KEYPOINTS
from teacher.optimise.exact import ExactView, exact_view
from teacher.optimise.problem import Problem
from teacher.stagefiles import Array, BodyInit, CameraInit, Contacts, DepthInit, People

if TYPE_CHECKING:
    from distill.synthetic import SyntheticClip

PATCHES: Final = (4, 6)
"""Rows and columns of the grid on which errors of dense depth are drawn that a whole region shares."""
FAR: Final = 1.2
"""Factor on depth where something behind is taken for what is there."""
MIRROR: Final = [
    KEYPOINTS.index(name.replace("left", "-").replace("right", "left").replace("-", "right")) for name in KEYPOINTS
]
"""The keypoint of the other side for each of `conventions.KEYPOINTS`."""
FEWEST_KEYPOINTS: Final = 6
"""With fewer visible keypoints the bodies stage has no body (`initialisers.bodies.MIN_KEYPOINTS`)."""


@dataclass(kw_only=True)
class Degradation:
    """How the initial values differ from the truth; the defaults leave it as it is."""

    seed: int = 0
    """Of all draws."""
    focal: float = 1.0
    """Factor on the focal length; depths of scene and bodies follow it, and cameras move back, as in real ones."""
    unit: float = 1.0
    """Units of the scene per metre (structure from motion knows no metres)."""
    metric: bool = False
    """Whether the scene initialiser claims metres all the same (as MASt3R's metric model, which JOSH starts from)."""
    root_depth: float = 1.0
    """Factor on every pelvis depth, beside that of the focal length."""
    root_depth_sd: float = 0.0
    """Noise of the pelvis depth, relative."""
    root_rot_sd: float = 0.0
    """Noise of the root's orientation, radians per axis."""
    pose_sd: float = 0.0
    """Noise of each joint, radians per axis."""
    standing: float = 0.0
    """Part of the variance of root's and joints' noise that stays for the whole clip."""
    slow: float = 0.0
    """Part of that variance that changes slowly; what is left is new in every frame."""
    memory_s: float = 0.3
    """Time over which slow noise, and errors of the dense depth, forget, seconds."""
    betas_sd: float = 0.0
    """Error of the shape, standard deviations."""
    keypoint_px: float = 0.0
    """Noise of keypoints, pixels per axis."""
    keypoint_memory_s: float = 0.0
    """Time over which that noise forgets, seconds; 0: new in every frame."""
    keypoint_bias: float = 0.0
    """Standing offset of each person's keypoints, parts of the person's height in the image, per axis."""
    keypoint_hidden: float = 0.0
    """Part of the keypoints in view that get no score."""
    mirrored_frames: int = 0
    """Frames at the clip's beginning in which the first person is seen the wrong way round: left for right, front for
    back, as landmark detectors do from behind."""
    track_px: float = 0.0
    """Noise of the scene's observations, pixels per axis."""
    outliers: float = 0.0
    """Part of the scene's observations that is moved far."""
    outlier_px: float = 40.0
    """How far, pixels per axis (standard deviation)."""
    depth_sd: float = 0.0
    """Noise of the dense depth from pixel to pixel, relative."""
    depth_patch_sd: float = 0.0
    """Error of the dense depth that a region and neighbouring frames share, relative."""
    depth_bias: float = 1.0
    """Factor on the dense depth against the cameras' unit."""
    depth_holes: float = 0.0
    """Part of the dense depth that is missing, in regions."""
    depth_far: float = 0.0
    """Part of the dense depth that lies a fifth behind the truth, in regions: a bare floor taken for the wall."""
    wrong_contacts: float = 0.0
    """Part of the contact labels that is flipped."""
    wrong_contact_s: float = 0.0
    """How long a flipped label stays so, seconds; 0: every frame for itself."""
    contact_doubt: float = 0.0
    """How far contact probabilities are drawn towards 1/2, 0 to 1."""
    camera_pos_sd: float = 0.0
    """Noise of the camera centres, metres per axis."""
    camera_rot_sd: float = 0.0
    """Noise of the camera's orientation, radians per axis."""
    drift_rot: float = 0.0
    """Drift of the camera's orientation, radians per axis in one second, growing with the root of time."""
    drift_pos: float = 0.0
    """Drift of the camera's position, metres per axis in one second, as above."""
    drift_scale: float = 0.0
    """Drift of the scale, natural logarithm in one second, as above."""
    lost_frames: int = 0
    """Frames in the middle of the clip in which the first person's track is lost."""
    dense: bool = True
    """Whether there is dense depth."""
    cameras: str = "sfm"
    """Kind of `CameraInit`: "sfm", "known" (no error may be asked for then) or "static" (no scene at all)."""

    def __post_init__(self) -> None:
        names = ("outliers", "depth_holes", "depth_far", "wrong_contacts", "contact_doubt", "keypoint_hidden")
        shares = {name: getattr(self, name) for name in names}
        shares |= {"standing": self.standing, "slow": self.slow, "standing + slow": self.standing + self.slow}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"degradation.{name}: got {share}, expected 0 to 1")
        if (
            min(self.focal, self.unit, self.root_depth, self.depth_bias) <= 0
            or min(self.lost_frames, self.mirrored_frames) < 0
        ):
            raise ValueError("degradation: factors above 0 and counts of frames of 0 or more are expected")

    def rng(self, purpose: str) -> np.random.Generator:
        """The generator of one purpose."""
        return np.random.default_rng([self.seed, *purpose.encode()])


def problem_from_truth(clip: SyntheticClip, degradation: Degradation, *, points: int = 1500) -> Problem:
    """The problem that initialisers with these errors would pose.

    Args:
        clip: truth and scene.
        degradation: the errors.
        points: scene points whose observations form the tracks.
    """
    return degraded_problem(exact_view(clip, points), degradation)


def degraded_problem(view: ExactView, degradation: Degradation) -> Problem:
    """As `problem_from_truth`, for a clip that has been looked at already."""
    clip, d = view.clip, degradation
    seen = _with_gap(view, d)
    scale = _random_walk(d.rng("drift scale"), clip.truth.cameras.timestamps, d.drift_scale)
    dense = d.dense and d.cameras != "static"
    return Problem(
        clip_id=clip.spec.id,
        timestamps=clip.truth.cameras.timestamps,
        size=clip.truth.cameras.size,
        cameras=_cameras(view, d, scale),
        people=_people(view, d, seen),
        bodies=_bodies(view, d, seen.sum(-1) >= FEWEST_KEYPOINTS),
        contacts=_contacts(view, d, seen.sum(-1) >= FEWEST_KEYPOINTS),
        depth=_depth(view, d, np.exp(scale)) if dense else None,
    )


def _with_gap(view: ExactView, d: Degradation) -> Array:
    """[T, P, 23] bool: keypoints that the people stage sees; nothing of the first person in the lost frames."""
    seen = view.keypoint_seen & view.clip.truth.motion.present[..., None]
    seen &= d.rng("hidden").random(seen.shape) >= d.keypoint_hidden
    first = max((len(seen) - d.lost_frames) // 2, 0)
    seen[first : first + d.lost_frames, 0] = False
    return np.asarray(seen)


def lost_span(frames: int, degradation: Degradation) -> slice:
    """The frames in which the first person's track is lost."""
    first = max((frames - degradation.lost_frames) // 2, 0)
    return slice(first, first + degradation.lost_frames)


def _cameras(view: ExactView, d: Degradation, log_scale: Array) -> CameraInit:
    if d.cameras == "static":
        return _fixed_camera(view, d)
    truth, known = view.clip.truth.cameras, d.cameras == "known"
    pose = _drifted(truth.world_from_cam, truth.timestamps, d, log_scale)
    pose[:, :3, 3] -= (d.focal - 1) * _pivot(view) * pose[:, :3, 2]  # a longer lens stands farther back
    points, frame, point = view.points, view.obs_frame, view.obs_point
    points = _seen_from(pose, truth.world_from_cam, points, (frame, point), d.focal, np.exp(log_scale))
    rng, count = d.rng("cameras"), len(pose)
    pose[:, :3, :3] = pose[:, :3, :3] @ _turns(d.camera_rot_sd * rng.standard_normal((count, 3)))
    pose[:, :3, 3] += d.camera_pos_sd * rng.standard_normal((count, 3))
    first_from_world = np.linalg.inv(pose[0])  # an initialiser's world is its first camera
    points = d.unit * (points @ first_from_world[:3, :3].T + first_from_world[:3, 3])
    pose = first_from_world @ pose
    pose[:, :3, 3] *= d.unit
    return CameraInit(
        kind=d.cameras, metric=known or d.metric, focal_known=known,
        K=truth.K * np.array([[d.focal, 1, 1], [1, d.focal, 1], [1, 1, 1]]),
        world_from_cam=pose, registered=np.ones(count, bool), points=points.astype(np.float32),
        points_rgb=np.full(points.shape, 128, np.uint8), obs_frame=frame, obs_point=point,
        obs_px=_matched(view.obs_px, d).astype(np.float32),
    )  # fmt: skip


def _fixed_camera(view: ExactView, d: Degradation) -> CameraInit:
    """A camera that stays in its place, and turns as measured if it turns at all; no scene can be triangulated."""
    truth = view.clip.truth.cameras
    turns = np.linalg.inv(truth.world_from_cam[0])[:3, :3] @ truth.world_from_cam[:, :3, :3]
    pose = np.tile(np.eye(4), (len(turns), 1, 1))
    if not np.allclose(turns, np.eye(3), atol=1e-6):
        pose[:, :3, :3] = turns @ _turns(d.camera_rot_sd * d.rng("cameras").standard_normal((len(turns), 3)))
    none = np.zeros(0, np.int32)
    return CameraInit(
        kind="static", metric=d.metric, focal_known=False,
        K=truth.K * np.array([[d.focal, 1, 1], [1, d.focal, 1], [1, 1, 1]]),
        world_from_cam=pose, registered=np.ones(len(pose), bool), points=np.zeros((0, 3), np.float32),
        points_rgb=np.zeros((0, 3), np.uint8), obs_frame=none, obs_point=none, obs_px=np.zeros((0, 2), np.float32),
    )  # fmt: skip


def _pivot(view: ExactView) -> float:
    """Median depth of the people, metres: there a wrong focal length leaves the world in its place."""
    motion = view.clip.truth.motion
    return float(np.median(motion.cam_from_body[..., 2, 3][motion.present]))


def _drifted(world_from_cam: Array, timestamps: Array, d: Degradation, log_scale: Array) -> Array:
    """Poses [T, 4, 4] whose steps carry errors that add up: turn, shift and scale."""
    rng = d.rng("drift")
    step_s = np.sqrt(np.diff(timestamps))[:, None]
    turns = _turns(d.drift_rot * step_s * rng.standard_normal((len(step_s), 3)))
    shifts = d.drift_pos * step_s * rng.standard_normal((len(step_s), 3))
    steps = np.linalg.inv(world_from_cam[:-1]) @ world_from_cam[1:]
    steps[:, :3, 3] = steps[:, :3, 3] * np.exp(log_scale[1:, None]) + shifts
    steps[:, :3, :3] = steps[:, :3, :3] @ turns
    poses = [np.array(world_from_cam[0], np.float64)]
    for step in steps:
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def _seen_from(
    pose: Array, true_pose: Array, points: Array, sights: tuple[Array, Array], focal: float, scale: Array
) -> Array:
    """Points [N, 3] where the wrong cameras put them: right as seen from the middle frame of each one's sights.

    With a focal length that is too long by a factor, what is seen is as wide as ever and farther by that factor.

    Args:
        pose, true_pose: [T, 4, 4] wrong and true world from camera. points: [N, 3] true.
        sights: frame [M] and point [M] of each observation. focal: factor. scale: [T] of each frame.
    """
    frame, point = sights
    order = np.lexsort((frame, point))
    ids, begin, count = np.unique(point[order], return_index=True, return_counts=True)
    anchor = np.zeros(len(points), np.int64)
    anchor[ids] = frame[order][begin + count // 2]
    in_camera = np.einsum("nji,nj->ni", true_pose[anchor, :3, :3], points - true_pose[anchor, :3, 3])
    in_camera = in_camera * scale[anchor, None] * (1, 1, focal)
    return np.asarray(np.einsum("nij,nj->ni", pose[anchor, :3, :3], in_camera) + pose[anchor, :3, 3])


def _matched(px: Array, d: Degradation) -> Array:
    """Observations [M, 2] with noise; some belong to another point altogether."""
    rng = d.rng("tracks")
    noise = d.track_px * rng.standard_normal(px.shape)
    far = d.outlier_px * rng.standard_normal(px.shape)
    wrong = rng.random(len(px)) < d.outliers
    return np.asarray(px + np.where(wrong[:, None], far, noise))


def _people(view: ExactView, d: Degradation, seen: Array) -> People:
    """Keypoints as a landmark detector would give them; hidden ones and those off the image have no score."""
    rng, times = d.rng("keypoints"), view.clip.truth.cameras.timestamps
    px = view.keypoints_px.copy()
    height = np.median(np.ptp(px[..., 1], axis=-1), axis=0)  # [P] pixels
    offset = d.keypoint_bias * height[:, None, None] * rng.standard_normal(px.shape[1:])
    px += offset + d.keypoint_px * _slow(rng, times, px.shape, d.keypoint_memory_s)
    px[: d.mirrored_frames, 0] = px[: d.mirrored_frames, 0][:, MIRROR]
    hips = view.keypoints_cam[..., 11:13, :].mean(-2, keepdims=True)
    visible: Array = np.asarray(seen.any(-1))
    there = visible[..., None]
    return People(
        visible=visible,
        box_xyxy=(np.concatenate((px.min(-2), px.max(-2)), axis=-1) * there).astype(np.float32),
        score=visible.astype(np.float32),
        keypoints_px=(px * there[..., None]).astype(np.float32),
        keypoint_score=seen.astype(np.float32),
        keypoints_hip=((view.keypoints_cam - hips) * there[..., None]).astype(np.float32),
    )


def _bodies(view: ExactView, d: Degradation, present: Array) -> BodyInit:
    motion, cameras = view.clip.truth.motion, view.clip.truth.cameras
    frames, people = motion.present.shape
    times = cameras.timestamps
    pose = np.array(motion.cam_from_body, np.float64)
    pose[..., :3, :3] = pose[..., :3, :3] @ _turns(
        d.root_rot_sd * _noise(d.rng("root rot"), times, (frames, people, 3), d)
    )
    pose[: d.mirrored_frames, 0, :3, :3] = pose[: d.mirrored_frames, 0, :3, :3] @ np.diag([-1.0, 1.0, -1.0])
    log_depth = d.root_depth_sd * _noise(d.rng("root depth"), times, (frames, people, 1), d)
    pose[..., :3, 3] *= d.root_depth * np.exp(log_depth)
    pose[..., 2, 3] *= d.focal  # t_z' = (f / f_true) t_z
    joints = motion.body_rot @ _turns(d.pose_sd * _noise(d.rng("pose"), times, (frames, people, 23, 3), d))
    betas = motion.betas + d.betas_sd * d.rng("betas").standard_normal(motion.betas.shape)
    for person in np.flatnonzero(~present.all(0) & present.any(0)):
        pose[:, person], joints[:, person] = _filled(pose[:, person], joints[:, person], present[:, person])
    return BodyInit(
        body_model=motion.body_model,
        focal_px=float(cameras.K[0, 0] * d.focal),
        present=present,
        betas=betas.astype(np.float32),
        body_rot=joints,
        cam_from_body=pose,
        confidence=present.astype(np.float32),
    )


def _filled(pose: Array, joints: Array, present: Array) -> tuple[Array, Array]:
    """One person's [T, 4, 4] and [T, 23, 3, 3] with the frames that are not present filled as the bodies stage does."""
    from teacher.initialisers.bodies import fill
    from teacher.initialisers.body_fit import Pose

    found = Pose(
        betas=torch.zeros(1, dtype=torch.float64),
        body_rot=torch.from_numpy(np.asarray(joints[present], np.float64)),
        cam_from_body=torch.from_numpy(pose[present]),
    )
    whole = fill(found, torch.from_numpy(present))
    return whole.cam_from_body.numpy(), whole.body_rot.numpy()


def _contacts(view: ExactView, d: Degradation, present: Array) -> Contacts:
    """Contact probabilities; flips come one by one, or in runs that last as long as a real detector's mistakes."""
    truth, rng = view.clip.truth.motion.contact_prob, d.rng("contacts")
    wrong = np.zeros(truth.shape, bool)
    state = rng.random(truth.shape[1:]) < d.wrong_contacts
    step_s = float(np.median(np.diff(view.clip.truth.cameras.timestamps)))
    kept = np.exp(-step_s / d.wrong_contact_s) if d.wrong_contact_s > 0 else 0.0
    for frame in range(len(truth)):  # a two-state chain whose stationary share of wrong labels is the knob
        fresh = rng.random(state.shape) < d.wrong_contacts
        state = np.where(rng.random(state.shape) < kept, state, fresh)
        wrong[frame] = state
    prob = np.where(wrong, 1 - truth, truth)
    prob = 0.5 + (1 - d.contact_doubt) * (prob - 0.5)
    return Contacts(prob=(prob * present[..., None]).astype(np.float32))


def _depth(view: ExactView, d: Degradation, scale: Array) -> DepthInit:
    rng = d.rng("depth")
    times = view.clip.truth.cameras.timestamps
    frames, height, width = view.depth.shape
    depth = view.depth * (d.unit * d.focal * d.depth_bias * scale[:, None, None])
    if d.depth_sd:
        depth = depth * np.exp(d.depth_sd * rng.standard_normal(depth.shape, np.float32))
    grow = (1, height / PATCHES[0], width / PATCHES[1])
    if d.depth_patch_sd:
        coarse = _slow(rng, times, (frames, *PATCHES), d.memory_s)
        depth = depth * np.exp(d.depth_patch_sd * zoom(coarse, grow, order=1))
    for share, factor in ((d.depth_holes, 0.0), (d.depth_far, FAR)):
        if share:
            coarse = zoom(_slow(rng, times, (frames, *PATCHES), d.memory_s), grow, order=1)
            depth = np.where(coarse < np.quantile(coarse, share), factor * depth, depth)
    return DepthInit(depth=np.asarray(depth).astype(np.float16))


def _noise(rng: np.random.Generator, timestamps: Array, shape: tuple[int, ...], d: Degradation) -> Array:
    """Unit noise [T, ...]: a part that stays, a slow part and a white one."""
    stays, white = rng.standard_normal(shape[1:]), rng.standard_normal(shape)
    slow = _slow(rng, timestamps, shape, d.memory_s)
    fresh = max(1 - d.standing - d.slow, 0.0)
    return np.asarray(np.sqrt(d.standing) * stays + np.sqrt(d.slow) * slow + np.sqrt(fresh) * white)


def _slow(rng: np.random.Generator, timestamps: Array, shape: tuple[int, ...], memory_s: float) -> Array:
    """Unit noise [T, ...] whose correlation falls by e in `memory_s` (an Ornstein-Uhlenbeck process; 0: white)."""
    fresh = rng.standard_normal(shape)
    if memory_s <= 0:
        return fresh
    values = fresh.copy()
    kept = np.exp(-np.diff(timestamps) / memory_s)
    for frame in range(1, len(values)):
        k = kept[frame - 1]
        values[frame] = k * values[frame - 1] + np.sqrt(1 - k**2) * fresh[frame]
    return values


def _random_walk(rng: np.random.Generator, timestamps: Array, per_root_s: float) -> Array:
    """[T] random walk from 0 whose standard deviation after a second is `per_root_s`."""
    steps = per_root_s * np.sqrt(np.diff(timestamps)) * rng.standard_normal(len(timestamps) - 1)
    return np.concatenate(([0.0], np.cumsum(steps)))


def _turns(vectors: Array) -> Array:
    """Rotation vectors [..., 3] -> matrices [..., 3, 3]."""
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)
