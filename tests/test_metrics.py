"""Metrics by hand: small motions whose errors are known, invariances, and input that has no answer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from distill import metrics as m
from distill.body import BodyModel
from distill.metrics import DegenerateError
from distill.metrics.matching import match_frames

Array = NDArray[np.float64]
RNG = np.random.default_rng(5)


def walk(frames: int = 120, joints: int = 24) -> Array:
    """Joints [T, J, 3] of a body that walks along x."""
    shape = RNG.normal(0, 0.3, (joints, 3))
    path = np.stack((0.05 * np.arange(frames), 0.2 * np.sin(np.arange(frames) / 10), np.zeros(frames)), -1)
    return shape + path[:, None] + 0.01 * np.sin(np.arange(frames) / 3)[:, None, None]


def vector(x: float = 0, y: float = 0, z: float = 0) -> Array:
    return np.array([x, y, z])


def similarity(scale: float = 1.0) -> tuple[float, Array, Array]:
    q, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    return scale, q * np.sign(np.linalg.det(q)), RNG.normal(size=3)


def move(points: Array, by: tuple[float, Array, Array]) -> Array:
    scale, rotation, translation = by
    return scale * points @ rotation.T + translation


def poses(centres: Array) -> Array:
    out = np.tile(np.eye(4), (len(centres), 1, 1))
    out[:, :3, 3] = centres
    return out


def test_a_shifted_joint_by_hand() -> None:
    true = np.zeros((2, 4, 3))
    true[:, 1, 0], true[:, 2, 0], true[:, 3, 1] = 0.1, -0.1, 1.0
    wrong = true.copy()
    wrong[1, 3] += (0, 0, 0.04)  # one of four joints by 40 mm: 10 mm in the mean
    np.testing.assert_allclose(m.mpjpe(true, wrong), [0, 10])
    np.testing.assert_allclose(m.mpjpe(true, wrong + 5), [0, 10], atol=1e-9)  # the pelvis is taken out
    np.testing.assert_allclose(m.mpjpe(true, wrong + vector(z=0.1), align_to="none"), [100, 110])
    np.testing.assert_allclose(m.mpjpe(true, wrong, mask=[False, True]), [10])
    np.testing.assert_allclose(m.root_error(true, wrong + vector(z=0.1)), [100, 100])
    np.testing.assert_allclose(m.pve(true, wrong, true, true), [0, 10])


def test_what_alignments_take_out() -> None:
    true = walk()
    moved = move(true, similarity(1.7))
    for metric in (m.pa_mpjpe, m.w_mpjpe, m.wa_mpjpe):
        np.testing.assert_allclose(metric(true, moved), np.zeros(len(true)), atol=1e-8)
    rigid = move(true, similarity())
    np.testing.assert_allclose(m.rte(true[:, 0], rigid[:, 0]), np.zeros(len(true)), atol=1e-9)
    assert m.rte(true[:, 0], moved[:, 0]).mean() > 1  # the scale is part of the error
    np.testing.assert_allclose(m.rte(true[:, 0], moved[:, 0], with_scale=True), np.zeros(len(true)), atol=1e-9)


def test_w_is_aligned_at_its_beginning_and_wa_in_the_middle() -> None:
    true = walk(100)
    drift = true + np.linspace(0, 1, 100)[:, None, None] * (0, 0, 1.0)  # a metre of drift over the segment
    w, wa = m.w_mpjpe(true, drift), m.wa_mpjpe(true, drift)
    assert w[0] < 20 and 900 < w[-1] < 1100
    assert wa.mean() < w.mean() and wa[50] < wa[0]


@pytest.mark.parametrize(
    ("count", "standard", "tram"),
    [
        (60, [(0, 60)], None),
        (101, [(0, 100), (100, 101)], [(0, 100)]),
        (137, [(0, 100), (100, 137)], [(0, 136)]),
        (200, [(0, 100), (100, 200)], [(0, 100)]),
        (250, [(0, 100), (100, 200), (200, 250)], [(0, 100), (100, 249)]),
    ],
)
def test_segments(count: int, standard: list[tuple[int, int]], tram: list[tuple[int, int]] | None) -> None:
    assert m.segments(count) == m.segments(count, "wham") == standard
    if tram is None:
        with pytest.raises(DegenerateError):
            m.segments(count, "tram")
    else:
        assert m.segments(count, "tram") == tram


def test_accelerations_by_hand() -> None:
    time = np.arange(7)[:, None, None]
    still, falling = np.zeros((7, 3, 3)), 0.5 * 9.81 * (time / 30.0) ** 2 * np.array([0.0, 0.0, 1.0])
    falling = np.broadcast_to(falling, still.shape)
    np.testing.assert_allclose(m.accel_error(still, falling, align_to="none"), np.full(5, 9.81))
    assert len(m.accel_error(still, falling, align_to="none", protocol="wham")) == 3
    np.testing.assert_allclose(m.accel_error(still, falling), np.zeros(5), atol=1e-9)  # the pelvis falls as well


def test_ours_does_not_see_a_jump_across_masked_frames() -> None:
    true = walk(40)
    mask = np.ones(40, bool)
    mask[15:25] = False
    for metric in (m.accel_error, lambda t, p, **k: m.jitter(p, **k)):
        ours = metric(true, true, mask=mask)
        assert ours.max() < 30
    bridged = m.jitter(true, mask=mask, protocol="wham")
    assert bridged.max() > 5 * m.jitter(true, mask=mask).max()
    assert len(bridged) > len(m.jitter(true, mask=mask))


def test_jitter_by_hand() -> None:
    time = np.arange(8)[:, None, None] / 30.0
    cubic = np.broadcast_to(time**3, (8, 2, 3))
    # The third derivative of t^3 is 6, along three axes, in units of 10 m/s^3.
    np.testing.assert_allclose(m.jitter(cubic), np.full(5, 6 * np.sqrt(3) / 10))


def test_rte_by_hand() -> None:
    path = np.stack((np.linspace(0, 10, 11), np.zeros(11), np.zeros(11)), -1)
    longer = path * (1.1, 1, 1)  # centred alignment: half a metre of error at each end, of ten metres
    error = m.rte(path, longer)
    np.testing.assert_allclose(error[[0, 5, 10]], [5, 0, 5], atol=1e-9)


def test_feet_by_hand() -> None:
    true = np.zeros((4, 2, 3))
    true[:, 1, 0] = 0.05 * np.arange(4)  # the second foot swings
    predicted = true.copy()
    predicted[:, 0, 1] = 0.002 * np.arange(4)  # the standing one slides 2 mm a frame
    np.testing.assert_allclose(m.foot_sliding(true, predicted), [2, 2, 2])
    np.testing.assert_array_equal(m.contacts_from_motion(true), [[True, False]] * 3)
    contact = [[True, False], [True, False], [False, False], [True, True]]
    np.testing.assert_allclose(m.slip(predicted, contact, fps=30), [6.0])  # only frames 0 and 1 count
    assert m.contact_f1([1, 1, 0, 0], [1, 0, 1, 0]) == 0.5


def test_floating_and_ground() -> None:
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41)), -1).reshape(-1, 2)
    ground = np.column_stack((grid, np.full(len(grid), 0.3)))  # a floor 0.3 m above zero
    feet = np.zeros((3, 2, 3))
    feet[:, :, 2] = [[0.33, 0.9], [0.55, 0.9], [0.27, 0.31]]
    np.testing.assert_array_equal(m.foot_floating_rate(feet, ground), [0, 1, 0])
    height = m.height_over_scene(feet, ground)
    np.testing.assert_allclose(height[0, 0], 0.03)
    assert np.isnan(height[0, 1])  # more than reach_m above: nothing is known to be below
    np.testing.assert_allclose(m.foot_gap(height, np.array([[1, 1], [0, 0], [1, 0]])), [3, 0])
    np.testing.assert_allclose(m.penetration(height).max(), 3)


def test_josh_counts_floating_by_chunk() -> None:
    feet = np.zeros((250, 1, 3))
    points = np.array([[0.0, 0, 0], [0, 0, 5], [0, 0, 0]])  # in the second hundred frames the floor is far away
    flags = m.foot_floating_rate(feet, points, feet_frames=np.arange(250), scene_frames=[10, 110, 210], protocol="josh")
    assert len(flags) == 249 and flags.sum() == 100 and flags[100:200].all()
    assert m.foot_floating_rate(feet, points).sum() == 0


def test_cameras_by_hand() -> None:
    centres = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]])
    scaled = poses(2 * centres)
    np.testing.assert_allclose(m.ate(poses(centres), scaled, align_to="sim3"), np.zeros(4), atol=1e-9)
    assert m.ate(poses(centres), scaled).mean() > 0.3  # metric: the scale counts
    turned = poses(centres)
    turned[:, :3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(m.ate_rotation(poses(centres), turned, align_to="none"), np.full(4, 90.0))
    late = poses(centres + vector(x=0.1))
    metres, degrees = m.rpe(poses(centres), late)
    np.testing.assert_allclose(metres, np.zeros(3), atol=1e-12)  # a constant offset is no relative error
    np.testing.assert_allclose(degrees, np.zeros(3), atol=1e-9)
    assert len(m.rpe(poses(centres), late, delta=2, all_pairs=False)[0]) == 1
    assert m.rmse([3, 4]) == pytest.approx(np.sqrt(12.5))


def test_a_camera_on_a_tripod() -> None:
    still, shaken = poses(np.zeros((50, 3))), poses(RNG.normal(0, 0.01, (50, 3)))
    with pytest.raises(DegenerateError):
        m.ate(still, shaken)
    np.testing.assert_allclose(
        m.ate(still, shaken, allow_degenerate=True).mean(), np.linalg.norm(shaken[:, :3, 3], axis=-1).mean(), rtol=0.05
    )
    with pytest.raises(DegenerateError):
        m.ate(still, shaken, align_to="sim3", allow_degenerate=True)  # a scale of nothing is no number


def test_clouds_by_hand() -> None:
    true, predicted = np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 0.1], [1, 0, 0], [1, 0, 3]])
    error = m.chamfer(true, predicted)
    np.testing.assert_allclose(error.accuracy, [0.1, 0, 3])
    np.testing.assert_allclose(error.completeness, [0.1, 0])
    assert error.chamfer == pytest.approx((3.1 / 3 + 0.05) / 2)
    assert m.chamfer(true, predicted, max_distance=1).chamfer == pytest.approx(0.05)
    assert sorted(m.voxel_mean([[0.0, 0, 0], [0.02, 0, 0], [1, 0, 0]], 0.1)[:, 0]) == pytest.approx([0.01, 1])


def test_depth_by_hand() -> None:
    true = np.array([[[2.0, 4.0], [0.0, 10.0]]])  # a hole
    predicted = np.array([[[2.2, 4.0], [7.0, 5.0]]])
    error = m.depth_errors(true, predicted)[0]
    assert error.pixels == 3
    assert error.abs_rel == pytest.approx((0.1 + 0 + 0.5) / 3)
    assert error.rmse == pytest.approx(np.sqrt((0.04 + 0 + 25) / 3))
    assert error.delta == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    for how in ("median", "scale", "lstsq", "lad"):
        assert m.abs_rel(true, 3 * true + 1e-9, align_to=how)[0] < 1e-6, how


def test_images() -> None:
    image = RNG.random((2, 20, 24, 3))
    noisy = np.clip(image + RNG.normal(0, 0.1, image.shape), 0, 1)
    np.testing.assert_allclose(m.psnr(image, image + 0.1), [20, 20])
    assert np.isinf(m.psnr(image, image)).all()
    for border in ("crop", "reflect", "zero"):
        np.testing.assert_allclose(m.ssim(image, image, border=border), [1, 1])
        assert (m.ssim(image, noisy, border=border) < 0.99).all()
    features = [RNG.random((2, 8, 3, 3))]
    np.testing.assert_allclose(m.lpips_from_features(features, [7 * features[0]], [np.ones(8)]), [0, 0], atol=1e-8)
    opposite = [np.concatenate((features[0][:, :4], 0 * features[0][:, :4]), 1)]
    other = [np.concatenate((0 * features[0][:, :4], features[0][:, :4]), 1)]
    np.testing.assert_allclose(m.lpips_from_features(opposite, other, [np.ones(8)]), [2, 2], rtol=1e-6)


def test_people_in_each_other(body: BodyModel) -> None:
    mesh = body.v_template.double().numpy()[None]
    apart, inside = mesh + vector(x=2.0), mesh + vector(z=0.05)
    assert m.person_penetration(mesh, apart, body.faces.numpy())[0] == 0
    depth = m.person_penetration(inside, mesh, body.faces.numpy())[0]
    assert 2 < depth <= 5.5  # moved by 5 cm: no vertex is deeper


def test_sizes_and_statures() -> None:
    cloud = RNG.normal(size=(50, 3))
    assert m.world_size_error(cloud, move(cloud, similarity(1.25))) == pytest.approx(25)
    np.testing.assert_allclose(m.stature_error([1.7, 1.8], [1.72, 1.75]), [2, -5])


def test_frames_are_matched_by_time() -> None:
    true = np.arange(6) / 30
    assert match_frames(true, true + 0.002).tolist() == [0, 1, 2, 3, 4, 5]
    assert match_frames(true, true[::2]).tolist() == [0, -1, 1, -1, 2, -1]  # half as many frames
    assert match_frames(true, true[3:] + 10).tolist() == [-1] * 6
    assert match_frames(true, np.zeros(0)).tolist() == [-1] * 6


NAN = walk(10)
NAN[3, 2] = np.nan


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: m.mpjpe(walk(10), NAN), DegenerateError),
        (lambda: m.w_mpjpe(NAN, walk(10)), DegenerateError),
        (lambda: m.mpjpe(walk(10), walk(11)), ValueError),
        (lambda: m.mpjpe(walk(10)[..., :2], walk(10)[..., :2]), ValueError),
        (lambda: m.mpjpe(walk(10), walk(10), mask=np.ones(9)), ValueError),
        (lambda: m.mpjpe(walk(10), walk(10), mask=np.zeros(10)), DegenerateError),
        (lambda: m.pa_mpjpe(walk(3), np.zeros((3, 24, 3))), DegenerateError),
        (lambda: m.accel_error(walk(2), walk(2)), DegenerateError),
        (lambda: m.jitter(walk(3)), DegenerateError),
        (lambda: m.rte(np.zeros((9, 3)), walk(9)[:, 0]), DegenerateError),
        (lambda: m.foot_sliding(*([np.arange(9.0)[:, None, None] * np.ones((9, 4, 3))] * 2)), DegenerateError),
        (lambda: m.foot_floating_rate(walk(5), np.zeros((0, 3))), DegenerateError),
        (lambda: m.foot_floating_rate(walk(5), walk(5)[0], protocol="josh"), ValueError),
        (lambda: m.slip(walk(5), np.zeros((5, 24)), fps=30), DegenerateError),
        (lambda: m.contact_f1([0, 0], [0, 0]), DegenerateError),
        (lambda: m.contact_f1([0, 1], [0, 0, 1]), ValueError),
        (lambda: m.foot_gap(np.full((2, 2), np.nan), np.ones((2, 2))), DegenerateError),
        (lambda: m.rpe(poses(np.zeros((1, 3))), poses(np.zeros((1, 3)))), DegenerateError),
        (lambda: m.chamfer(np.zeros((0, 3)), np.zeros((1, 3))), DegenerateError),
        (lambda: m.chamfer(np.zeros((1, 3)), np.ones((1, 3)), max_distance=0.1), DegenerateError),
        (lambda: m.abs_rel(np.zeros((1, 2, 2)), np.ones((1, 2, 2))), DegenerateError),
        (lambda: m.abs_rel(np.ones((1, 2, 2)), np.ones((1, 2, 3))), ValueError),
        (lambda: m.ssim(np.ones((8, 8, 3)), np.ones((8, 8, 3))), ValueError),
        (lambda: m.psnr(np.ones((8, 8)), np.ones((8, 8))), ValueError),
        (lambda: m.lpips_from_features([], [], []), ValueError),
        (lambda: m.world_size_error(np.zeros((4, 3)), np.ones((4, 3))), DegenerateError),
    ],
)
def test_what_has_no_answer_raises(call: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call()  # type: ignore[operator]
