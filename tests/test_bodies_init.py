"""The body fit: exact pieces and derivatives, an exact band solve, recovery of known bodies, the stage's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.geometry.conventions import KEYPOINTS, SMPL_JOINTS
from distill.geometry.rotations import left_jacobian_inverse, matrix_from_rotvec, rotvec_from_matrix
from distill.geometry.transforms import make_transform
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from teacher.initialisers import bodies
from teacher.initialisers.bodies import BodiesConfig, FittedPerson, fit_person
from teacher.initialisers.body_fit import UNKNOWNS, BodyFit, FitConfig, Pose, _Normal, moved
from teacher.initialisers.body_points import KeypointPieces
from teacher.initialisers.body_prior import MEAN, prior_residuals, usual_pose
from teacher.initialisers.body_start import root_rotation
from teacher.stagefiles import BodyInit, CameraInit, Frames, People
from teacher.workspace import ClipFolder, StageRecord
from tests.conftest import TOLERANCES

EXACT = TOLERANCES[torch.float64]


def random_pose(frames: int, shape: int = 10) -> Pose:
    turn = matrix_from_rotvec(0.4 * torch.randn(frames, 23, 3).double())
    place = torch.randn(frames, 3).double() + torch.tensor([0.0, 0.0, 5.0])
    root = make_transform(matrix_from_rotvec(torch.randn(frames, 3).double()), place)
    return Pose(betas=torch.randn(shape).double(), body_rot=turn, cam_from_body=root)


def seen_people(
    clip: SyntheticClip, *, noise: float = 0.0, outliers: float = 0.0, landmarks: bool = True
) -> tuple[People, CameraInit]:
    """What a perfect (or noisy) detector would see of a synthetic clip. `noise` in heights of the person."""
    rng = np.random.default_rng(0)
    cameras = clip.truth.cameras
    cam = clip.keypoints_cam()
    pixels = cam @ cameras.K.T
    pixels = pixels[..., :2] / pixels[..., 2:]
    height = np.ptp(pixels[..., 1], axis=-1)[..., None, None]
    pixels = pixels + noise * height * rng.standard_normal(pixels.shape)
    wrong = rng.random(pixels.shape[:-1]) < outliers
    pixels = np.where(wrong[..., None], pixels + 60 * rng.standard_normal(pixels.shape), pixels)
    hip = cam - cam[..., 11:13, :].mean(-2, keepdims=True)
    hip = 1.1 * (hip + 3 * noise * rng.standard_normal(hip.shape)) if landmarks else np.zeros_like(hip)
    shape = pixels.shape[:2]
    people = People(
        visible=np.ones(shape, bool),
        box_xyxy=np.concatenate((pixels.min(-2), pixels.max(-2)), -1).astype(np.float32),
        score=np.ones(shape, np.float32),
        keypoints_px=pixels.astype(np.float32),
        keypoint_score=np.full((*shape, 23), 0.95, np.float32),
        keypoints_hip=hip.astype(np.float32),
    )
    return people, as_cameras(clip)


def as_cameras(clip: SyntheticClip) -> CameraInit:
    cameras, none = clip.truth.cameras, np.zeros(0)
    return CameraInit(
        kind="sfm", metric=True, focal_known=True, K=cameras.K.astype(np.float64),
        world_from_cam=cameras.world_from_cam.astype(np.float64), registered=np.ones(len(cameras.valid), bool),
        points=np.zeros((0, 3)), points_rgb=np.zeros((0, 3)), obs_frame=none, obs_point=none, obs_px=np.zeros((0, 2)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip(ClipSpec(seed=3, frames=30, fps=20.0))


def joint_error(body: BodyModel, fitted: FittedPerson, clip: SyntheticClip) -> np.ndarray:
    """[T] mean distance of joints from the truth after the pelvis is aligned, metres."""
    pose, truth = fitted.pose, clip.truth.motion.joints_cam[:, 0]
    shape = pose.betas.float().expand(len(pose.body_rot), -1)
    joints = body(shape, pose.body_rot.float(), pose.cam_from_body.float()).joints.numpy()
    relative = joints - joints[:, :1] - truth + truth[:, :1]
    return np.linalg.norm(relative, axis=-1).mean(-1)


def test_pieces_are_the_body_models_keypoints(body: BodyModel) -> None:
    pose = random_pose(5)
    expected = body.keypoints(pose.betas.float().expand(5, -1), pose.body_rot.float(), pose.cam_from_body.float())
    pieces = KeypointPieces(body).points(pose.betas, pose.body_rot, pose.cam_from_body)
    torch.testing.assert_close(pieces.float(), expected, **TOLERANCES[torch.float32])


def test_derivatives_of_points_are_those_of_small_steps(body: BodyModel) -> None:
    pieces, pose, small = KeypointPieces(body), random_pose(3), 1e-6
    at = pieces.linearise(pose.betas, pose.body_rot, pose.cam_from_body)
    step, shape_step = torch.randn(3, UNKNOWNS).double(), torch.randn(10).double()

    def points(amount: float) -> torch.Tensor:
        there = moved(pose, amount * step, amount * shape_step)
        return pieces.points(there.betas, there.body_rot, there.cam_from_body)

    numeric = (points(small) - points(-small)) / (2 * small)
    closed = torch.einsum("tkdu,tu->tkd", at.by_move, step) + at.by_shape @ shape_step
    torch.testing.assert_close(closed, numeric, rtol=1e-6, atol=1e-6)  # the numeric side is the coarser


def test_left_jacobian_inverse_is_the_derivative_of_the_logarithm() -> None:
    rotvec, direction, small = torch.randn(20, 3).double(), torch.randn(20, 3).double(), 1e-6

    def log(amount: float) -> torch.Tensor:
        return rotvec_from_matrix(matrix_from_rotvec(amount * direction) @ matrix_from_rotvec(rotvec))

    numeric = (log(small) - log(-small)) / (2 * small)
    closed = (left_jacobian_inverse(rotvec) @ direction[..., None])[..., 0]
    torch.testing.assert_close(closed, numeric, rtol=1e-6, atol=1e-7)


def test_prior_is_zero_at_the_usual_pose_and_mirrors() -> None:
    residuals, _ = prior_residuals(usual_pose(2))
    assert residuals.abs().max() < 1e-9
    left, right = SMPL_JOINTS.index("left_elbow") - 1, SMPL_JOINTS.index("right_elbow") - 1
    mirror = torch.tensor([1.0, -1.0, -1.0]).double()
    torch.testing.assert_close(MEAN[left], mirror * MEAN[right], **EXACT)


@pytest.mark.parametrize(("joint", "bent"), [("left_knee", (1.0, 0, 0)), ("right_elbow", (0, 1.0, 0))])
def test_hinges_bend_one_way(joint: str, bent: tuple[float, ...]) -> None:
    rotvec = torch.zeros(2, 23, 3).double()
    rotvec[0, SMPL_JOINTS.index(joint) - 1] = torch.tensor(bent).double()
    rotvec[1] = -rotvec[0]
    limits = prior_residuals(matrix_from_rotvec(rotvec))[0][:, -4:]
    assert limits[0].abs().max() == 0  # anatomical
    assert limits[1].min() == pytest.approx(-1.0 / 0.08)  # one radian the wrong way, in standard deviations


def test_derivatives_of_the_whole_cost(body: BodyModel, clip: SyntheticClip) -> None:
    """The gradient of the normal equations against differences of the cost, at a pose far from the optimum."""
    people, cameras = seen_people(clip, noise=0.02)
    score = torch.from_numpy(people.keypoint_score[:, 0]).double()
    pieces, present = KeypointPieces(body), torch.arange(30) % 5 != 0
    start, observed = bodies.prepare(
        pieces, 10, present, clip.truth.cameras.timestamps, people, 0, cameras, score
    )  # fmt: skip
    fit, frames, small = BodyFit(pieces, observed, FitConfig()), int(present.sum()), 1e-6
    pose = moved(start, 0.1 * torch.randn(frames, UNKNOWNS).double(), torch.randn(10).double())
    normal = _Normal(frames, 10)
    fit.cost(pose, normal)
    step, shape_step = torch.randn(frames, UNKNOWNS).double(), torch.randn(10).double()
    ahead, behind = (fit.cost(moved(pose, s * small * step, s * small * shape_step)) for s in (1, -1))
    closed = float((normal.gradient * step).sum() + normal.gradient_shape @ shape_step)
    assert closed == pytest.approx((ahead - behind) / (2 * small), rel=1e-4)


def test_band_solve_equals_dense_solve() -> None:
    frames, shape = 5, 3
    normal = _Normal(frames, shape)
    by_frame, by_shape = torch.randn(frames, 90, UNKNOWNS).double(), torch.randn(frames, 90, shape).double()
    residual = torch.randn(frames, 90).double()
    normal.add(residual, by_frame, by_shape)
    links, by_three = torch.randn(frames - 2, 25, 3).double(), torch.randn(frames - 2, 3, 25, 3, 3).double()
    normal.add_links(links, by_three)
    rows = [torch.cat((torch.block_diag(*by_frame), by_shape.flatten(0, 1)), 1)]
    for t in range(frames - 2):
        row = torch.zeros(75, frames * UNKNOWNS + shape).double()
        for k in range(3):
            row[:, (t + k) * UNKNOWNS : (t + k + 1) * UNKNOWNS] = torch.block_diag(*by_three[t, k])
        rows.append(row)
    dense = torch.cat(rows)
    right = torch.cat((residual.flatten(), links.flatten()))
    expected = -torch.linalg.lstsq(dense, right[:, None]).solution[:, 0]
    solved = normal.solve(damping=0.0)
    assert solved is not None
    got = torch.cat((solved[0].flatten(), solved[1]))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_root_rotation_of_known_people() -> None:
    """Facing the camera, and turned to show the left side."""
    rest = torch.zeros(23, 3).double()
    for side, sign in (("left", 1.0), ("right", -1.0)):
        rest[KEYPOINTS.index(f"{side}_shoulder")] = torch.tensor([0.2 * sign, 0.5, 0.0]).double()
        rest[KEYPOINTS.index(f"{side}_hip")] = torch.tensor([0.1 * sign, 0.0, 0.0]).double()
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0])).double()  # left at image right, up is -y, front to us
    side_on = facing @ matrix_from_rotvec(torch.tensor([0.0, 0.5 * np.pi, 0.0]).double())
    for rotation in (facing, side_on):
        torch.testing.assert_close(root_rotation((rest @ rotation.T)[None])[0], rotation, **EXACT)


def test_recovers_exact_keypoints(body: BodyModel, clip: SyntheticClip) -> None:
    people, cameras = seen_people(clip)
    fitted = fit_person(body, clip.truth.cameras.timestamps, people, 0, cameras, BodiesConfig())
    assert fitted.present.all()
    assert fitted.residual_px.median() < 0.5
    assert joint_error(body, fitted, clip).mean() < 0.02
    depth = fitted.pose.cam_from_body[:, 2, 3].numpy() / clip.truth.motion.cam_from_body[:, 0, 2, 3]
    assert abs(np.median(depth) - 1) < 0.04  # size is the shape prior's: one standard deviation is 5 %


@pytest.mark.parametrize("motion", ["walk", "stand"])
def test_recovers_from_noise_and_outliers(body: BodyModel, motion: str) -> None:
    clip = make_clip(ClipSpec(seed=8, frames=30, fps=20.0, motion=motion, camera="shake"))
    people, cameras = seen_people(clip, noise=0.01, outliers=0.05)
    fitted = fit_person(body, clip.truth.cameras.timestamps, people, 0, cameras, BodiesConfig())
    assert joint_error(body, fitted, clip).mean() < 0.045
    assert fitted.confidence.mean() > 0.8


def test_works_without_3d_landmarks(body: BodyModel, clip: SyntheticClip) -> None:
    people, cameras = seen_people(clip, landmarks=False)
    fitted = fit_person(body, clip.truth.cameras.timestamps, people, 0, cameras, BodiesConfig())
    assert fitted.residual_px.median() < 1.0


def test_gaps_are_filled_and_marked(body: BodyModel, clip: SyntheticClip) -> None:
    people, cameras = seen_people(clip, noise=0.01)
    people.visible[10:14] = False
    people.keypoints_px[10:14] = 0
    people.keypoint_score[10:14] = 0
    fitted = fit_person(body, clip.truth.cameras.timestamps, people, 0, cameras, BodiesConfig())
    assert (~fitted.present).nonzero().flatten().tolist() == [10, 11, 12, 13]
    assert fitted.confidence[10:14].max() == 0
    depth = fitted.pose.cam_from_body[9:15, 2, 3].numpy()
    np.testing.assert_allclose(depth, np.linspace(depth[0], depth[-1], 6), rtol=1e-9)  # straight between neighbours
    error = joint_error(body, fitted, clip)
    assert error[10:14].max() < 0.15


def test_confidence_falls_when_keypoints_disagree(body: BodyModel, clip: SyntheticClip) -> None:
    people, cameras = seen_people(clip)
    rng = np.random.default_rng(0)
    people.keypoints_px[20] += 15 * rng.standard_normal((1, 23, 2)).astype(np.float32)
    fitted = fit_person(body, clip.truth.cameras.timestamps, people, 0, cameras, BodiesConfig())
    assert fitted.confidence[20] < 0.7 * fitted.confidence[:18].min()


def clip_folder(root: Path, clip: SyntheticClip, people: People, cameras: CameraInit) -> ClipFolder:
    folder = ClipFolder(root / "clip")
    frames = Frames(timestamps=clip.truth.cameras.timestamps, size=[480, 270], source_size=[480, 270], unreadable=0)
    for stage, value in (("frames", frames), ("people", people), ("cameras", cameras)):
        folder.begin(stage)
        value.save(folder.stage_dir(stage))
        folder.finish(StageRecord(stage=stage, status="done", implementation="test", config_hash="", inputs={}))
    return folder


def test_stage_writes_a_complete_file(body: BodyModel, clip: SyntheticClip, tmp_path: Path) -> None:
    people, cameras = seen_people(clip, noise=0.01)
    folder = clip_folder(tmp_path, clip, people, cameras)
    outcome = bodies.run(folder, BodiesConfig(), lambda fraction, text: None)
    written = BodyInit.load(folder.stage_dir("bodies"))
    assert written.body_rot.shape == (30, 1, 23, 3, 3)
    assert written.cam_from_body.dtype == np.float32
    assert written.focal_px == pytest.approx(clip.truth.cameras.K[0, 0])
    assert all(np.isfinite(v).all() for v in vars(written).values() if isinstance(v, np.ndarray))
    assert outcome.summary["residual_px_median"] < 3
    assert 1.4 < outcome.summary["stature_m"][0] < 2.1


def test_stage_refuses_a_clip_of_hidden_people(clip: SyntheticClip, tmp_path: Path) -> None:
    people, cameras = seen_people(clip)
    people.keypoint_score[:] = 0.1
    folder = clip_folder(tmp_path, clip, people, cameras)
    with pytest.raises(FootfallError, match="visible keypoints"):
        bodies.run(folder, BodiesConfig(), lambda fraction, text: None)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="keypoint_sd"):
        FitConfig(keypoint_sd=0)
    with pytest.raises(ValueError, match="min_keypoint_score"):
        BodiesConfig(min_keypoint_score=1.0)


def test_single_frame_person(body: BodyModel, clip: SyntheticClip) -> None:
    people, cameras = seen_people(clip)
    people.visible[:] = False
    people.visible[7] = True
    fitted = fit_person(body, clip.truth.cameras.timestamps, people, 0, cameras, BodiesConfig())
    assert fitted.present.sum() == 1
    assert torch.isfinite(fitted.pose.cam_from_body).all()
    assert isinstance(fitted.pose, Pose) and fitted.residual_px[7] < 1.5
