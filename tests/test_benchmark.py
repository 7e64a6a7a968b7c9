"""The measuring side: errors are what the knobs say, tables are right by hand, runs go on where they stopped."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.errors import FootfallError
from distill.synthetic import ClipSpec, SyntheticClip, collection, make_clip
from teacher.benchmark import report
from teacher.benchmark.calibration import initial_errors
from teacher.benchmark.cases import (
    BODY_BLOCKS,
    JOSH_TERMS,
    Case,
    changed,
    josh_cases,
    quality_cases,
    robustness_cases,
    term_cases,
)
from teacher.benchmark.fast import with_fast
from teacher.benchmark.runner import run_cases
from teacher.benchmark.scores import clip_values, gap_values, initial_results, peak_ratio
from teacher.benchmark.speed import BenchConfig, linear_fit, summary
from teacher.benchmark.tables import BenchmarkConfig, chosen, make_table
from teacher.benchmark.track import clips_of, strained_errors, usual_errors
from teacher.cli import main
from teacher.optimise.config import OptimiseConfig, TermWeights
from teacher.optimise.degrade import Degradation, degraded_problem, lost_span
from teacher.optimise.evidence import make_evidence
from teacher.optimise.exact import ExactView, exact_view, project_px
from teacher.optimise.variables import BLOCKS

QUICK = OptimiseConfig(solver="adam", stage1_steps=3, stage2_steps=3)
TINY = ClipSpec(id="tiny", seed=3, frames=16, fps=20.0, size=[160, 96], objects=3)


@functools.cache
def view(people: int = 1, frames: int = 60) -> ExactView:
    return exact_view(make_clip(ClipSpec(id="view", frames=frames, people=people, seed=4, objects=4)), 600)


def errors(**knobs: Any) -> dict[str, float | None]:
    return initial_errors(degraded_problem(view(), Degradation(**knobs)), view())


# --- what a perfect initialiser sees ---------------------------------------------------------------------


def test_nothing_is_wrong_without_a_knob() -> None:
    found = errors()
    assert found["focal"] == 1
    assert found["people_found"] == 1
    for name in ("camera_path_percent", "root_rot_sd", "pose_sd", "betas_sd", "keypoint_px", "wrong_contacts"):
        assert found[name] == pytest.approx(0, abs=1e-5), name
    assert found["root_depth"] == pytest.approx(1, abs=1e-6)
    assert found["track_px"] < 1e-3  # rays are cast in float32
    assert found["depth_sd"] < 1e-3  # depth is stored in 16 bits


@pytest.mark.parametrize(
    ("knobs", "name", "expected", "tolerance"),
    [
        ({"focal": 1.2}, "focal", 1.2, 1e-6),
        ({"focal": 1.2}, "root_depth", 1.0, 1e-6),
        ({"root_depth": 0.9}, "root_depth", 0.9, 1e-6),
        ({"root_depth_sd": 0.03}, "root_depth_sd", 0.03, 0.006),
        ({"root_rot_sd": 0.07}, "root_rot_sd", 0.07, 0.01),
        ({"pose_sd": 0.1}, "pose_sd", 0.1, 0.004),
        ({"pose_sd": 0.1, "standing": 0.4}, "pose_standing", 0.41, 0.1),
        ({"pose_sd": 0.1, "slow": 1.0, "memory_s": 0.1}, "memory_s", 0.1, 0.03),
        ({"betas_sd": 0.9}, "betas_sd", 0.9, 0.4),
        ({"keypoint_px": 2.0}, "keypoint_px", 2.0, 0.2),
        ({"keypoint_bias": 0.02}, "keypoint_bias", 0.02, 0.006),
        ({"track_px": 0.5}, "track_px", 0.5, 0.1),
        ({"outliers": 0.3, "outlier_px": 200.0}, "track_far", 0.51, 0.12),  # a pair is wrong if either of it is
        ({"depth_sd": 0.02}, "depth_sd", 0.02, 0.002),
        ({"depth_bias": 1.1}, "depth_bias", 1.1, 0.01),
        ({"depth_holes": 0.25}, "depth_known", 0.75, 0.08),
        ({"depth_far": 0.2}, "depth_far", 0.2, 0.08),
        ({"keypoint_hidden": 0.2}, "keypoint_seen", 0.8, 0.03),
        ({"mirrored_frames": 30}, "root_rot_sd", np.pi * (0.5 / 3) ** 0.5, 0.01),  # half of the frames, one axis
        ({"wrong_contacts": 0.2}, "wrong_contacts", 0.2, 0.07),
        ({"contact_doubt": 0.2}, "contact_doubt", 0.2, 1e-3),
        ({"unit": 0.2, "depth_sd": 0.01}, "depth_bias", 1.0, 0.01),
    ],
)
def test_each_knob_is_what_is_measured(knobs: dict[str, Any], name: str, expected: float, tolerance: float) -> None:
    assert errors(**knobs)[name] == pytest.approx(expected, abs=tolerance)


def test_a_knob_leaves_the_draws_of_the_others_alone() -> None:
    base = Degradation(pose_sd=0.1, keypoint_px=1.0, track_px=0.5, wrong_contacts=0.1)
    first, second = (degraded_problem(view(), d) for d in (base, replace(base, outliers=0.3, betas_sd=1.0)))
    assert np.array_equal(first.bodies.body_rot, second.bodies.body_rot)
    assert np.array_equal(first.people.keypoints_px, second.people.keypoints_px)
    assert np.array_equal(first.contacts.prob, second.contacts.prob)
    moved = (first.cameras.obs_px != second.cameras.obs_px).any(-1)
    assert moved.mean() == pytest.approx(0.3, abs=0.02)


def test_mistaken_contacts_come_in_runs() -> None:
    found = [errors(wrong_contacts=0.2, wrong_contact_s=0.1, seed=seed) for seed in range(12)]
    assert np.mean([e["wrong_contacts"] for e in found]) == pytest.approx(0.2, abs=0.04)
    # A run ends when a label is drawn anew and is right: after 0.1 s / 0.8, and lasts a frame at least.
    assert np.mean([e["wrong_contact_s"] for e in found]) == pytest.approx(0.125 + 1 / 60, abs=0.03)
    alone = [errors(wrong_contacts=0.2, seed=seed)["wrong_contact_s"] for seed in range(12)]
    assert np.mean(alone) == pytest.approx(1.25 / 30, abs=0.01)


def test_cameras_of_a_wrong_focal_length_agree_with_it() -> None:
    """Cameras stand back and depths stretch: what the middle sight of a point shows is where it should be."""
    problem = degraded_problem(view(), Degradation(focal=1.2))
    cameras = problem.cameras
    order = np.lexsort((cameras.obs_frame, cameras.obs_point))
    _, begin, count = np.unique(cameras.obs_point[order], return_index=True, return_counts=True)
    middle = order[begin + count // 2]
    pose = cameras.world_from_cam[cameras.obs_frame[middle]]
    offset = cameras.points[cameras.obs_point[middle]] - pose[:, :3, 3]
    px = project_px(np.einsum("nji,nj->ni", pose[:, :3, :3], offset), cameras.K)
    np.testing.assert_allclose(px, cameras.obs_px[middle], atol=0.05)
    # The people's distance from the first camera grows with the focal length, and so does the camera's way back.
    true = view().clip.truth.cameras.world_from_cam
    back = np.linalg.inv(cameras.world_from_cam[0]) @ cameras.world_from_cam[-1]
    assert np.linalg.norm(back[:3, 3] - (np.linalg.inv(true[0]) @ true[-1])[:3, 3]) < 0.5


def test_drift_adds_up() -> None:
    truth = view().clip.truth.cameras.world_from_cam
    poses = degraded_problem(view(), Degradation(drift_rot=0.05)).cameras.world_from_cam
    true = np.linalg.inv(truth[0]) @ truth
    angle = np.arccos(
        ((np.trace(np.swapaxes(true[:, :3, :3], 1, 2) @ poses[:, :3, :3], axis1=1, axis2=2) - 1) / 2).clip(-1, 1)
    )
    assert angle[0] < 1e-6
    assert angle[-10:].mean() > 2 * angle[1:6].mean()
    scaled = degraded_problem(view(), Degradation(drift_scale=0.1)).cameras.world_from_cam
    steps = np.linalg.norm(np.diff(scaled[:, :3, 3], axis=0), axis=-1) / np.linalg.norm(
        np.diff(true[:, :3, 3], axis=0), axis=-1
    )
    assert np.abs(np.log(steps[1:] / steps[:-1])).max() < 0.1  # the scale walks, it does not jump
    assert np.ptp(np.log(steps)) > 0.02


def test_a_fixed_camera_stays_whatever_drifts() -> None:
    fixed = exact_view(make_clip(ClipSpec(id="fixed", frames=12, seed=4, size=[160, 96], camera="static", objects=3)))
    cameras = degraded_problem(
        fixed, Degradation(cameras="static", drift_rot=0.1, focal=1.2, camera_pos_sd=0.1)
    ).cameras
    assert np.array_equal(cameras.world_from_cam, np.tile(np.eye(4), (12, 1, 1)))
    assert len(cameras.points) == len(cameras.obs_frame) == 0
    turning = degraded_problem(view(), Degradation(cameras="static")).cameras.world_from_cam
    true = view().clip.truth.cameras.world_from_cam
    np.testing.assert_allclose(turning[:, :3, :3], true[0, :3, :3].T @ true[:, :3, :3], atol=1e-9)
    assert not turning[:, :3, 3].any()


def test_a_lost_track_is_filled_as_the_bodies_stage_fills_it() -> None:
    problem = degraded_problem(view(2), Degradation(lost_frames=20, pose_sd=0.05))
    span = lost_span(60, Degradation(lost_frames=20))
    assert (span.start, span.stop) == (20, 40)
    assert not problem.bodies.present[span, 0].any()
    assert problem.bodies.present[:20, 0].all()
    assert not problem.people.keypoint_score[span, 0].any()
    assert not problem.contacts.prob[span, 0].any()
    pelvis = problem.bodies.cam_from_body[:, 0, :3, 3]
    line = pelvis[19] + (pelvis[40] - pelvis[19]) * (np.arange(20, 40)[:, None] - 19) / 21
    np.testing.assert_allclose(pelvis[span], line, atol=1e-9)
    assert np.isfinite(problem.bodies.body_rot).all()


def test_who_stands_behind_somebody_is_not_seen() -> None:
    seen = view(2)
    hidden = ~seen.keypoint_seen
    inside = ((seen.keypoints_px >= 0) & (seen.keypoints_px < seen.clip.truth.cameras.size)).all(-1)
    depth = seen.clip.truth.motion.cam_from_body[..., 2, 3]
    for frame, person, _ in np.argwhere(hidden & inside):
        assert depth[frame, person] > depth[frame].min() - 0.5  # the front one hides the other, never the reverse
    assert 0.9 < seen.keypoint_seen.mean() <= 1


@pytest.mark.parametrize("knobs", [{"outliers": 1.5}, {"focal": 0.0}, {"standing": 0.7, "slow": 0.6}])
def test_impossible_knobs(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="degradation"):
        Degradation(**knobs)


# --- the track and its cases -----------------------------------------------------------------------------


def test_usual_errors_belong_to_the_clip() -> None:
    specs = collection("demo")
    drawn = [usual_errors(spec) for spec in specs]
    assert drawn == [usual_errors(spec) for spec in specs]
    assert len({d.unit for d in drawn if d.cameras == "sfm"}) == sum(d.cameras == "sfm" for d in drawn)
    assert {d.cameras for d in drawn} == {"sfm", "static"}
    pan = usual_errors(ClipSpec(id="pan", camera="pan"))
    assert (pan.cameras, pan.unit) == ("static", 1.0)
    assert abs(np.log(pan.focal)) < 0.1
    strains = [strained_errors(specs[0], 0, draw).pose_sd for draw in range(40)]
    assert max(strains) / min(strains) > 4


def test_cases_change_what_they_say() -> None:
    names = [case.name for cases in (term_cases(), robustness_cases(), quality_cases(3)) for case in cases]
    assert len(set(names)) == len(names)
    assert set(BODY_BLOCKS) <= set(BLOCKS)
    knobs = {f.name for f in fields(Degradation)}
    for case in term_cases() + robustness_cases():
        assert set(case.errors) <= knobs
        config = changed(OptimiseConfig(), case.changes)
        assert (config != OptimiseConfig()) == bool(case.changes)
    for case in josh_cases():
        weights = asdict(changed(OptimiseConfig(), case.changes).weights)
        assert {name for name, weight in weights.items() if weight > 0} <= set(JOSH_TERMS)
        assert case.errors == {"metric": True}


def test_every_term_that_is_on_has_a_row_without_it_or_is_a_tie() -> None:
    off = {name for case in term_cases() if not case.name.startswith("josh") for name in case.changes}
    ties = {"scene_3d", "scale_tie", "scale_prior", "focal_prior"}  # of stage 1, or priors that keep the gauge
    on = {name for name, weight in asdict(TermWeights()).items() if weight > 0}
    assert {f"weights.{name}" for name in on - ties} <= off


def test_a_change_that_is_no_field_is_an_error() -> None:
    with pytest.raises(KeyError, match="smoth"):
        changed(OptimiseConfig(), {"weights.smoth": 0.0})
    with pytest.raises(ValueError, match="0 or more"):
        changed(OptimiseConfig(), {"weights.smooth": -1.0})


# --- scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "limb"), [("clap", (20, 21)), ("kick", (8,))])
def test_fast_movements_are_fast_and_their_peak_is_measured(kind: Any, limb: tuple[int, ...]) -> None:
    still = make_clip(ClipSpec(id="stand", frames=60, seed=4, motion="stand", objects=4))
    clip = with_fast(still, kind)
    speed = _speed(clip)[:, limb].max()
    assert speed > 2.5
    assert speed > 2 * _speed(still)[:, limb].max()
    if kind == "kick":
        assert clip.truth.motion.contact_prob[:, 0, :2].mean() == still.truth.motion.contact_prob[:, 0, :2].mean()
        assert clip.truth.motion.contact_prob[:, 0, 2:4].mean() < still.truth.motion.contact_prob[:, 0, 2:4].mean()
    assert peak_ratio(clip.truth, clip.truth, 0, 0) == 1
    joints = clip.truth.motion.joints_cam.copy()
    joints[3:-3] = sum(joints[3 + k : len(joints) - 3 + k] for k in range(-3, 4)) / 7
    smoothed = replace(clip.truth, motion=replace(clip.truth.motion, joints_cam=joints))
    lowered = peak_ratio(clip.truth, smoothed, 0, 0)
    assert lowered is not None
    assert lowered < 0.85
    assert peak_ratio(still.truth, still.truth, 0, 0) is None  # nothing fast, nothing to say


def _speed(clip: SyntheticClip) -> np.ndarray:
    joints = clip.truth.motion.joints_cam[:, 0] - clip.truth.motion.joints_cam[:, 0, :1]
    return np.asarray(np.linalg.norm(np.diff(joints, axis=0), axis=-1) * clip.spec.fps)


def test_the_initial_state_as_given_and_after_the_first_estimate() -> None:
    problem = degraded_problem(view(), Degradation(unit=3.0))
    results, _ = initial_results(problem, make_evidence(problem, QUICK), QUICK)
    truth = view().clip.truth
    given, before = (clip_values(truth, results[name]) for name in ("given", "before"))
    assert given["pa_mpjpe_mm"] < 0.1
    assert before["ate_m"] < 0.1 * given["ate_m"]
    way = [float(np.linalg.norm(np.ptp(r.cameras.world_from_cam[:, :3, 3], axis=0))) for r in (results["given"], truth)]
    assert way[0] / way[1] == pytest.approx(3, rel=0.2)


def test_what_became_of_a_lost_track() -> None:
    truth = view().clip.truth
    span = slice(20, 40)
    exact = gap_values(truth, truth, span)
    assert (exact["gap_recall"], exact["gap_doubt"]) == (1.0, 1.0)
    assert exact["gap_error_mm"] == pytest.approx(0, abs=1e-6)
    motion = replace(truth.motion, present=truth.motion.present.copy(), confidence=truth.motion.confidence.copy())
    motion.confidence[span, 0] = 0.25
    motion.present[30:40, 0] = False
    found = gap_values(truth, replace(truth, motion=motion), span)
    assert (found["gap_recall"], found["gap_doubt"]) == (0.5, 4.0)
    motion.present[span, 0] = False
    assert gap_values(truth, replace(truth, motion=motion), span)["gap_error_mm"] is None


# --- tables ----------------------------------------------------------------------------------------------


def rows_by_hand() -> dict[str, Any]:
    def row(w: float, **more: float) -> dict[str, Any]:
        return {"values": {"w_mpjpe_mm": w, **more}, "seconds": 1.0}

    return {
        "usual": {"a": row(100.0), "b": row(200.0), "c": row(300.0)},
        "outliers": {"a": row(110.0), "b": row(260.0), "c": {"failed": "it diverged"}},
    }


def test_medians_and_pairs_by_hand() -> None:
    rows = rows_by_hand()
    assert report.medians(rows["usual"]) == {"w_mpjpe_mm": 200.0}
    assert report.medians(rows["outliers"]) == {"w_mpjpe_mm": 185.0}
    assert report.paired(rows, "outliers", "usual", "w_mpjpe_mm") == 1.2  # of 1.1 and 1.3
    assert report.paired(rows, "nothing", "usual", "w_mpjpe_mm") is None
    assert report.failures(rows) == ["* outliers, c: it diverged"]
    assert report.seconds(rows) == 5.0


def test_checks_say_whether_a_promise_holds() -> None:
    met = {
        c.about: c.met for c in report.robustness_checks(rows_by_hand()) if c.about.startswith("W-MPJPE, 30 % outlier")
    }
    assert list(met.values()) == [True]
    assert not report.Check(about="", measured=None, target=1.0).met
    assert report.Check(about="", measured=4.0, target=4.0, at_least=False).met
    assert "| not met |" in report.check_table([report.Check(about="x", measured=1.0, target=2.0)])[-1]


def test_a_line_through_times_by_hand() -> None:
    fit = linear_fit([100, 200, 400], [2.0, 3.0, 5.0])
    assert (fit["seconds_per_frame"], fit["seconds_at_0"], fit["r_squared"]) == (0.01, 1.0, 1.0)
    assert linear_fit([100, 200, 400], [1.0, 4.0, 16.0])["exponent"] == 2.0
    with pytest.raises(FootfallError, match="two different"):
        linear_fit([100, 100], [1.0, 1.0])
    pair = {"second_order": {"seconds": 1.0, "w_mpjpe_mm": 90.0}, "adam": {"seconds": 6.0, "w_mpjpe_mm": 100.0}}
    lengths = [{"frames": 100, "seconds": 4.0}, {"frames": 200, "seconds": 8.0}]
    found = summary([pair], lengths)
    assert (found["times_quicker_than_adam"], found["w_mpjpe_over_adams"]) == (6.0, 0.9)
    assert found["frames_per_second_per_person"] == 25.0


# --- runs ------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cases = [Case(name="full", about=""), Case(name="still", about="", changes={"weights.contact_align": 0.0})]
    first = run_cases([TINY], cases[:1], QUICK, tmp_path, workers=1)
    row = tmp_path / "rows" / "full" / "tiny.json"
    written = row.stat().st_mtime_ns
    both = run_cases([TINY], cases, QUICK, tmp_path, workers=1)
    assert row.stat().st_mtime_ns == written
    assert both["full"] == first["full"]
    assert both["still"]["tiny"]["values"]["w_mpjpe_mm"] > 0
    other = replace(QUICK, stage2_steps=4)
    assert (
        run_cases([TINY], cases[:1], other, tmp_path, workers=1)["full"]["tiny"]["made_from"]
        != (first["full"]["tiny"]["made_from"])
    )
    row.write_text("{ half a row", encoding="utf-8")
    again = run_cases([TINY], cases[:1], QUICK, tmp_path, workers=1)["full"]["tiny"]
    assert again["values"] == first["full"]["tiny"]["values"]


def test_a_solve_that_fails_is_a_row_with_the_reason(tmp_path: Path) -> None:
    wild = Case(name="wild", about="", changes={"rates.root_depth": 30.0, "rates.pose": 30.0, "stage1_steps": 12})
    row = run_cases([TINY], [wild], QUICK, tmp_path, workers=1)["wild"]["tiny"]
    assert "diverging objective" in row["failed"]
    assert "values" not in row


def test_the_command_writes_a_table_with_provenance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "terms.json"
    settings = ["optimise.solver=adam", "optimise.stage1_steps=2", "optimise.stage2_steps=2", "workers=1"]
    words = ["evaluate", "--ablation", "--data", "debug", "--out", str(out), "cases=[full,no_contact]", *settings]
    assert main(words) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["format"] == "footfall-benchmark/1"
    assert {"commit", "versions", "hardware", "python"} <= set(content["provenance"])
    assert content["config"]["optimise"]["stage1_steps"] == 2
    assert [row["about"] for row in content["table_rows"]][:4] == [
        "initial state, as given", "initial state, first estimate of the scale", "full", "- every contact term",
    ]  # fmt: skip
    published = {row["about"]: row["medians"] for row in content["table_rows"] if row["about"].startswith("published")}
    assert published["published: JOSH on SLOPER4D, - L_c1"]["ffr_percent"] == 92.9
    assert "| full |" in out.with_suffix(".md").read_text(encoding="utf-8")
    assert "initial state" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ablation", "--data", "nothing"], "no such set"),
        (["--ablation", "--data", "debug", "table=speed"], "table"),
        (["--ablation", "--data", "debug", "clips=[walk]"], "no such name"),
        (["--ablation", "--data", "debug", "cases=[best]"], "no such name"),
        (["labels", "--ablation", "--data", "debug"], "solve the clips themselves"),
        (["--data", "debug"], "nothing to score"),
    ],
)
def test_wrong_words(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *words, "--out", str(tmp_path / "x.json")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of terms"):
        BenchmarkConfig(table="x")
    with pytest.raises(ValueError, match="two lengths"):
        BenchConfig(frames=[100])
    with pytest.raises(FootfallError, match=r"no ID/spec\.yaml"):
        clips_of(str(tmp_path))
    assert chosen(["aa", "ab", "b"], ["a*"], str, "clips") == ["aa", "ab"]
    with pytest.raises(FootfallError, match="no such set"):
        make_table("nothing", BenchmarkConfig(), tmp_path / "x.json")


def test_the_bench_prints_a_row_with_hardware_and_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    quick = ["optimise.stage1_steps=2", "optimise.stage2_steps=2", "optimise.levenberg.stage1_steps=1"]
    words = ["data=debug", "frames=[12,24]", "repeats=1", f"out={out}", "optimise.levenberg.stage2_steps=1", *quick]
    assert main(["bench", "teacher", *words]) == 0
    row = json.loads(out.read_text(encoding="utf-8"))
    assert (row["format"], row["name"]) == ("footfall-bench/1", "teacher")
    assert [length["frames"] for length in row["lengths"]] == [12, 24]
    assert set(row["solvers"][0]["adam"]) == {"seconds", "cpu_seconds", "w_mpjpe_mm", "wa_mpjpe_mm", "ate_m"}
    assert row["summary"]["times_quicker_than_adam"] > 0
    shown = capsys.readouterr().out
    assert row["provenance"]["hardware"]["cpu"] in shown
    assert row["provenance"]["commit"] in shown
    assert main(["bench", "teacher", "data=debug", "out=x.txt"]) == 2
    assert main(["bench", "nothing"]) == 2
