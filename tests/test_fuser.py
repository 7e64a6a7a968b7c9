"""The fuser: exact where nothing is wrong, honest where noise is known, bounded, and unmoved by what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.errors import FootfallError
from distill.files import write_json
from distill.fuser import (
    FrameObservation,
    FusedFrame,
    Fuser,
    FuserConfig,
    Motions,
    UncertaintyScales,
    cam_from_body,
    read_scales,
)
from distill.fuser.baselines import average_gaps, chain_predictions
from distill.fuser.calibration import error_series, fit_scales, long_run_factor, shared_factor, variance_ratio
from distill.fuser.record import load_observations, save_observations
from distill.fuser.scale import in_one_scale
from distill.fuser.simulate import NoiseConfig, feet_of, simulate
from distill.fuser.so3 import Array, inverse, log, turn
from distill.metrics import ate, w_mpjpe
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from distill.synthetic.world import free_body
from tests.fuser_support import FPS, GAPS, exact, in_front, motions_of, smooth_path

HONEST = UncertaintyScales()
LOOSE = FuserConfig(camera_accel=50, camera_turn_accel=200, body_accel=50, body_turn_accel=200)
"""The prior of constant velocity is out of the way."""


def run(fuser: Fuser, observations: list[FrameObservation]) -> tuple[list[FusedFrame], list[FusedFrame]]:
    causal, settled = [], []
    for observation in observations:
        causal.append(fuser.step(observation))
        settled += fuser.settled()
    return causal, settled + fuser.finish()


def cameras_of(frames: list[FusedFrame]) -> Array:
    return np.stack([frame.world_from_cam for frame in frames])


@pytest.fixture(scope="module")
def walk() -> SyntheticClip:
    return make_clip(ClipSpec(seed=11, frames=100, fps=30.0, camera="walk"))


def test_exact_motions_give_the_exact_world() -> None:
    cameras = smooth_path(30)
    bodies = {4: in_front(cameras), 9: in_front(cameras, 8)}
    observations = exact(cameras, bodies, p9=range(6, 22))
    causal, settled = run(Fuser(LOOSE, camera="moving", scales=HONEST), observations)
    for frames in (causal, settled):
        assert [frame.index for frame in frames] == list(range(30))
        np.testing.assert_allclose(cameras_of(frames), cameras, atol=2e-3)
        for person, path in bodies.items():
            seen = [k for k, frame in enumerate(frames) if person in frame.people]
            assert seen == list(range(30) if person == 4 else range(6, 22))
            found = np.stack([frames[k].people[person].world_from_body for k in seen])
            np.testing.assert_allclose(found, path[seen], atol=3e-3)


def test_a_short_window_loses_nothing_that_a_long_one_knows() -> None:
    """With Gaussian noise the marginalised window ends where the whole does, up to linearisation."""
    cameras = smooth_path(34, 2)
    rng = np.random.default_rng(3)
    observations = [
        FrameObservation(timestamp=k / FPS, camera=motions_of(cameras, k, (0.002, 0.005), rng)) for k in range(34)
    ]
    ends = []
    for lag in (10, 33):
        config = FuserConfig(lag=lag, student_dof=1e6, iterations=3)
        ends.append(run(Fuser(config, camera="moving", scales=HONEST), observations)[0][-1])
    np.testing.assert_allclose(ends[0].world_from_cam, ends[1].world_from_cam, atol=5e-4)
    np.testing.assert_allclose(ends[0].covariance, ends[1].covariance, rtol=0.02, atol=1e-7)


def test_covariance_is_that_of_the_errors() -> None:
    """Twenty-four worlds with independent Gaussian noise of the claimed size: e^T C^-1 e is 6 on average."""
    rng, lengths = np.random.default_rng(4), []
    config = FuserConfig(lag=10, student_dof=1e6, camera_accel=50, camera_turn_accel=200)
    for seed in range(24):
        cameras = smooth_path(26, seed)
        fuser = Fuser(config, camera="moving", scales=HONEST)
        for k in range(26):
            last = fuser.step(FrameObservation(timestamp=k / FPS, camera=motions_of(cameras, k, (0.004, 0.01), rng)))
        wrong = inverse(last.world_from_cam) @ cameras[-1]
        error = np.concatenate((log(wrong[:3, :3]), wrong[:3, 3]))
        covariance = last.covariance.copy()
        lengths.append(error @ np.linalg.solve(covariance, error))
    assert 4.5 < np.mean(lengths) < 7.8  # 24 draws of chi-square with 6 degrees: 6 +- 0.7


def test_true_metres_come_from_standing_feet(walk: SyntheticClip) -> None:
    """A network whose metres are 15 % too many: its world shrinks to the size at which feet stand still."""
    none = NoiseConfig(
        gaps=dict.fromkeys(GAPS, (0.001, 0.002, 0.002, 0.002)), root=(0.01, 0.001, 0.002), foot_m=0.003,
        scale_sigma=0.0, scale_drift=0.0, outliers=0.0, contact_flips=0.0, lost=0.0, dishonest=1.0,
    )  # fmt: skip
    observations = simulate(walk.truth, free_body(), 0, none)
    for frame in observations:
        frame.camera.past_from_now[:, :3, 3] *= 1.15
        for person in frame.people.values():
            person.cam_from_body[:3, 3] *= 1.15
            person.motions.past_from_now[:, :3, 3] *= 1.15
    config = FuserConfig(foot_sigma_m=0.005)
    _, settled = run(Fuser(config, camera="moving", scales=HONEST), observations)
    assert settled[-1].log_scale == pytest.approx(np.log(1.15), abs=0.03)
    # Each step of the camera is given in the scale known by then; a path is measured in one scale, as it is written.
    scales, cameras = np.array([frame.log_scale for frame in settled]), cameras_of(settled)
    roots = np.stack([cam_from_body(frame, 0)[:3, 3] for frame in settled])
    path, roots = in_one_scale(cameras, roots, scales, np.full(len(scales), scales[-1]))
    found = turn(path[:, :3, :3], roots) + path[:, :3, 3]
    true = np.linalg.norm(walk.truth.world_from_body[-1, 0, :3, 3] - walk.truth.world_from_body[40, 0, :3, 3])
    assert np.linalg.norm(found[-1] - found[40]) == pytest.approx(true, rel=0.03)


def test_a_wild_motion_moves_the_path_little() -> None:
    cameras = smooth_path(30)
    observations = exact(cameras, {})
    observations[20].camera.past_from_now[0, :3, 3] += [2.0, 0, 0]
    causal, _ = run(Fuser(LOOSE, camera="moving", scales=HONEST), observations)
    assert np.linalg.norm(cameras_of(causal)[:, :3, 3] - cameras[:, :3, 3], axis=1).max() < 0.02


def test_lost_frames_and_missing_predictions_are_bridged() -> None:
    cameras = smooth_path(40)
    body = in_front(cameras)
    observations = exact(cameras, {1: body})
    for k in (12, 13, 14):  # nothing is known of these frames
        observations[k] = FrameObservation(timestamp=k / FPS)
    observations[20].camera.past_from_now[:] = np.nan
    observations[21].people[1].cam_from_body[:] = np.inf
    observations[22].people[1].motions = Motions()
    causal, settled = run(Fuser(LOOSE, camera="moving", scales=HONEST), observations)
    assert 1 not in causal[21].people
    assert 1 not in causal[13].people
    for frames in (causal[15:], settled[:12], settled[15:]):
        kept = [frame.index for frame in frames]
        np.testing.assert_allclose(cameras_of(frames), cameras[kept], atol=0.03)
    assert causal[14].covariance[3:, 3:].trace() > 3 * causal[11].covariance[3:, 3:].trace()
    assert all(np.isfinite(frame.covariance).all() for frame in causal + settled)


def test_frames_may_be_dropped_unevenly() -> None:
    """Velocities are per second: a path sampled at uneven times is still followed."""
    cameras = smooth_path(80)
    kept = [k for k in range(80) if k % 7 not in (2, 3)]
    path = cameras[kept]
    observations = [FrameObservation(timestamp=kept[k] / FPS, camera=motions_of(path, k)) for k in range(len(kept))]
    causal, _ = run(Fuser(camera="moving", scales=HONEST), observations)
    np.testing.assert_allclose(cameras_of(causal), path, atol=0.02)


def test_memory_is_bounded_while_people_come_and_go() -> None:
    config = FuserConfig(lag=10)
    fuser = Fuser(config, camera="moving", scales=HONEST)
    cameras = smooth_path(40)
    body = in_front(cameras)
    plain = exact(cameras, {0: body})
    sizes = []
    for k in range(160):
        frame = plain[20 + k % 5]
        person = replace(frame.people[0], contact_prob=np.full(6, 0.9 * (k % 9 > 3)))
        fuser.step(FrameObservation(timestamp=k / FPS, camera=frame.camera, people={k // 6: person}))
        sizes.append(fuser.window.states.size)
        assert len(fuser.settled()) == (k >= 10)
    assert max(sizes) <= 11 * 14 + 3 * 4 * 6
    assert len(fuser._times) == 10
    assert len(fuser._stances) <= 4 * 3
    rows = sum(len(table) for table in fuser.window.tables.values())
    assert rows < 200


def test_the_same_observations_give_the_same_world(walk: SyntheticClip) -> None:
    observations = simulate(walk.truth, free_body(), 5)[:25]
    again = simulate(walk.truth, free_body(), 5)[:25]
    ends = [run(Fuser(scales=HONEST), rows)[0][-1] for rows in (observations, again)]
    np.testing.assert_array_equal(ends[0].world_from_cam, ends[1].world_from_cam)


def test_better_than_chaining_on_drawn_predictions(walk: SyntheticClip) -> None:
    """Two draws of wrong scale, outliers, correlated errors, flickering contacts, dishonest variances.

    Scales are fitted on two other draws.
    """
    found: dict[str, list[float]] = {"chain": [], "fuser": [], "chain ate": [], "fuser ate": []}
    joints, config = local_joints(walk), FuserConfig()
    others = [(simulate(walk.truth, free_body(), seed), walk.truth) for seed in (7, 8)]
    scales, _ = fit_scales(error_series(others, config), config)
    for seed in (1, 2):
        observations = simulate(walk.truth, free_body(), seed)
        _, settled = run(Fuser(scales=scales), observations)
        chain = chain_predictions(observations)
        seen = np.array([0 in frame.people for frame in observations])
        path = np.stack([f.people[0].world_from_body if 0 in f.people else np.eye(4) for f in settled])
        for name, body, camera in (
            ("fuser", path, cameras_of(settled)), ("chain", chain.world_from_body[0], chain.world_from_cam)
        ):  # fmt: skip
            world = turn(body[:, None, :3, :3], joints) + body[:, None, :3, 3]
            found[name].append(w_mpjpe(walk.truth.joints_world[:, 0], world, mask=seen).mean())
            found[f"{name} ate"].append(ate(walk.truth.cameras.world_from_cam, camera).mean())
    assert np.mean(found["fuser"]) < np.mean(found["chain"])
    assert 2 * np.mean(found["fuser ate"]) < np.mean(found["chain ate"])


def local_joints(clip: SyntheticClip) -> Array:
    root = clip.truth.motion.cam_from_body[:, 0]
    return turn(np.swapaxes(root[:, None, :3, :3], -1, -2), clip.truth.motion.joints_cam[:, 0] - root[:, None, :3, 3])


def test_older_ways_are_exact_where_nothing_is_wrong() -> None:
    cameras = smooth_path(30)
    bodies = {4: in_front(cameras), 9: in_front(cameras, 8)}
    observations = exact(cameras, bodies, p9=range(7, 25))
    averaged = average_gaps(observations)
    np.testing.assert_allclose(averaged.world_from_cam, cameras, atol=1e-6)
    np.testing.assert_allclose(averaged.world_from_body[9][7:25], bodies[9][7:25], atol=1e-6)
    chained = chain_predictions(observations)
    first = inverse(bodies[4][0])  # the chain's world is the person at the first detection
    keys = np.arange(0, 30, 3)
    np.testing.assert_allclose(chained.world_from_body[4][keys], first @ bodies[4][keys], atol=1e-6)
    np.testing.assert_allclose(chained.world_from_cam[keys], first @ cameras[keys], atol=1e-6)
    np.testing.assert_allclose(chained.world_from_body[9][[7, 10, 22]], first @ bodies[9][[7, 10, 22]], atol=0.02)
    with pytest.raises(ValueError, match="nobody was observed"):
        chain_predictions(exact(cameras, {}))


def test_scales_are_found_that_make_errors_what_they_are_said_to_be() -> None:
    rng = np.random.default_rng(6)
    white = 2.5 * rng.standard_normal(20_000)
    assert variance_ratio(white, 1e6) == pytest.approx(6.25, rel=0.05)
    assert long_run_factor([white[:5000], white[5000:]], 6.25) == pytest.approx(1.0, abs=0.25)
    memory, slow = 0.6, np.zeros(40_000)
    for k in range(1, len(slow)):
        slow[k] = memory * slow[k - 1] + np.sqrt(1 - memory**2) * rng.standard_normal()
    assert long_run_factor([slow], 1.0) == pytest.approx((1 + memory) / (1 - memory), rel=0.2)
    assert long_run_factor([np.ones(500)], 1.0) == pytest.approx(100.0)  # a constant error, over 100 frames
    twin = rng.standard_normal(2000)
    assert shared_factor([[twin, twin, twin]]) == pytest.approx(3.0)
    assert shared_factor([[twin, np.roll(twin, 500), np.roll(twin, 900)]]) == pytest.approx(1.0, abs=0.1)


def test_a_student_that_claims_half_its_errors_is_stretched_twofold(walk: SyntheticClip) -> None:
    plain = NoiseConfig(motion_memory=0.0, root_memory=0.0, shared=0.0, outliers=0.0, dishonest=1.0, lost=0.0)
    observations = simulate(walk.truth, free_body(), 7, plain)
    for frame in observations:
        frame.camera.log_var = frame.camera.log_var - 2 * np.log(2)
    config = FuserConfig(student_dof=1e6)
    scales, parts = fit_scales(error_series([(observations, walk.truth)], config), config)
    assert np.mean(parts["camera_rotation"]["variance_ratio"]) == pytest.approx(4.0, rel=0.25)
    assert np.mean(parts["body_rotation"]["variance_ratio"]) == pytest.approx(1.0, rel=0.25)
    assert np.mean(scales.camera_translation) == pytest.approx(2.0, rel=0.25)


def test_simulated_feet_are_where_the_body_model_has_them(walk: SyntheticClip) -> None:
    feet = feet_of(walk.truth, 0, free_body())
    root = walk.truth.world_from_body[:, 0]
    world = turn(root[:, None, :3, :3], feet) + root[:, None, :3, 3]
    stand = walk.truth.motion.contact_prob[:, 0, 1] > 0.5
    both = stand[1:] & stand[:-1]
    assert np.linalg.norm(np.diff(world[:, 1], axis=0)[both], axis=1).max() < 0.01


def test_recorded_observations_come_back(walk: SyntheticClip, tmp_path: Path) -> None:
    observations = simulate(walk.truth, free_body(), 8)[:30]
    joints = [{person: np.full((24, 3), 0.5) for person in frame.people} for frame in observations]
    save_observations(tmp_path / "clip.npz", observations, joints)
    back, joints_back = load_observations(tmp_path / "clip.npz")
    ends = [run(Fuser(scales=HONEST), rows)[0][-1] for rows in (observations, back)]
    np.testing.assert_allclose(ends[0].world_from_cam, ends[1].world_from_cam)
    assert [set(frame) for frame in joints_back] == [set(frame) for frame in joints]


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for words in ({"lag": 0}, {"foot_sigma_m": 0.0}, {"contact_from": 1.0}, {"student_dof": -1.0}):
        with pytest.raises(ValueError, match=next(iter(words))):
            FuserConfig(**words)  # type: ignore[arg-type]
    write_json(tmp_path / "scales.json", {"scales": {"camera_rotation": 1.0}})
    with pytest.raises(FootfallError, match="a number above 0 for each axis of"):
        read_scales(tmp_path / "scales.json")
