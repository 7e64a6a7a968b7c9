"""Contacts from motion, on synthetic people whose feet truly stand; the scale that stills them; the two-state model."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from distill.errors import FootfallError
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from teacher.initialisers import contacts
from teacher.initialisers.contacts import ContactsConfig, find_contacts, find_scale, pose_feet, smooth_states
from teacher.stagefiles import BodyInit, CameraInit, Contacts, Frames
from teacher.workspace import ClipFolder, StageRecord

CONFIG = ContactsConfig()


def true_inputs(clip: SyntheticClip, *, unit: float = 1.0, jitter: float = 0.0) -> tuple[BodyInit, CameraInit]:
    """The truth as the earlier stages would give it; one metre is 1 / `unit` of the cameras' unit.

    `jitter` moves every body along and across the view, metres and frame by frame.
    """
    motion, cameras, none = clip.truth.motion, clip.truth.cameras, np.zeros(0)
    place = motion.cam_from_body.copy()
    place[..., :3, 3] += jitter * np.random.default_rng(0).standard_normal((*place.shape[:2], 3)) * [0.3, 0.3, 1.0]
    world = cameras.world_from_cam.copy()
    world[:, :3, 3] /= unit
    bodies = BodyInit(
        body_model="anny", focal_px=float(cameras.K[0, 0]), present=motion.present.copy(), betas=motion.betas,
        body_rot=motion.body_rot.astype(np.float32), cam_from_body=place.astype(np.float32),
        confidence=np.ones(motion.present.shape, np.float32),
    )  # fmt: skip
    camera = CameraInit(
        kind="sfm", metric=False, focal_known=True, K=cameras.K, world_from_cam=world,
        registered=np.ones(len(world), bool), points=np.zeros((0, 3)), points_rgb=np.zeros((0, 3)),
        obs_frame=none, obs_point=none, obs_px=np.zeros((0, 2)),
    )  # fmt: skip
    return bodies, camera


def f1(prob: np.ndarray, truth: np.ndarray) -> float:
    found, real = prob > 0.5, truth > 0.5
    return float(2 * (found & real).sum() / (found.sum() + real.sum()))


@pytest.fixture(scope="module")
def walk() -> SyntheticClip:
    return make_clip(ClipSpec(seed=3, frames=60, fps=20.0))


@pytest.mark.parametrize("unit", [7.3, 0.02])
def test_finds_the_scale_that_stills_the_feet(walk: SyntheticClip, unit: float) -> None:
    bodies, cameras = true_inputs(walk, unit=unit)
    scale = find_scale(pose_feet(bodies, cameras, CONFIG), walk.truth.cameras.timestamps, CONFIG)
    assert scale == pytest.approx(unit, rel=0.01)


def test_scale_survives_jitter(walk: SyntheticClip) -> None:
    bodies, cameras = true_inputs(walk, unit=7.3, jitter=0.01)
    scale = find_scale(pose_feet(bodies, cameras, CONFIG), walk.truth.cameras.timestamps, CONFIG)
    assert scale == pytest.approx(7.3, rel=0.15)


@pytest.mark.parametrize(("motion", "camera", "people"), [("walk", "walk", 2), ("turn", "shake", 1)])
def test_standing_feet_are_found(motion: str, camera: str, people: int) -> None:
    clip = make_clip(ClipSpec(seed=7, frames=60, fps=20.0, motion=motion, camera=camera, people=people))
    bodies, cameras = true_inputs(clip, unit=5.0)
    prob, _ = find_contacts(bodies, cameras, clip.truth.cameras.timestamps, CONFIG)
    truth = clip.truth.motion.contact_prob
    assert f1(prob[..., :4], truth[..., :4]) > 0.9
    noisy, cameras = true_inputs(clip, unit=5.0, jitter=0.01)
    prob, _ = find_contacts(noisy, cameras, clip.truth.cameras.timestamps, CONFIG)
    assert f1(prob[..., :4], truth[..., :4]) > 0.8


def test_a_standing_person_stands_all_the_time() -> None:
    clip = make_clip(ClipSpec(seed=5, frames=30, fps=20.0, motion="stand", camera="pan"))
    prob, _ = find_contacts(*true_inputs(clip), clip.truth.cameras.timestamps, CONFIG)
    assert prob[..., :4].min() > 0.5
    assert (prob[..., 4:] == 0).all()


def test_a_jump_has_no_contact() -> None:
    """A standing person thrown up by 0.6 m and back within 0.7 s, under a fixed camera."""
    clip = make_clip(ClipSpec(seed=5, frames=40, fps=30.0, motion="stand", camera="static"))
    bodies, cameras = true_inputs(clip)
    cameras.kind = "static"
    rise = np.zeros(40)
    rise[10:31] = 0.6 * (1 - np.linspace(-1, 1, 21) ** 2)
    up_cam = cameras.world_from_cam[0, :3, :3].T @ [0, 0, 1.0]
    bodies.cam_from_body[:, 0, :3, 3] += (rise[:, None] * up_cam).astype(np.float32)
    prob, _ = find_contacts(bodies, cameras, clip.truth.cameras.timestamps, CONFIG)
    assert prob[12:18, 0, :4].max() < 0.5
    assert prob[23:29, 0, :4].max() < 0.5
    assert prob[:8, 0, :4].min() > 0.5


def test_absent_people_touch_nothing(walk: SyntheticClip) -> None:
    bodies, cameras = true_inputs(walk)
    bodies.present[20:30] = False
    prob, _ = find_contacts(bodies, cameras, walk.truth.cameras.timestamps, CONFIG)
    assert (prob[20:30] == 0).all()
    assert np.isfinite(prob).all()
    assert prob[:20, 0, :4].max() > 0.9


def test_smooth_states_sums_over_all_paths() -> None:
    """Against the sum over all 2^4 state sequences, written out."""
    evidence, stamps, rate = np.array([2.0, -0.5, 0.3, -3.0]), np.array([0.0, 0.05, 0.2, 0.25]), 4.0
    change = 0.5 * (1 - np.exp(-2 * rate * np.diff(stamps)))
    total, first = 0.0, np.zeros(4)
    for path in product((1, 0), repeat=4):
        weight = np.prod([1 / (1 + np.exp(-e if s else e)) for e, s in zip(evidence, path, strict=True)])
        weight *= np.prod([c if a != b else 1 - c for c, a, b in zip(change, path, path[1:], strict=False)])
        total += weight
        first += weight * np.array(path)
    np.testing.assert_allclose(smooth_states(evidence[:, None], stamps, rate)[:, 0], first / total, rtol=1e-12)


def test_no_evidence_is_even_odds() -> None:
    np.testing.assert_allclose(smooth_states(np.zeros((6, 2)), np.arange(6) / 30, 4.0), 0.5)


def test_another_body_model_is_refused(walk: SyntheticClip) -> None:
    bodies, cameras = true_inputs(walk)
    bodies.body_model = "smpl"
    with pytest.raises(FootfallError, match=r"contacts\.body_model"):
        find_contacts(bodies, cameras, walk.truth.cameras.timestamps, CONFIG)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="still_speed"):
        ContactsConfig(still_speed=0)


def test_stage_writes_its_file(walk: SyntheticClip, tmp_path: Path) -> None:
    bodies, cameras = true_inputs(walk, unit=5.0)
    frames = Frames(timestamps=walk.truth.cameras.timestamps, size=[480, 270], source_size=[480, 270], unreadable=0)
    clip = ClipFolder(tmp_path / "clip")
    for stage, value in (("frames", frames), ("cameras", cameras), ("bodies", bodies)):
        clip.begin(stage)
        value.save(clip.stage_dir(stage))
        clip.finish(StageRecord(stage=stage, status="done", implementation="test", config_hash="", inputs={}))
    outcome = contacts.run(clip, CONFIG, lambda fraction, text: None)
    prob = Contacts.load(clip.stage_dir("contacts")).prob
    assert prob.shape == (60, 1, 6)
    assert prob.dtype == np.float32
    assert prob.min() >= 0 and prob.max() <= 1
    assert outcome.summary["camera_scale"] == pytest.approx(5.0, rel=0.01)
