"""The student: people are a set, padding is nothing, the backbone stays outside, folders load back, it can learn."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.files import sha256_of
from distill.geometry.cameras import project
from distill.geometry.rotations import rotation_angle
from distill.models.prediction import PairPrediction
from distill.models.pretrained import save_student
from distill.models.rays import PRIOR_HEIGHT_M, box_rays, place_body, rays_of_pixels, token_rays, turn_to_ray
from distill.models.sampling import sample_boxes
from distill.models.student import Student, StudentConfig
from distill.models.trajectory_head import LOG_VAR_FLOOR, log_var_from_raw
from distill.models.trunk import HeadConfig
from distill.task import LossConfig, StudentTask
from tests.conftest import TOLERANCES
from tests.student_support import make_batch, make_prompts, one_thread, wake  # noqa: F401 (a fixture)

SMALL = StudentConfig(head=HeadConfig(width=48, layers=2, attention_heads=2))


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(5)
    return wake(Student(SMALL))


def of_people(prediction: PairPrediction) -> dict[str, Tensor]:
    """The fields with one row per person."""
    values = {f.name: getattr(prediction, f.name) for f in fields(prediction)}
    per_scene = ("cam_a_from_cam_b", "camera_log_var", "log_scene_scale", "points_a", "conf_a")
    return {name: value for name, value in values.items() if name not in per_scene}


@torch.no_grad()
def test_order_of_people_is_carried_through(student: Student) -> None:
    tokens, people = student.encode(torch.rand(2, 3, 64, 96)), make_prompts(4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = replace(people, boxes=people.boxes[:, order], valid=people.valid[:, order])
    first, second = (student.pair(tokens[:1], tokens[1:], p) for p in (people, shuffled))
    for name, value in of_people(first).items():
        torch.testing.assert_close(value[:, order], of_people(second)[name], **TOLERANCES[torch.float32])
    torch.testing.assert_close(first.cam_a_from_cam_b, second.cam_a_from_cam_b, **TOLERANCES[torch.float32])


@torch.no_grad()
@pytest.mark.parametrize("garbage", [0.0, -1e4, 1e4])
def test_padding_changes_nothing_and_stays_finite(student: Student, garbage: float) -> None:
    tokens, people = student.encode(torch.rand(2, 3, 64, 96)), make_prompts(2)
    padding = torch.full((1, 3, 2, 4), garbage)
    padded = replace(
        people,
        boxes=torch.cat((people.boxes, padding), dim=1),
        valid=torch.cat((people.valid, padding[..., 0] > 1e9), 1),
    )
    without, with_padding = (student.pair(tokens[:1], tokens[1:], p) for p in (people, padded))
    for name, value in of_people(without).items():
        torch.testing.assert_close(of_people(with_padding)[name][:, :2], value, **TOLERANCES[torch.float32])
        assert of_people(with_padding)[name].isfinite().all()
    torch.testing.assert_close(with_padding.cam_a_from_cam_b, without.cam_a_from_cam_b, **TOLERANCES[torch.float32])


@torch.no_grad()
def test_no_people_at_all_still_gives_the_camera(student: Student) -> None:
    tokens = student.encode(torch.rand(2, 3, 64, 96))
    prediction = student.pair(tokens[:1], tokens[1:], make_prompts(0))
    assert prediction.cam_from_body_a.shape == (1, 0, 4, 4)
    assert prediction.cam_a_from_cam_b.isfinite().all()


@torch.no_grad()
def test_person_seen_once_ignores_the_other_frames_box(student: Student) -> None:
    tokens, people = student.encode(torch.rand(2, 3, 64, 96)), make_prompts(1)
    people.valid[0, 0, 1] = False
    other = replace(people, boxes=people.boxes.clone())
    other.boxes[0, 0, 1] += 17
    first, second = (student.pair(tokens[:1], tokens[1:], p) for p in (people, other))
    torch.testing.assert_close(first.cam_from_body_a, second.cam_from_body_a, **TOLERANCES[torch.float32])
    torch.testing.assert_close(first.betas, second.betas, **TOLERANCES[torch.float32])


@torch.no_grad()
def test_predictions_are_rigid_and_in_front_of_the_camera(student: Student) -> None:
    tokens, people = student.encode(torch.rand(4, 3, 64, 96)), make_prompts(3, batch=2)
    prediction = student.pair(tokens[:2], tokens[2:], people, points=True)
    rotations = (prediction.cam_from_body_a, prediction.body_a_from_body_b, prediction.cam_a_from_cam_b)
    for rotation in (*(t[..., :3, :3] for t in rotations), prediction.body_rot_b):
        eye = torch.eye(3).expand_as(rotation)
        torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), eye, **TOLERANCES[torch.float32])
        assert (torch.linalg.det(rotation) > 0.99).all()
    assert (prediction.cam_from_body_b[..., 2, 3] > 0).all()
    assert (prediction.root_log_var_a >= LOG_VAR_FLOOR).all()
    assert prediction.points_a is not None and prediction.points_a.shape == (2, 64, 96, 3)
    assert prediction.betas.shape == (2, 3, 10) and prediction.contact_logit_a.shape == (2, 3, 6)


@torch.no_grad()
def test_fresh_student_sees_people_stand_where_their_boxes_are() -> None:
    fresh, people = Student(SMALL).eval(), make_prompts(3)
    tokens = fresh.encode(torch.rand(2, 3, 64, 96))
    prediction = fresh.pair(tokens[:1], tokens[1:], people)
    pixel = project(prediction.cam_from_body_a[..., :3, 3], people.K[:, 0])
    centre = (people.boxes[:, :, 0, :2] + people.boxes[:, :, 0, 2:]) / 2
    torch.testing.assert_close(pixel, centre, rtol=1e-4, atol=1e-3)  # float32 pixels of about 50
    assert torch.equal(prediction.body_rot_a, torch.eye(3).expand(1, 3, 23, 3, 3))
    torch.testing.assert_close(prediction.cam_a_from_cam_b, torch.eye(4)[None])


def test_boxes_are_sampled_with_edges_included_and_borders_repeated() -> None:
    # A map that holds its own coordinates: column in channel 0, row in channel 1, over an image of 8 x 4 cells.
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
    maps = torch.stack((column, row))[None]
    boxes = torch.tensor([[[16.0, 16.0, 80.0, 48.0], [-500.0, 0.0, 500.0, 64.0]]])  # cells are 16 pixels
    sampled = sample_boxes(maps, boxes, (128, 64), 3)
    assert sampled.shape == (1, 2, 9, 2)
    # Pixel x lies at column x / 16 - 1/2; the outer points are the box's edges, rows are outermost.
    torch.testing.assert_close(sampled[0, 0, :, 0], torch.tensor([0.5, 2.5, 4.5]).repeat(3))
    torch.testing.assert_close(sampled[0, 0, :, 1], torch.tensor([0.5, 1.5, 2.5]).repeat_interleave(3))
    torch.testing.assert_close(sampled[0, 1, :3, 0], torch.tensor([0.0, 0.0, 7.0]))


def test_body_is_placed_by_hand() -> None:
    # Box 100 pixels high at focal length 200: 0.5 on the plane z = 1, so the prior depth is 2 * PRIOR_HEIGHT_M.
    K = torch.tensor([[[200.0, 0, 50], [0, 200.0, 50], [0, 0, 1]]], dtype=torch.float64)
    boxes = torch.tensor([[[30.0, 0.0, 70.0, 100.0]]], dtype=torch.float64)
    offset = torch.tensor([[[0.5, 0.0]]], dtype=torch.float64)  # half a box (0.1) to the right
    placed = place_body(torch.eye(3, dtype=torch.float64).expand(1, 1, 3, 3), offset, torch.zeros(1, 1), boxes, K)
    depth = 2 * PRIOR_HEIGHT_M
    wanted = torch.tensor([0.1 * depth, 0.0, depth], dtype=torch.float64)
    torch.testing.assert_close(placed[0, 0, :3, 3], wanted)
    axis = placed[0, 0, :3, 2]  # the body's z axis lies along its ray
    torch.testing.assert_close(axis, wanted / wanted.norm())


def test_turn_to_ray_is_the_smallest_rotation() -> None:
    rays = torch.randn(50, 2, dtype=torch.float64) * 2
    rotation = turn_to_ray(rays)
    direction = torch.nn.functional.normalize(torch.cat((rays, torch.ones(50, 1, dtype=torch.float64)), dim=-1), dim=-1)
    torch.testing.assert_close(rotation[..., 2], direction)
    eye = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), eye)
    torch.testing.assert_close(rotation_angle(rotation, eye), direction[:, 2].acos())


def test_rays_invert_the_camera_with_skew() -> None:
    K = torch.tensor([[[200.0, 3.0, 61.0], [0, 190.0, 40.0], [0, 0, 1]]], dtype=torch.float64)
    points = torch.randn(1, 7, 3, dtype=torch.float64) + torch.tensor([0, 0, 5.0])
    torch.testing.assert_close(rays_of_pixels(project(points, K), K), points[..., :2] / points[..., 2:])
    rays = token_rays(K, (2, 3), (96, 64))
    torch.testing.assert_close(
        project(torch.cat((rays, torch.ones(1, 6, 1)), dim=-1), K)[0, 0], torch.tensor([16.0, 16.0]).double()
    )
    centre, extent = box_rays(torch.zeros(1, 2, 4, dtype=torch.float64), K)
    assert centre.isfinite().all() and (extent > 0).all()


def test_log_variance_has_a_floor_and_starts_at_one() -> None:
    assert float(log_var_from_raw(torch.tensor(-1e4))) == pytest.approx(2 * math.log(0.005))
    assert float(log_var_from_raw(torch.tensor(-LOG_VAR_FLOOR))) == pytest.approx(0, abs=1e-4)


def test_backbone_is_frozen_and_in_no_checkpoint(student: Student) -> None:
    trained = copy.deepcopy(student).train()
    backbone = trained.backbone.module
    assert backbone is student.backbone.module and not backbone.training and trained.trunk.training
    assert not any(name.startswith("backbone") for name in trained.state_dict())
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    tokens = trained.encode(torch.rand(2, 3, 64, 96))
    prediction = trained.pair(tokens[:1], tokens[1:], make_prompts(1))
    prediction.cam_from_body_a.sum().backward()
    torch.optim.SGD(trained.parameters(), lr=1.0).step()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_folder_round_trip_is_exact_and_offline(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    student.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    loaded = Student.from_pretrained(tmp_path)
    assert loaded.config == student.config and not loaded.training
    save_student(student, tmp_path / "halves", dtype=torch.float16)
    halves = Student.from_pretrained(tmp_path / "halves").state_dict()
    assert all(
        tensor.dtype == torch.float32 and torch.equal(tensor, student.state_dict()[name].half().float())
        for name, tensor in halves.items()
    )
    for name, tensor in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["backbone"]["sha256"] == student.backbone.module.provenance.sha256
    card = (tmp_path / "README.md").read_text()
    assert "Apache-2.0" in card and "No evaluation results" in card and "{{" not in card


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_checkpoints_that_do_not_fit_are_refused(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    student.save_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    for changes, words in (
        ({"format": "footfall-student/99"}, "footfall-student/99"),
        ({"student": {**good["student"], "wdith": 3}}, "wdith"),
        ({"student": {**good["student"], "head": {**good["student"]["head"], "width": 47}}}, "width"),
        ({"backbone": {**good["backbone"], "sha256": "0" * 64}}, "backbone tiny"),
    ):
        _edit_config(tmp_path, **changes)
        with pytest.raises(FootfallError, match=words):
            Student.from_pretrained(tmp_path)
        _edit_config(tmp_path, **good)
    weights = load_file(tmp_path / "model.safetensors")
    weights["renamed"] = weights.pop("trunk.view")
    save_file(weights, tmp_path / "model.safetensors")
    _edit_config(tmp_path, weights_sha256=sha256_of(tmp_path / "model.safetensors"))
    with pytest.raises(FootfallError, match=r"trunk\.view"):
        Student.from_pretrained(tmp_path)
    with pytest.raises(FootfallError, match="folder"):
        Student.from_pretrained(tmp_path / "missing")


def test_windows_of_three_frames_bring_all_pairs_and_the_gap_term(body: BodyModel) -> None:
    task = StudentTask(Student(SMALL), LossConfig(), body)
    losses, report = task(make_batch(body, windows=1, people=2, frames=3))
    assert losses["gap"] == 0  # a fresh student says that nothing moves, three times over
    assert losses.keys() >= {"camera_rotation", "loop", "scene_scale", "contact"}
    assert not any(value.requires_grad for value in report.values())
    assert "gap" not in task(make_batch(body, windows=1))[0]


def test_people_that_are_not_valid_and_labels_of_weight_zero_do_not_count(body: BodyModel) -> None:
    task = StudentTask(wake(Student(SMALL)), LossConfig(), body).eval()
    batch = make_batch(body, people=3)
    batch["valid"][:, 2] = False
    batch["weight"][:, 1] = 0.0
    wanted = task(batch)[0]
    spoilt = {**batch, "cam_from_body": batch["cam_from_body"].clone(), "betas": batch["betas"].clone()}
    spoilt["cam_from_body"][:, 1:] = 0.0
    spoilt["betas"][:, 1:] = 1e3
    for name, value in task(spoilt)[0].items():
        torch.testing.assert_close(value, wanted[name], msg=name)
    sum(task(spoilt)[0].values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_a_task_moves_and_saves_without_backbone_and_body(body: BodyModel) -> None:
    task = StudentTask(Student(SMALL), LossConfig(), copy.deepcopy(body))
    assert {name.split(".")[1] for name in task.state_dict()} == {
        "closeup",
        "trunk",
        "trajectory",
        "body",
        "detection",
        "identity",
    }
    assert not any(name.startswith(("body", "student.backbone")) for name, _ in task.named_parameters())


def test_two_samples_are_learnt_to_near_zero(body: BodyModel) -> None:
    task = StudentTask(Student(replace(SMALL, head=HeadConfig(width=96, layers=2))), LossConfig(scene_scale=0), body)
    batch = make_batch(body)
    optimiser = torch.optim.AdamW(task.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=160)
    first: dict[str, Tensor] = {}
    for _ in range(160):
        losses, report = task(batch)
        first = first or report
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    limits = {
        "camera_rotation_deg": 0.5, "camera_translation_mm": 10, "root_orientation_deg": 1, "root_depth_percent": 1,
        "joints_mm": 10, "motion_translation_mm": 50, "contact_nats": 0.2,
    }  # fmt: skip
    for name, limit in limits.items():
        assert report[name] < limit < 0.9 * first[name], (name, float(report[name]), float(first[name]))


def test_mixed_precision_leaves_rotations_and_depths_whole(body: BodyModel) -> None:
    task = StudentTask(wake(Student(SMALL)), LossConfig(), body)
    batch = make_batch(body, people=2)
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch)[0]
        tokens = task.student.encode(batch["images"][:, 0])
        prediction = task.student.pair(tokens, tokens, make_prompts(2, batch=2), points=True)
    torch.stack(list(losses.values())).sum().backward()
    assert prediction.points_a is not None and prediction.points_a.dtype == torch.float32
    for rotation in (prediction.cam_from_body_a[..., :3, :3], prediction.body_rot_a):
        eye = torch.eye(3).expand_as(rotation)
        torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), eye, **TOLERANCES[torch.float32])


def test_bad_configs_are_refused() -> None:
    for wrong in ({"width": 50, "attention_heads": 4}, {"roi_cells": 1}, {"layers": 0}):
        with pytest.raises(ValueError, match=r"expected|multiple"):
            HeadConfig(**wrong)
    with pytest.raises(ValueError, match="betas"):
        LossConfig(betas=-1.0)
