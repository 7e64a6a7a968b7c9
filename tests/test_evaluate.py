"""`footfall evaluate`: what is matched, what is missed, what the report says, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.errors import FootfallError
from distill.evaluate import TABLE, EvaluateConfig, evaluate, markdown_table, write_report
from distill.metrics.clip_scores import score_clip
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.results import Result, load_result, save_result
from distill.synthetic.spec import ClipSpec
from distill.synthetic.world import make_clip
from teacher.cli import main

FRAMES = 40
PER_FRAME = ("present", "body_rot", "cam_from_body", "joints_cam", "contact_prob", "confidence")


def truth_of(people: int, camera: Any = "walk", seed: int = 1) -> Result:
    """A synthetic truth with a flat scene below it."""
    truth = make_clip(ClipSpec(id="clip", frames=FRAMES, people=people, camera=camera, seed=seed)).truth
    rng = np.random.default_rng(0)
    ground = rng.uniform(-6, 6, (4000, 3)).astype(np.float32)
    ground[:, 2] = 0
    return replace(truth, scene_points=ground, scene_rgb=np.zeros((4000, 3), np.uint8))


@pytest.fixture(scope="module")
def truth() -> Result:
    return truth_of(people=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, truth: Result) -> Path:
    """Two clips with truth: "pair" and "alone"."""
    folder = tmp_path_factory.mktemp("data")
    save_result(folder / "pair" / "truth", truth)
    save_result(folder / "alone" / "truth", truth_of(people=1, camera="static", seed=2))
    (folder / "manifest.jsonl").write_text('{"id": "pair", "path": "pair/video.mp4"}\n', encoding="utf-8")
    return folder


def predict(data: Path, out: Path, change: Callable[[Result], None] = lambda r: None, *ids: str) -> Path:
    """Results that are the truth after `change`."""
    for clip_id in ids or ("pair", "alone"):
        result = copy.deepcopy(load_result(data / clip_id / "truth"))
        change(result)
        save_result(out / clip_id, result)
    return out


def keep(result: Result, frames: Any) -> None:
    """Keep some frames only."""
    for name in PER_FRAME:
        setattr(result.motion, name, getattr(result.motion, name)[frames])
    for name in ("timestamps", "world_from_cam", "valid"):
        setattr(result.cameras, name, getattr(result.cameras, name)[frames])


def reorder(result: Result, people: list[int]) -> None:
    """Take people in another order, or some of them only."""
    for name in PER_FRAME:
        setattr(result.motion, name, getattr(result.motion, name)[:, people])
    for name in ("betas", "stature", "ids"):
        setattr(result.motion, name, getattr(result.motion, name)[people])


def enlarge(result: Result, factor: float) -> None:
    """People farther away, and the camera's path larger, by a factor."""
    roots = result.motion.cam_from_body[..., :3, 3]
    result.motion.joints_cam = result.motion.joints_cam + ((factor - 1) * roots)[..., None, :]
    result.motion.cam_from_body[..., :3, 3] *= factor
    result.cameras.world_from_cam[:, :3, 3] *= factor


def test_the_truth_scores_itself_perfectly(data: Path, tmp_path: Path) -> None:
    report = evaluate(predict(data, tmp_path / "same"), data)
    overall = report["overall"]
    for metric in ("w_mpjpe_mm", "wa_mpjpe_mm", "mpjpe_mm", "rte_percent", "ate_m", "stature_error_cm", "rpe_m"):
        assert overall[metric] == pytest.approx(0, abs=1e-3), metric
    assert overall["contact_f1"] == 1 and overall["person_recall"] == 1 and overall["ffr_percent"] == 0
    assert overall["foot_sliding_mm"] < 2 and overall["slip_cm_s"] < 5 and overall["foot_gap_cm"] < 1
    assert overall["jitter"] == pytest.approx(overall["jitter_of_truth"], rel=1e-3)
    assert overall["clips_evaluated"] == overall["clips"] == 2
    static = next(clip for clip in report["clips"] if clip["id"] == "alone")
    assert "ate_sim3_m" in static["undefined"] and static["values"]["ate_m"] == pytest.approx(0, abs=1e-6)


