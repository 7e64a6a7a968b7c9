"""The pass over a whole clip: exact where nothing is wrong, better where later frames know more, windows or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from distill.files import read_json
from distill.fuser import FrameObservation, FusedFrame, Fuser, FuserConfig, UncertaintyScales
from distill.fuser import whole as whole_module
from distill.fuser.log import CHUNK, ObservationLog
from distill.fuser.robust import student_cost, whitening
from distill.fuser.simulate import simulate
from distill.fuser.so3 import Array, exp, inverse, log
from distill.fuser.whole import WholePaths, smooth_clip
from distill.metrics import w_mpjpe
from distill.synthetic import ClipSpec, make_clip
from distill.synthetic.world import free_body
from tests.fuser_support import exact, in_front, smooth_path

HONEST = UncertaintyScales()
LOOSE = FuserConfig(camera_accel=50, camera_turn_accel=200, body_accel=50, body_turn_accel=200)


def fused(observations: Sequence[FrameObservation], config: FuserConfig, scales: UncertaintyScales) -> list[FusedFrame]:
    fuser, settled = Fuser(config, camera="moving", scales=scales), []
    for observation in observations:
        fuser.step(observation)
        settled += fuser.settled()
    return settled + fuser.finish()


def paths_of(frames: list[FusedFrame]) -> WholePaths:
    people = {}
    for person in sorted({person for frame in frames for person in frame.people}):
        seen = [k for k, frame in enumerate(frames) if person in frame.people]
        people[person] = np.array(seen), np.stack([frames[k].people[person].world_from_body for k in seen])
    return WholePaths(
        world_from_cam=np.stack([frame.world_from_cam for frame in frames]),
        log_scale=np.array([frame.log_scale for frame in frames]), static_prob=np.zeros(len(frames)),
        world_from_body=people,
    )  # fmt: skip


def shaken(paths: WholePaths, seed: int = 0) -> WholePaths:
    """First guesses with errors; the first camera is the world's and has none."""
    rng = np.random.default_rng(seed)

    def shake(poses: Array) -> Array:
        moved = poses.copy()
        moved[:, :3, :3] = poses[:, :3, :3] @ exp(0.05 * rng.standard_normal((len(poses), 3)))
        moved[:, :3, 3] += 0.05 * rng.standard_normal((len(poses), 3))
        return moved

    cameras = shake(paths.world_from_cam)
    cameras[0] = paths.world_from_cam[0]
    return WholePaths(
        world_from_cam=cameras, log_scale=paths.log_scale.copy(), static_prob=paths.static_prob,
        world_from_body={person: (frames, shake(poses)) for person, (frames, poses) in paths.world_from_body.items()},
    )  # fmt: skip


def exact_clip(count: int) -> tuple[list[FrameObservation], WholePaths]:
    cameras = smooth_path(count)
    bodies = {4: in_front(cameras), 9: in_front(cameras, 8)}
    seen = {4: np.arange(count), 9: np.arange(6, count - 8)}
    truth = WholePaths(
        world_from_cam=cameras, log_scale=np.zeros(count), static_prob=np.zeros(count),
        world_from_body={person: (frames, bodies[person][frames]) for person, frames in seen.items()},
    )  # fmt: skip
    return exact(cameras, bodies, p9=range(6, count - 8)), truth


def assert_paths(found: WholePaths, wanted: WholePaths, metres: float) -> None:
    for mine, true in [
        (found.world_from_cam, wanted.world_from_cam),
        *((found.world_from_body[person][1], poses) for person, (_, poses) in wanted.world_from_body.items()),
    ]:  # fmt: skip
        assert np.linalg.norm(mine[:, :3, 3] - true[:, :3, 3], axis=1).max() < metres
        assert np.linalg.norm(log(inverse(mine)[:, :3, :3] @ true[:, :3, :3]), axis=1).max() < metres


def test_exact_motions_give_the_exact_world_from_a_bad_guess() -> None:
    observations, truth = exact_clip(60)
    found = smooth_clip(observations, shaken(truth), LOOSE, camera="moving", scales=HONEST)
    assert_paths(found, truth, 0.01)


def test_windows_say_what_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    observations, truth = exact_clip(70)
    monkeypatch.setattr(whole_module, "WINDOW", 25)
    monkeypatch.setattr(whole_module, "AHEAD", 15)
    found = smooth_clip(observations, shaken(truth), LOOSE, camera="moving", scales=HONEST)
    assert_paths(found, truth, 0.02)


def test_parts_between_breaks_keep_to_themselves() -> None:
    """The second part is what it would be alone, moved to where the first one ended."""
    observations, truth = exact_clip(40)
    first = shaken(truth)
    both = smooth_clip([*observations, *observations], doubled(first), LOOSE, camera="moving", scales=HONEST,
                       starts=[0, 40])  # fmt: skip
    assert_paths(both.part(0, 40), truth, 0.01)
    second, last = both.part(40, 80), both.world_from_cam[39]
    moved = last @ inverse(first.world_from_cam[39])
    np.testing.assert_allclose(second.world_from_cam[0], moved @ first.world_from_cam[0], atol=0.01)
    relative = inverse(second.world_from_cam[:1]) @ second.world_from_cam
    np.testing.assert_allclose(relative, truth.world_from_cam, atol=0.02)


def doubled(paths: WholePaths) -> WholePaths:
    count = len(paths.log_scale)
    return WholePaths(
        world_from_cam=np.concatenate([paths.world_from_cam] * 2), log_scale=np.tile(paths.log_scale, 2),
        static_prob=np.tile(paths.static_prob, 2),
        world_from_body={
            person: (np.concatenate((frames, frames + count)), np.concatenate((poses, poses)))
            for person, (frames, poses) in paths.world_from_body.items()
        },
    )  # fmt: skip


