"""The score that ranks clips: fitted where truth is known, checked on clips that the fit never saw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distill.synthetic import ClipSpec, make_clip
from teacher.benchmark.calibrate_quality import crossed, fit_error, judged, quality_report
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.degrade import Degradation, problem_from_truth
from teacher.optimise.evidence import make_evidence
from teacher.optimise.measure import Measures, measure
from teacher.optimise.predicted_error import CIRCUMSTANCES, MEASURES, signs_of, stored_fit
from teacher.optimise.variables import Unknowns


def made_rows(count: int = 60, noise: float = 0.1) -> list[dict[str, Any]]:
    """Solves whose error truly is slip to the 0.6 times depth to the 0.3, with noise; all else says nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        signs: dict[str, float | None] = {name: float(rng.lognormal()) for name in (*MEASURES, *CIRCUMSTANCES)}
        slip, depth = 0.02 + signs["slip_mps"], 0.5 + signs["depth_m"]  # type: ignore[operator]
        error = 100 * slip**0.6 * depth**0.3 * np.exp(noise * rng.standard_normal())
        signs["gravity_sd_deg"] = None if index % 3 == 0 else signs["gravity_sd_deg"]
        rows.append({
            "clip": f"clip{index % 12:02d}", "values": {"w_mpjpe_mm": float(error)}, "seconds": 1.0,
            "quality": {"signs": signs, "predicted_w_mpjpe_mm": 100.0 + index, "weight": 0.5},
        })  # fmt: skip
    return rows


def test_somebody_seen_the_wrong_way_round_shows() -> None:
    truth = make_clip(ClipSpec(id="way", frames=30, seed=4, objects=3)).truth
    nothing = np.full((30, 1), np.nan)
    measures = Measures(
        keypoint_px=nothing, keypoint_rel=nothing, slip=nothing, gap=nothing, penetration=nothing, scale_ratio=nothing,
        background_px=nothing[:, 0], held_out_px=np.asarray(np.nan), witness_log=np.full(2, np.nan),
        contact_kept=np.asarray(np.nan), stature=np.array([1.7]),
    )  # fmt: skip
    right = signs_of(truth, measures, {})
    pose = truth.motion.cam_from_body.copy()
    pose[:10, 0, :3, :3] = pose[:10, 0, :3, :3] @ np.diag([-1.0, 1.0, -1.0])
    wrong = signs_of(replace(truth, motion=replace(truth.motion, cam_from_body=pose)), measures, {})
    assert right["backwards"] == 0
    assert wrong["backwards"] == pytest.approx(1 / 3, abs=0.03)
    assert right["turn_rad_s"] is not None
    assert right["turn_rad_s"] < 10
    assert wrong["turn_rad_s"] == pytest.approx(30 * np.pi, rel=0.1)
    assert right["pose_change"] is None
    assert set(right) <= set(MEASURES) | set(CIRCUMSTANCES)


def test_what_a_solve_changed_is_measured() -> None:
    clip = make_clip(ClipSpec(id="change", frames=12, seed=4, size=[160, 96], objects=3))
    config = OptimiseConfig()
    unknowns = Unknowns(make_evidence(problem_from_truth(clip, Degradation(), points=100), config))
    blocks = unknowns.blocks
    for name in blocks:
        blocks[name] = blocks[name].detach()
    blocks["pose"][..., 0] = 0.2
    blocks["root_rot"][..., 1] = 0.1
    blocks["root_depth"].fill_(-0.05)
    found = measure(unknowns.decode(), unknowns.evidence, config)
    np.testing.assert_allclose(found.pose_change, 0.2, atol=1e-3)
    np.testing.assert_allclose(found.root_change, 0.1, atol=1e-3)
    np.testing.assert_allclose(found.depth_change, 0.05, atol=1e-4)


def test_a_known_law_is_found_again() -> None:
    rows = made_rows(300)
    fit = fit_error(rows)
    slope = dict(zip(fit.names, np.asarray(fit.slope) / fit.spread, strict=True))
    assert slope["slip_mps"] == pytest.approx(0.6, abs=0.05)
    assert slope["depth_m"] == pytest.approx(0.3, abs=0.05)
    assert all(value >= 0 for name, value in slope.items() if name in MEASURES)
    errors = [fit.predict_mm(row["quality"]["signs"]) / row["values"]["w_mpjpe_mm"] for row in rows]
    assert np.std(np.log(errors)) < 0.13


def test_a_worse_measure_never_lowers_the_stored_prediction() -> None:
    fit = stored_fit()
    assert set(fit.names) <= set(MEASURES) | set(CIRCUMSTANCES)
    usual = {name: float(np.exp(c)) for name, c in zip(fit.names, fit.centre, strict=True)}
    best = fit.predict_mm(usual)
    for name in set(fit.names) & set(MEASURES):
        assert fit.predict_mm({**usual, name: 3 * usual[name]}) >= best, name


def test_a_sign_that_is_missing_counts_as_usual() -> None:
    fit = fit_error(made_rows())
    assert np.isfinite(fit.predict_mm({}))
    assert fit.predict_mm({}) == pytest.approx(np.exp(fit.constant))


def test_no_clip_is_predicted_by_a_fit_that_saw_it() -> None:
    rows = made_rows()
    first = crossed(rows)
    for row in rows:
        if row["clip"] == "clip00":
            row["values"]["w_mpjpe_mm"] *= 1000
    second = crossed(rows)
    own = np.array([row["clip"] == "clip00" for row in rows])
    np.testing.assert_array_equal(first[own], second[own])
    assert not np.allclose(first[~own], second[~own])


def test_judging_by_hand() -> None:
    true = np.array([1.0, 2.0, 3.0, 4.0, 90.0])
    perfect, useless = judged(true, true), judged(true, -true)
    assert perfect["spearman"] == pytest.approx(1)
    assert perfect["kept_mean_mm"] == 2.5  # of 1, 2, 3, 4
    assert perfect["mean_lowered_percent"] == pytest.approx(87.5)
    assert useless["spearman"] == pytest.approx(-1)
    assert judged(true, np.ones(5))["spearman"] == 0  # and no NaN, which JSON does not know
    assert useless["kept_mean_mm"] == pytest.approx(24.75)
    assert useless["mean_lowered_by_truth_percent"] == pytest.approx(87.5)


def test_the_report_holds_the_fit_and_the_check_on_held_out_clips() -> None:
    rows = made_rows(120)
    by_case = {"strain_0": {str(i): row for i, row in enumerate(rows)}}
    content, lines = quality_report(by_case)
    assert content["held_out"]["spearman"] > 0.9
    assert content["checks"][0]["met"]
    assert content["fit"]["names"]
    assert any("predicted error, held out" in line for line in lines)


def test_too_few_solves() -> None:
    with pytest.raises(ValueError, match="too few"):
        fit_error(made_rows(4))
