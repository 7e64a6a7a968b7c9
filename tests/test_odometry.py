"""Camera motion from corners: known motions before a textured wall, people who walk through, nothing to hold on to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from distill.odometry import CornerOdometry, Measured, OdometryConfig, solve_pose

cv2 = pytest.importorskip("cv2")

WIDTH, HEIGHT, FOCAL, WALL = 320, 180, 260.0, 5.0
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


def texture() -> np.ndarray:
    """[400, 700, 3] uint8: spots on the wall z = 5 m, 100 pixels to the metre, its middle straight ahead."""
    noise = np.random.default_rng(0).integers(0, 255, (100, 175)).astype(np.uint8)
    return np.repeat(cv2.resize(noise, (700, 400), interpolation=cv2.INTER_CUBIC)[..., None], 3, -1)


def view(key_from_cam: np.ndarray) -> np.ndarray:
    """What a camera sees of the wall: a homography."""
    cam_from_key = np.linalg.inv(key_from_cam)
    metres_from_texture = np.array([[0.01, 0, -3.495], [0, 0.01, -1.995], [0, 0, 1]])  # integer pixel centres
    plane = np.column_stack(
        (cam_from_key[:3, 0], cam_from_key[:3, 1], cam_from_key[:3, :3] @ [0, 0, WALL] + cam_from_key[:3, 3])
    )
    to_integer = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    return cv2.warpPerspective(texture(), to_integer @ K @ plane @ metres_from_texture, (WIDTH, HEIGHT))


def wall_points(factor: float = 1.0) -> np.ndarray:
    """[45, 80, 3] a coarse pointmap of the first view; only its depth is read."""
    points = np.zeros((45, 80, 3), np.float32)
    points[..., 2] = WALL * factor
    return points


def path(frame: int) -> np.ndarray:
    """key_from_cam of a walking, turning camera."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.radians([0.3, 0.5, 0.2]) * frame).as_matrix()
    pose[:3, 3] = np.array([0.02, 0.005, 0.03]) * frame
    return pose


def follow(odometry: CornerOdometry, frames: int, points: np.ndarray) -> list[Measured]:
    """One keyframe, then `frames` more; the last frame's measurements."""
    odometry.step(view(path(0)))
    odometry.add_keyframe(points, np.ones(points.shape[:2], bool))
    measured: list[Measured] = []
    for frame in range(1, frames + 1):
        measured = odometry.step(view(path(frame)))
    return measured


def test_known_motion_is_recovered_with_honest_doubt() -> None:
    (found,) = follow(CornerOdometry(K), 8, wall_points())
    truth = path(8)
    turn = Rotation.from_matrix(found.key_from_now[:3, :3].T @ truth[:3, :3]).magnitude()
    shift = np.linalg.norm(found.key_from_now[:3, 3] - truth[:3, 3])
    assert found.gap == 8 and found.inliers > 50
    assert np.degrees(turn) < 0.15 and shift < 0.02
    assert turn < 3 * np.exp(0.5 * found.log_var[0]) and shift < 3 * np.exp(0.5 * found.log_var[1])


def test_the_scale_is_the_pointmaps() -> None:
    (found,) = follow(CornerOdometry(K), 8, wall_points(1.5))
    np.testing.assert_allclose(found.key_from_now[:3, 3], 1.5 * path(8)[:3, 3], atol=0.03)


def test_depths_that_are_wrong_corner_by_corner_cost_little() -> None:
    """Parallax tells the pose; a quarter of each depth, wrong at random, must not bend it."""
    rng = np.random.default_rng(3)
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_rotvec([0.02, -0.05, 0.01]).as_matrix()
    truth[:3, 3] = [0.5, 0.05, -0.3]
    points = np.column_stack((rng.uniform(-3, 3, 150), rng.uniform(-1.5, 1.5, 150), rng.uniform(4, 12, 150)))
    seen = points @ truth[:3, :3].T + truth[:3, 3]
    pixels = (seen / seen[:, 2:]) @ K.T
    pixels = pixels[:, :2] + 0.1 * rng.standard_normal((150, 2))
    pixels[:15] += rng.uniform(-40, 40, (15, 2))  # a tenth tracked wrongly
    wrong = points * np.exp(0.25 * rng.standard_normal(150))[:, None]
    solved = solve_pose(wrong, pixels, K, np.eye(4), depth_sigma=0.25, outlier_px=1.0)
    assert solved is not None and 100 < solved.inliers < 145
    turn = Rotation.from_matrix(solved.now_from_key[:3, :3] @ truth[:3, :3].T).magnitude()
    direction = solved.now_from_key[:3, 3] / np.linalg.norm(solved.now_from_key[:3, 3])
    off = np.degrees(np.arccos(direction @ truth[:3, 3] / np.linalg.norm(truth[:3, 3])))
    assert np.degrees(turn) < 0.4 and off < 2.0  # twice its own deviation
    assert np.linalg.norm(solved.now_from_key[:3, 3]) == pytest.approx(np.linalg.norm(truth[:3, 3]), rel=0.1)
    believed = solve_pose(wrong, pixels, K, np.eye(4), depth_sigma=1e-4, outlier_px=1.0)
    assert believed is not None
    assert Rotation.from_matrix(believed.now_from_key[:3, :3] @ truth[:3, :3].T).magnitude() > 2 * turn


def test_corners_on_somebody_who_walks_are_outliers() -> None:
    odometry = CornerOdometry(K)
    patch = np.random.default_rng(1).integers(0, 255, (40, 30, 3)).astype(np.uint8)
    patch = cv2.GaussianBlur(patch, (0, 0), 1.0)

    def with_walker(frame: int) -> np.ndarray:
        image = view(path(frame)).copy()
        image[70:110, 60 + 4 * frame : 90 + 4 * frame] = patch
        return image

    odometry.step(with_walker(0))
    odometry.add_keyframe(wall_points(), np.ones((45, 80), bool))
    for frame in range(1, 9):
        measured = odometry.step(with_walker(frame))
    turn = Rotation.from_matrix(measured[0].key_from_now[:3, :3].T @ path(8)[:3, :3]).magnitude()
    assert np.degrees(turn) < 0.2


def test_without_corners_nothing_is_said() -> None:
    odometry = CornerOdometry(K)
    blank = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    assert odometry.step(blank) == [] and odometry.wants_keyframe
    odometry.add_keyframe(wall_points(), np.ones((45, 80), bool))
    assert odometry.step(blank) == []
    odometry = CornerOdometry(K)
    odometry.step(view(path(0)))
    odometry.add_keyframe(wall_points(), np.ones((45, 80), bool))
    assert odometry.step(blank) == [] and odometry.wants_keyframe  # all corners were lost
    odometry.add_keyframe(wall_points(), np.zeros((45, 80), bool))  # nothing usable
    assert odometry.step(blank) == []


def test_keyframes_take_turns() -> None:
    odometry = CornerOdometry(K, OdometryConfig(keyframe_every=3, keyframes=2))
    gaps = []
    for frame in range(9):
        gaps.append([measured.gap for measured in odometry.step(view(path(frame)))])
        if odometry.wants_keyframe:
            odometry.add_keyframe(wall_points(), np.ones((45, 80), bool))
    assert gaps == [[], [1], [2], [3], [4, 1], [5, 2], [6, 3], [4, 1], [5, 2]]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="odometry"):
        OdometryConfig(keyframe_every=0)