def test_people_are_matched_whatever_their_order(truth: Result) -> None:
    swapped = copy.deepcopy(truth)
    reorder(swapped, [1, 0])
    scores = score_clip(truth, swapped)
    assert [match.predicted for match, _ in scores.people] == [1, 0]
    assert scores.extra_person_frames == 0
    assert all(person.means()["mpjpe_mm"] < 1e-3 for _, person in scores.people)


def test_a_missed_person_lowers_recall_and_is_listed(data: Path, tmp_path: Path) -> None:
    report = evaluate(predict(data, tmp_path, lambda r: reorder(r, [1]), "pair"), data / "manifest.jsonl")
    people = report["clips"][0]["people"]
    assert [person["status"] for person in people] == ["missed", "evaluated"]
    assert people[0]["frames"] == FRAMES and people[0]["frames_found"] == 0 and people[0]["values"] == {}
    assert report["overall"]["person_recall"] == 0.5
    assert report["overall"]["mpjpe_mm"] < 1e-3  # of who was found


def test_a_missed_clip_lowers_recall_and_is_listed(data: Path, tmp_path: Path) -> None:
    report = evaluate(predict(data, tmp_path, lambda r: None, "pair"), data)
    alone = next(clip for clip in report["clips"] if clip["id"] == "alone")
    assert alone["status"] == "missed" and alone["reason"] == "no prediction"
    assert report["overall"]["person_recall"] == pytest.approx(2 / 3)
    assert report["overall"]["clips_evaluated"] == 1
    assert "| alone | missed |" in markdown_table(report)


def test_invented_people_are_counted(data: Path, tmp_path: Path) -> None:
    def invent(result: Result) -> None:
        reorder(result, [0, 1, 1])
        result.motion.ids = np.array([0, 1, 2])
        result.motion.joints_cam[:, 2] += (0, 50, 0)  # far below the picture

    report = evaluate(predict(data, tmp_path, invent, "pair"), data / "manifest.jsonl")
    assert report["overall"]["person_recall"] == 1 and report["overall"]["extra_person_frames"] == FRAMES


def test_half_the_frames_are_matched_by_time(data: Path, tmp_path: Path) -> None:
    predictions = predict(data, tmp_path, lambda r: keep(r, slice(None, None, 2)), "pair")
    report = evaluate(predictions, data / "manifest.jsonl")
    clip = report["clips"][0]
    assert clip["frames"] == FRAMES and clip["frames_shared"] == FRAMES // 2
    assert clip["values"]["person_recall"] == 0.5 and clip["values"]["mpjpe_mm"] < 1e-3
    assert "jitter" in clip["people"][0]["undefined"]  # no four successive frames


def test_no_common_frame_is_a_missed_clip(data: Path, tmp_path: Path) -> None:
    def late(result: Result) -> None:
        result.cameras.timestamps = result.cameras.timestamps + 1000

    predictions = predict(data, tmp_path, late, "pair")
    predict(data, tmp_path, lambda r: None, "alone")
    report = evaluate(predictions, data)
    assert {clip["id"]: clip["status"] for clip in report["clips"]} == {"alone": "evaluated", "pair": "missed"}


def test_a_larger_world_is_seen_as_such(data: Path, tmp_path: Path) -> None:
    overall = evaluate(predict(data, tmp_path, lambda r: enlarge(r, 1.2), "pair"), data / "manifest.jsonl")["overall"]
    assert overall["world_size_percent"] == pytest.approx(20, abs=4)
    assert overall["ate_m"] > 0.02 and overall["ate_sim3_m"] < 1e-3
    assert overall["mpjpe_mm"] < 1e-3 < overall["metric_mpjpe_mm"]
    assert overall["rte_percent"] > 2


