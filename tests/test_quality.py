"""Verdicts on solved clips: what is accepted, weighted and rejected, and with which reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distill.results import Cameras, Motion, Result
from teacher.optimise.measure import Measures
from teacher.optimise.quality import Limits, QualityConfig, judge

FRAMES, PEOPLE = 20, 2


def good_result(**meta: Any) -> Result:
    eye = np.eye(4)
    return Result(
        cameras=Cameras(
            K=np.eye(3), size=(512, 288), timestamps=np.arange(FRAMES) / 30,
            world_from_cam=np.tile(eye, (FRAMES, 1, 1)), valid=np.ones(FRAMES, bool),
        ),
        motion=Motion(
            ids=np.arange(PEOPLE), present=np.ones((FRAMES, PEOPLE), bool), body_model="anny",
            betas=np.zeros((PEOPLE, 10)), body_rot=np.tile(np.eye(3), (FRAMES, PEOPLE, 23, 1, 1)),
            cam_from_body=np.tile(eye, (FRAMES, PEOPLE, 1, 1)), joints_cam=np.zeros((FRAMES, PEOPLE, 24, 3)),
            contact_prob=np.zeros((FRAMES, PEOPLE, 6)), stature=np.full(PEOPLE, 1.7),
            confidence=np.ones((FRAMES, PEOPLE)),
        ),
        meta={"world": "z_up_ground", "camera": "sfm", "scale": {"first_estimate_from": "depth+still"}, **meta},
    )  # fmt: skip


def good_measures() -> Measures:
    full = np.ones((FRAMES, PEOPLE))
    return Measures(
        keypoint_px=2 * full, keypoint_rel=0.01 * full, slip=0.05 * full, gap=0.01 * full, penetration=0 * full,
        scale_ratio=0.02 * full, background_px=np.ones(FRAMES), held_out_px=np.asarray(1.2),
        witness_log=np.array([0.01, -0.02]), contact_kept=np.asarray(0.9), stature=np.full(PEOPLE, 1.7),
    )  # fmt: skip


def test_a_good_clip_is_accepted_with_full_weight() -> None:
    verdict, weight = judge(good_result(), good_measures(), QualityConfig())
    assert (verdict.decision, verdict.weight, verdict.reasons) == ("accept", 1.0, [])
    assert weight.shape == (FRAMES, PEOPLE)
    assert weight.dtype == np.float32
    assert (weight == 1).all()
    assert set(verdict.numbers) == {
        name for name, limits in vars(QualityConfig()).items() if isinstance(limits, Limits)
    }


@pytest.mark.parametrize(
    ("measure", "number", "middling", "bad"),
    [
        ("keypoint_rel", "keypoint_rel", 0.05, 0.2),
        ("slip", "slip_mps", 0.5, 2.0),
        ("gap", "foot_gap_m", 0.1, 0.5),
        ("penetration", "penetration_m", 0.1, 0.5),
        ("background_px", "background_px", 4.0, 30.0),
        ("held_out_px", "held_out_px", 5.0, 30.0),
        ("witness_log", "witness_gap", -0.3, 1.0),
        ("contact_kept", "contact_lost", 0.3, 0.05),
    ],
)
def test_each_number_weighs_then_rejects(measure: str, number: str, middling: float, bad: float) -> None:
    for value, decision in ((middling, "weight"), (bad, "reject")):
        array = np.full_like(getattr(good_measures(), measure), value)
        verdict, weight = judge(good_result(), replace(good_measures(), **{measure: array}), QualityConfig())
        assert verdict.decision == decision
        assert len(verdict.reasons) == 1
        assert verdict.reasons[0].startswith(f"{number} is ")
        assert weight.max() < 1
        assert (verdict.weight > 0) == (decision == "weight")
        assert (weight.max() > 0) == (decision == "weight")


def test_frames_weigh_by_their_own_numbers() -> None:
    measures = good_measures()
    measures.slip[3, 1] = 1.0
    measures.keypoint_rel[4, 0] = np.nan  # nothing seen: no number, no penalty
    result = good_result()
    result.motion.present[7, 0] = False
    result.cameras.valid[9] = False
    verdict, weight = judge(result, measures, QualityConfig())
    assert verdict.decision == "accept"
    assert weight[3, 1] == pytest.approx(0.25)
    assert weight[4, 0] == 1
    assert weight[7, 0] == 0
    assert weight[9, 0] == 0.5


def test_a_clip_that_is_probably_far_off_is_rejected_by_its_score() -> None:
    measures = good_measures()
    verdict, _ = judge(good_result(), measures, QualityConfig())
    assert verdict.predicted_w_mpjpe_mm == verdict.numbers["predicted_w_mpjpe_mm"]
    assert verdict.signs["keypoint_rel_high"] == pytest.approx(0.01)
    strict = QualityConfig(predicted_w_mpjpe_mm=Limits(weight=0.5, reject=1.0))
    rejected, weight = judge(good_result(), measures, strict)
    assert rejected.decision == "reject"
    assert rejected.reasons[0].startswith("predicted_w_mpjpe_mm is ")
    assert weight.max() == 0


def test_a_disagreement_about_scale_is_seen() -> None:
    measures = good_measures()
    measures.scale_ratio[:, 0], measures.scale_ratio[:, 1] = 0.5, -0.5
    verdict, _ = judge(good_result(), measures, QualityConfig())
    assert verdict.decision == "reject"
    assert "scale_spread" in verdict.reasons[0]


def test_the_least_plausible_person_counts() -> None:
    measures = replace(good_measures(), stature=np.array([1.7, 2.6]))
    verdict, _ = judge(good_result(), measures, QualityConfig())
    assert verdict.decision == "reject"
    assert "stature_sd" in verdict.reasons[0]


def test_a_clip_that_hardly_shows_anybody_is_rejected() -> None:
    result = good_result()
    result.motion.present[5:] = False
    verdict, _ = judge(result, good_measures(), QualityConfig())
    assert verdict.decision == "reject"
    assert "5 frames only" in verdict.reasons[0]


def test_frames_without_a_measured_camera_count() -> None:
    result = good_result()
    result.cameras.valid[: FRAMES // 2] = False
    verdict, weight = judge(result, good_measures(), QualityConfig())
    assert verdict.decision == "weight"
    assert "unregistered" in verdict.reasons[0]
    assert weight[0, 0] < weight[-1, 0] < 1


@pytest.mark.parametrize(("camera", "decision"), [("sfm", "reject"), ("static", "accept")])
def test_a_guessed_scale_matters_for_a_travelling_camera_only(camera: str, decision: str) -> None:
    result = good_result(camera=camera, scale={"first_estimate_from": "none"})
    assert judge(result, good_measures(), QualityConfig())[0].decision == decision


def test_a_clip_without_scene_has_no_such_numbers() -> None:
    measures = good_measures()
    nothing = np.full((FRAMES, PEOPLE), np.nan)
    measures = replace(
        measures,
        background_px=np.full(FRAMES, np.nan),
        held_out_px=np.asarray(np.nan),
        scale_ratio=nothing,
        witness_log=np.full(2, np.nan),
        contact_kept=np.asarray(np.nan),
    )
    verdict, _ = judge(good_result(camera="static"), measures, QualityConfig())
    assert verdict.decision == "accept"
    assert verdict.numbers["background_px"] is None
    assert verdict.numbers["scale_spread"] is None


def test_limits_must_rise() -> None:
    with pytest.raises(ValueError, match="must rise"):
        Limits(weight=2.0, reject=1.0)
    with pytest.raises(ValueError, match="min_frames"):
        QualityConfig(min_frames=0)
