"""What is read from tokens: people found, told apart, matches between frames; and prompts that may be missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.body import BodyModel, load_body_model
from distill.geometry.rotations import matrix_from_rotvec
from distill.models.backbones import Tokens
from distill.models.detection_head import Candidates
from distill.models.matching import FIELD_SCALE, Matching, field_numbers, solve3
from distill.models.rays import token_rays
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.people.candidates import best_candidates
from distill.people.token_tracker import overlaps
from distill.task import LossConfig, StudentTask
from distill.token_losses import centre_tokens, detection_terms, generalised_overlap, identity_term, match_term
from tests.student_support import SIZE, make_batch, make_prompts, one_thread, wake  # noqa: F401 (a fixture)
from tests.test_body_files import made_up

GRID = (SIZE[1] // 16, SIZE[0] // 16)
SMALL = StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body_model("anny")


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    return wake(Student(SMALL))


def boxes_of_tokens(box: torch.Tensor) -> torch.Tensor:
    """[h*w] bool: tokens whose centre lies in the box."""
    row, column = torch.meshgrid(torch.arange(GRID[0]) * 16 + 8, torch.arange(GRID[1]) * 16 + 8, indexing="ij")
    return ((column > box[0]) & (column < box[2]) & (row > box[1]) & (row < box[3])).flatten()


def perfect(boxes: torch.Tensor) -> Candidates:
    """Candidates that are sure of the right tokens and boxes."""
    index, _ = centre_tokens(boxes, GRID, SIZE)
    logit = torch.full((len(boxes), GRID[0] * GRID[1]), -12.0)
    found = torch.zeros(len(boxes), GRID[0] * GRID[1], 4)
    for frame, tokens in enumerate(index):
        for person, token in enumerate(tokens):
            logit[frame, token] = 12.0
            found[frame, boxes_of_tokens(boxes[frame, person])] = boxes[frame, person]
    return Candidates(logit=logit.unflatten(1, GRID), boxes=found.unflatten(1, GRID))


BOXES = torch.tensor([[[10.0, 5, 30, 60], [50, 10, 80, 50]]])


def test_overlaps_by_hand() -> None:
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])
    assert overlaps(a[None].numpy(), b[None].numpy())[0, 0] == pytest.approx(1 / 3)
    assert generalised_overlap(a, b).item() == pytest.approx(1 / 3)  # the box around both is full
    far = torch.tensor([3.0, 0, 4, 2])
    assert generalised_overlap(a, far).item() == pytest.approx(0 - 2 / 8)  # 2 of 8 square pixels between are empty
    assert torch.autograd.gradcheck(generalised_overlap, (a.double().requires_grad_(), b.double() + 0.1))


def test_centres_and_perfect_candidates() -> None:
    index, inside = centre_tokens(BOXES, GRID, SIZE)
    assert index.tolist() == [[2 * 6 + 1, 1 * 6 + 4]] and inside.all()
    terms = detection_terms(perfect(BOXES), BOXES, torch.ones(1, 2, dtype=torch.bool), SIZE)
    assert terms["detection"].mean() < 1e-3 and terms["detection_box"].mean() < 1e-6
    missed = detection_terms(perfect(BOXES[:, :1]), BOXES, torch.ones(1, 2, dtype=torch.bool), SIZE)
    assert missed["detection"].mean() > 1
    # Nobody there: whoever is found is wrong.
    assert detection_terms(perfect(BOXES), BOXES, torch.zeros(1, 2, dtype=torch.bool), SIZE)["detection"].mean() > 1


def best_of(candidates: Candidates, row: int) -> tuple[np.ndarray, np.ndarray]:
    """What a stream takes of the candidates of one frame."""
    return best_candidates(candidates.logit[row].flatten().numpy(), candidates.boxes[row].flatten(0, 1).numpy())


def test_of_candidates_that_overlap_the_best_stays() -> None:
    candidates = perfect(BOXES)
    candidates.logit[0, 2, 2], candidates.boxes[0, 2, 2] = 3.0, BOXES[0, 0] + 1
    boxes, scores = best_of(candidates, 0)
    assert {tuple(box) for box in boxes.tolist()} == {tuple(box) for box in BOXES[0].tolist()} and scores.min() > 0.99
    candidates.logit[:] = -9
    boxes, scores = best_of(candidates, 0)
    assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_who_is_who_by_hand() -> None:
    vectors = torch.eye(3)[None]  # one window, three people
    seen = torch.ones(1, 3, dtype=torch.bool)
    right = identity_term(vectors, vectors, seen, seen, torch.tensor([0]))
    torch.testing.assert_close(
        right.values, torch.full((1, 3), 2 * torch.exp(torch.tensor(-10.0)).item()), rtol=1e-3, atol=1e-7
    )
    wrong = identity_term(vectors, vectors[:, [1, 0, 2]], seen, seen, torch.tensor([0]))
    assert (wrong.values[0, :2] > 9).all() and wrong.values[0, 2] < 0.01
    # Two windows of the same clip show the same people: they are not held against each other.
    twice = vectors.expand(2, 3, 3)
    both = seen.expand(2, 3)
    assert identity_term(twice, twice, both, both, torch.tensor([4, 4])).values.max() < 0.01
    assert identity_term(twice, twice, both, both, torch.tensor([4, 5])).values.min() > 0.6  # log 2


def test_matches_of_a_wall_seen_from_the_side() -> None:
    K = torch.tensor([[[96.0, 0, 48], [0, 96, 32], [0, 0, 1]]])
    depth = torch.full((1, *GRID), 6.0)
    cam_b_from_cam_a = torch.eye(4)[None].clone()
    cam_b_from_cam_a[0, 0, 3] = 1.0  # one metre: 16 pixels, one token to the right
    count = GRID[0] * GRID[1]
    odds = torch.zeros(1, count, count)
    odds[0, torch.arange(count - 1), torch.arange(1, count)] = 20.0
    term = match_term(odds, depth, depth, (K, K), cam_b_from_cam_a, SIZE)
    weight = term.weight.reshape(GRID)
    assert not weight[:, -1].any() and weight[:, :-1].all()  # the last column leaves the image
    assert term.values[term.weight].max() < 1e-6
    hidden = match_term(odds, depth, depth * 0.5, (K, K), cam_b_from_cam_a, SIZE)
    assert not hidden.weight.any()  # something nearer stands there
    assert not match_term(odds, depth * 0, depth, (K, K), cam_b_from_cam_a, SIZE).weight.any()


def test_matching_measures_a_shift_of_one_token() -> None:
    torch.manual_seed(0)
    matching = Matching(16, 16, 8)
    torch.nn.init.eye_(matching.describe.weight)
    torch.nn.init.zeros_(matching.describe.bias)
    matching.sharpness.data.fill_(6.0)
    features = torch.randn(1, *GRID, 16)
    odds = matching.log_odds(features.flatten(1, 2), features.roll(1, 2).flatten(1, 2))
    rays = token_rays(torch.tensor([[[96.0, 0, 48], [0, 96, 32], [0, 0, 1]]]), GRID, SIZE)
    moved = odds.softmax(-1) @ rays - rays
    inner = moved.unflatten(1, GRID)[:, :, :-1]
    torch.testing.assert_close(inner, torch.tensor([16 / 96, 0.0]).expand_as(inner), atol=1e-4, rtol=0)
    per_token, field = matching(odds, rays, rays)
    assert per_token.shape == (1, GRID[0] * GRID[1], 8) and field.shape == (1, 8)


def test_field_of_a_turn_is_that_turn_and_parallax_is_left() -> None:
    torch.manual_seed(0)
    rays = torch.rand(1, 200, 2, dtype=torch.float64) - 0.5
    ahead = torch.cat((rays, torch.ones_like(rays[..., :1])), dim=-1)
    sure = torch.rand(1, 200, 1, dtype=torch.float64)
    turn = torch.tensor([0.004, -0.007, 0.005], dtype=torch.float64)
    turned = ahead @ matrix_from_rotvec(turn).T
    numbers = field_numbers(turned[..., :2] / turned[..., 2:] - rays, rays, sure)[0] / FIELD_SCALE
    torch.testing.assert_close(numbers[:3], turn, atol=5e-5, rtol=0)
    assert numbers[3:].abs().max() < 1e-5
    zoom = field_numbers(0.05 * rays, rays, sure)[0] / FIELD_SCALE  # walking straight ahead: all rays move outwards
    assert zoom[:3].abs().max() < 2e-3
    slopes = zoom[5:].reshape(2, 2)  # of x and of y displacements along x, then along y
    assert slopes.diagonal().min() > 2e-3 and (slopes - slopes.diagonal().diag()).abs().max() < 1e-3


def test_three_equations_by_cramer() -> None:
    matrix = torch.randn(4, 3, 3, dtype=torch.float64) + 3 * torch.eye(3)
    right = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(solve3(matrix, right), torch.linalg.solve(matrix, right))


@torch.no_grad()
def test_prompts_may_be_missing(student: Student) -> None:
    tokens = student.encode(torch.rand(2, 3, SIZE[1], SIZE[0]))
    plain = make_prompts(2, batch=1)
    masks = torch.zeros(1, 2, 2, *GRID)
    a, b = tokens[:1], tokens[1:]
    wanted = student.pair(a, b, plain).cam_from_body_a
    torch.testing.assert_close(student.pair(a, b, replace(plain, masks=masks)).cam_from_body_a, wanted)
    known = replace(plain, K_known=torch.ones(1, dtype=torch.bool))
    torch.testing.assert_close(student.pair(a, b, known).cam_from_body_a, wanted)
    masks[0, 0, :, 1:3, 1:3] = 1.0
    covered = student.pair(a, b, replace(plain, masks=masks)).cam_from_body_a
    assert not torch.allclose(covered[0, 0], wanted[0, 0])
    for other in (
        replace(plain, K_known=torch.zeros(1, dtype=torch.bool)), replace(plain, seconds=torch.tensor([0.3])),
    ):  # fmt: skip
        assert not torch.allclose(student.pair(a, b, other).cam_from_body_a, wanted)


@torch.no_grad()
def test_identity_reads_its_own_frame_and_box_only(student: Student) -> None:
    images = torch.rand(2, 3, SIZE[1], SIZE[0])
    tokens, boxes = student.encode(images), make_prompts(2, batch=2).boxes[:, :, 0]
    vectors = student.identify(tokens, boxes)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 2))
    alone = student.identify(student.encode(images[1:]), boxes[1:, 1:])
    torch.testing.assert_close(alone[0, 0], vectors[1, 1], atol=1e-5, rtol=1e-4)


def test_people_are_learnt_to_be_found_and_told_apart(body: BodyModel) -> None:
    torch.manual_seed(0)
    task = StudentTask(Student(SMALL), LossConfig(), body)
    batch = make_batch(body, windows=2, people=2)
    batch["boxes"] = batch["prompt_boxes"] = BOXES[:, :, None].expand(2, 2, 2, 4).clone()
    optimiser = torch.optim.Adam(task.student.parameters(), lr=3e-3)
    for _ in range(60):
        losses, report = task(batch)
        optimiser.zero_grad()
        sum(losses[name] for name in ("detection", "detection_box", "identity")).backward()
        optimiser.step()
    assert report["detection_nats"] < 0.2 and report["detection_box_percent"] < 20 and report["identity_nats"] < 0.1
    with torch.no_grad():
        found = task.student.detect(task.student.encode(batch["images"][:, 0]))
    for row in range(2):
        boxes, _ = best_of(found, row)
        assert len(boxes) == 2
        assert overlaps(boxes, BOXES[0].numpy()).max(1).min() > 0.6


def test_body_head_answers_in_the_parameters_of_smpl_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **made_up(24))
    smpl = load_body_model(f"smpl:{tmp_path / 'model.npz'}")
    torch.manual_seed(0)
    config = replace(SMALL, body_model=f"smpl:{tmp_path / 'model.npz'}")
    task = StudentTask(Student(config), LossConfig())  # finds the body by the config's name
    batch = make_batch(smpl, windows=1)
    optimiser = torch.optim.Adam(task.student.parameters(), lr=3e-3)
    _, first = task(batch)
    for _ in range(60):
        losses, report = task(batch)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    assert report["joints_mm"] < 0.3 * first["joints_mm"] and report["body_pose_deg"] < 0.5 * first["body_pose_deg"]


def test_tokens_of_another_patch_size_are_found_where_they_are() -> None:
    tokens = Tokens(features=torch.randn(1, 15, 8), grid=(3, 5), size=(70, 42))  # patch 14
    from distill.models.detection_head import DetectionHead

    found = DetectionHead(8, 16)(tokens)
    centre = (found.boxes[..., :2] + found.boxes[..., 2:]) / 2
    torch.testing.assert_close(centre[0, 1, 2], torch.tensor([35.0, 21.0]))