def test_a_body_above_the_ground_floats(data: Path, tmp_path: Path) -> None:
    def lift(result: Result) -> None:
        result.scene_points[:, 2] -= 0.4

    overall = evaluate(predict(data, tmp_path, lift, "pair"), data / "manifest.jsonl")["overall"]
    assert overall["ffr_percent"] == 100 and overall["foot_gap_cm"] == pytest.approx(40, abs=3)
    assert overall["penetration_cm"] == 0


def test_without_scene_or_vertical_the_reason_is_given(data: Path, tmp_path: Path) -> None:
    def strip(result: Result) -> None:
        result.scene_points, result.scene_rgb = result.scene_points[:0], result.scene_rgb[:0]
        result.meta["world"] = "first_camera"

    report = evaluate(predict(data, tmp_path, strip, "pair"), data / "manifest.jsonl")
    reasons = report["clips"][0]["people"][0]["undefined"]
    assert "scene" in reasons["ffr_percent"] and "vertical" in reasons["foot_gap_cm"]
    assert "ffr_percent" not in report["overall"]


def test_somebody_who_stands_has_no_path_to_be_judged_by(truth: Result) -> None:
    standing = copy.deepcopy(truth)
    standing.cameras.world_from_cam[:] = standing.cameras.world_from_cam[:1]
    standing.motion.cam_from_body[:] = standing.motion.cam_from_body[:1]
    standing.motion.joints_cam[:] = standing.motion.joints_cam[:1]
    for _, person in score_clip(standing, standing).people:
        assert "only 0.00 m long" in person.undefined["rte_percent"] and "w_mpjpe_mm" in person.samples


def test_a_licensed_body_without_its_file_leaves_foot_metrics_out(data: Path, tmp_path: Path) -> None:
    def rename(result: Result) -> None:
        result.motion.body_model = "smpl"

    report = evaluate(predict(data, tmp_path, rename, "pair"), data / "manifest.jsonl")
    assert "smpl" in report["clips"][0]["people"][0]["undefined"]["foot_sliding_mm"]
    assert report["overall"]["mpjpe_mm"] < 1e-3  # joints need no body model


def test_long_clips_weigh_more_in_people_and_the_same_in_cameras(data: Path, tmp_path: Path) -> None:
    def shift(result: Result) -> None:
        if result.motion.present.shape[1] == 1:
            result.motion.joints_cam[:, :, 15] += (0, 0, 0.24)  # one joint of 24 by 240 mm: 10 mm

    report = evaluate(predict(data, tmp_path, shift), data)
    assert report["overall"]["mpjpe_mm"] == pytest.approx(10 / 3, rel=1e-3)  # one of three person-clips


def test_the_report_is_written_whole(data: Path, tmp_path: Path) -> None:
    report = evaluate(predict(data, tmp_path / "p"), data, provenance={"commit": "abc"})
    markdown = write_report(tmp_path / "out" / "report.json", report)
    stored = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(report)) and stored["provenance"]["commit"] == "abc"
    assert stored["format"] == "footfall-report/1" and stored["protocol"]["protocol"] == "footfall"
    text = markdown.read_text(encoding="utf-8")
    assert all(title in text for title in TABLE.values()) and "| **all** |" in text and "abc" in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]