def test_somebody_begun_back_to_front_is_turned_round() -> None:
    observations, truth = exact_clip(40)
    first = shaken(truth)
    first.world_from_body[4][1][:, :3, :3] = first.world_from_body[4][1][:, :3, :3] @ exp(np.array([0.0, np.pi, 0.0]))
    found = smooth_clip(observations, first, LOOSE, camera="moving", scales=HONEST)
    assert_paths(found, truth, 0.01)


def test_drawn_predictions_come_nearer_to_the_truth_and_fast_motion_stays() -> None:
    """Over several draws; speeds above 3 Hz keep their energy within what the first pass has of it."""
    config = FuserConfig()
    before: list[float] = []
    after: list[float] = []
    energy: list[float] = []
    for seed in range(4):
        clip = make_clip(ClipSpec(seed=20 + seed, frames=90, fps=30.0, camera="walk", motion="jog", speed=2.8))
        observations = simulate(clip.truth, free_body(), seed)
        first = paths_of(fused(observations, config, HONEST))
        found = smooth_clip(observations, first, config, camera="moving", scales=HONEST)
        world = clip.truth.joints_world[:, 0]
        local = np.einsum("tji,tkj->tki", clip.truth.world_from_body[:, 0, :3, :3],
                          world - clip.truth.world_from_body[:, 0, None, :3, 3])  # fmt: skip
        for paths, errors in ((first, before), (found, after)):
            poses = paths.world_from_body[0][1]
            joints = np.einsum("tij,tkj->tki", poses[:, :3, :3], local) + poses[:, None, :3, 3]
            errors.append(w_mpjpe(world, joints).mean())
        energy.append(fast_energy(found.world_from_body[0][1]) / fast_energy(clip.truth.world_from_body[:, 0]))
    assert np.mean(after) < 0.95 * np.mean(before)
    assert np.median(energy) > 0.7


def fast_energy(poses: Array) -> float:
    """Of the pelvis's speed above 3 Hz."""
    speed = np.diff(poses[:, :3, 3], axis=0) * 30
    spectrum = np.abs(np.fft.rfft((speed - speed.mean(0)) * np.hanning(len(speed))[:, None], axis=0)) ** 2
    return float(spectrum[np.fft.rfftfreq(len(speed), 1 / 30) > 3.0].sum())


def test_the_cost_is_that_of_students_t() -> None:
    rng = np.random.default_rng(0)
    residual, variance, dof = rng.standard_normal((50, 6)), rng.uniform(0.5, 2, (50, 6)), 5.0
    by = whitening(residual, variance, (3, 2, 1), dof)
    square = residual**2 / variance
    wanted = sum(
        0.5 * (dof + size) * np.log1p(square[:, part].sum(1) / dof).sum()
        for size, part in ((3, slice(0, 3)), (2, slice(3, 5)), (1, slice(5, 6)))
    )
    assert student_cost(by * residual, (3, 2, 1), dof) == pytest.approx(wanted)


def test_a_log_of_observations_reads_back_what_it_was_given(tmp_path: Path) -> None:
    observations, _ = exact_clip(40)
    log_of = ObservationLog(tmp_path)
    for k in range(2 * CHUNK + 30):
        log_of.add(observations[k % 40])
    assert len(log_of) == 2 * CHUNK + 30
    for k in (0, CHUNK - 1, CHUNK, 2 * CHUNK + 29, 3):
        found, wanted = log_of[k], observations[k % 40]
        np.testing.assert_array_equal(found.camera.past_from_now, wanted.camera.past_from_now)
        assert set(found.people) == set(wanted.people)
        for person, seen in wanted.people.items():
            np.testing.assert_array_equal(found.people[person].motions.past_from_now, seen.motions.past_from_now)
    with pytest.raises(IndexError):
        log_of[2 * CHUNK + 30]
    assert len(list(tmp_path.glob("*/*.npz"))) == 2
    del log_of
    assert not list(tmp_path.iterdir())


def test_offline_runs_from_the_command_line(tmp_path: Path) -> None:
    """A student that finds people in noise; every frame is improved, and the file says so."""
    import torch

    from distill.models.student import Student, StudentConfig
    from distill.models.trunk import HeadConfig
    from distill.people.token_tracker import TokenTrackerConfig
    from distill.results import load_result
    from distill.stream import StreamConfig
    from teacher.run_video import RunConfig, run_video
    from tests.live_support import Given, noise
    from tests.student_support import wake

    torch.manual_seed(2)
    wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2)))).save_pretrained(tmp_path / "c")
    tracker = TokenTrackerConfig(enter_score=0.02, stay_score=0.01, max_people=2)
    results = []
    for offline in (False, True):
        config = RunConfig(people="tokens", offline=offline, stream=StreamConfig(gaps=[1, 3], tracker=tracker))
        out = tmp_path / str(offline)
        run_video(Given(noise(25)), str(tmp_path / "c"), out, config)
        results.append(load_result(out))
        assert read_json(out / "meta.json")["offline"] is offline
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
    plain, better = results
    assert plain.motion.ids.tolist() == better.motion.ids.tolist() and len(plain.motion.ids) > 0
    np.testing.assert_array_equal(plain.motion.present, better.motion.present)
    np.testing.assert_array_equal(plain.motion.body_rot, better.motion.body_rot)
    assert not np.allclose(plain.cameras.world_from_cam, better.cameras.world_from_cam, atol=1e-4)
    seen = better.motion.present
    np.testing.assert_allclose(
        better.motion.joints_cam[seen][:, 0], better.motion.cam_from_body[seen][:, :3, 3], atol=1e-4
    )  # joint 0 is the pelvis