def test_every_shape_of_predictions_is_found(data: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for clip_id in ("pair", "alone"):
        save_result(labels / "clips" / clip_id / "joint", load_result(data / clip_id / "truth"))
    (labels / "clips" / "unsolved").mkdir()
    assert evaluate(labels, data)["overall"]["clips_evaluated"] == 2
    single = predict(data, tmp_path / "single", lambda r: None, "alone") / "alone"
    report = evaluate(single, data / "alone")
    assert report["overall"]["clips"] == 1 and report["clips"][0]["status"] == "evaluated"
    renamed = single.rename(tmp_path / "what")
    load = load_result(renamed)
    load.meta.pop("clip", None)
    save_result(renamed, load)
    assert evaluate(renamed, data / "alone")["overall"]["clips_evaluated"] == 1  # one clip on both sides


def test_a_prediction_without_truth_is_named(data: Path, tmp_path: Path) -> None:
    predictions = predict(data, tmp_path)
    assert evaluate(predictions, data / "manifest.jsonl")["unknown_predictions"] == ["alone"]


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = predict(data, tmp_path / "p", lambda r: None, "pair")
    out = tmp_path / "report.json"
    assert main(["evaluate", str(predictions), "--data", str(data), "--out", str(out), "segment=20"]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["protocol"]["segment"] == 20 and report["provenance"]["commit"]
    assert "| pair |" in capsys.readouterr().out


def test_a_checkpoint_streams_every_clip_first(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = []

    def run_video(video: Path, checkpoint: str, out: Path, config: object) -> dict[str, int]:
        streamed.append((video.parent.name, checkpoint))
        save_result(out, load_result(video.parent / "truth"))
        return {"frames": FRAMES}

    monkeypatch.setattr("teacher.run_video.run_video", run_video)  # streaming has tests of its own
    checkpoint = tmp_path / "student"
    Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))).save_pretrained(checkpoint)
    out = tmp_path / "report.json"
    assert main(["evaluate", str(checkpoint), "--data", str(data), "--out", str(out)]) == 0
    assert streamed == [("alone", str(checkpoint)), ("pair", str(checkpoint))]
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["overall"]["clips_evaluated"] == 2 and report["provenance"]["evaluated"] == str(checkpoint)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{p}", "--data", "{nowhere}", "--out", "{o}"], "no such folder"),
        (["{nowhere}", "--data", "{d}", "--out", "{o}"], "no such folder"),
        (["{empty}", "--data", "{d}", "--out", "{o}"], "no result"),
        (["{p}", "--data", "{empty}", "--out", "{o}"], "truth"),
        (["{p}", "--data", "{text}", "--out", "{o}"], "manifest"),
        (["{p}", "--data", "{d}", "--out", "{o}.txt"], ".json"),
        (["{p}", "--data", "{d}", "--out", "{o}", "protocol=mine"], "protocol"),
        (["{p}", "--data", "{d}", "--out", "{o}", "segment=1"], "segment"),
        (["{p}", "--data", "{d}", "--out", "{o}", "segments=20"], "segments"),
        (["{broken}", "--data", "{d}", "--out", "{o}"], "motion.npz"),
        (["{other}", "--data", "{d}", "--out", "{o}"], "some of"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], named: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = predict(data, tmp_path / "p", lambda r: None, "pair")
    broken = predict(data, tmp_path / "broken", lambda r: None, "pair")
    (broken / "pair" / "motion.npz").write_bytes(b"half")
    other = tmp_path / "other"
    predict(data, other, lambda r: None, "pair")
    (other / "pair").rename(other / "elsewhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jsonl").write_text("not json\n", encoding="utf-8")
    places = {
        "p": predictions, "d": data, "o": tmp_path / "report.json", "nowhere": tmp_path / "nowhere",
        "empty": tmp_path / "empty", "text": tmp_path / "text.jsonl", "broken": broken, "other": other,
    }  # fmt: skip
    assert main(["evaluate", *(word.format(**places) for word in arguments)]) == 2
    message = capsys.readouterr().err
    assert named in message and message.count("\n") == 1
    assert not list(tmp_path.glob("report*"))


def test_a_config_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="protocol"):
        EvaluateConfig(protocol="mine")
    with pytest.raises(ValueError, match="contact_threshold"):
        EvaluateConfig(contact_threshold=1.0)


def test_truth_without_its_folder_is_refused(data: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"id": "pair"}\n', encoding="utf-8")
    with pytest.raises(FootfallError, match="no truth"):
        evaluate(predict(data, tmp_path / "p"), manifest)
