"""Direct alignment of cameras and bodies: the equations against dense and automatic ones, and moves that are found."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.body import BodyModel
from distill.geometry.cameras import project
from distill.geometry.rotations import matrix_from_rotvec, rotation_angle
from distill.geometry.transforms import invert, make_transform, transform_points
from teacher.scene.align_bodies import (
    UNKNOWNS,
    _add_points,
    _turn,
    align_bodies,
    recolour,
    skin_slopes,
    thickness_m,
)  # fmt: skip
from teacher.scene.align_cameras import align_cameras
from teacher.scene.chain import Chain, descend, place_rows, turn_rows
from teacher.scene.terms import acceleration, turn_acceleration
from teacher.scene.world import World
from tests.scene_support import CONFIG, FRAMES, drawn_world, fresh, moved_camera, roughened, still_result

STEPS = torch.tensor([1 / 30, 1 / 25, 1 / 30, 1 / 60], dtype=torch.float64)
"""Seconds between five frames of an uneven clip."""


@pytest.fixture(scope="module")
def drawn(body: BodyModel):  # type: ignore[no-untyped-def]
    return drawn_world(body)


@pytest.fixture(scope="module")
def rough(body: BodyModel):  # type: ignore[no-untyped-def]
    return drawn_world(body, roughened(still_result(body), 0.1))


# Equations


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_chain_solves_what_a_dense_matrix_solves() -> None:
    frames, size = 6, 4
    chain, dense, right = Chain(frames, size), torch.zeros(25, 25, dtype=torch.float64), torch.zeros(25).double()
    shared = [24]
    for frame in range(frames):
        rows = random(7, size + 1, seed=frame)
        off = random(7, seed=100 + frame)
        chain.add_frame(frame, float(0.5 * off @ off), rows.T @ rows, rows.T @ off)
        at = torch.tensor([*range(frame * size, (frame + 1) * size), *shared])
        dense[at[:, None], at] += rows.T @ rows
        right[at] += rows.T @ off
    residual, slopes = random(frames - 2, 1, 3, seed=7), [random(frames - 2, 1, 3, 3, seed=8 + k) for k in range(3)]
    chain.add_accelerations(residual, slopes, torch.tensor([[0, 1, 3]]), torch.tensor([1.0, 1.0, 0.0, 2.0]))
    for middle in (0, 1, 3):  # the third does not count
        rows = torch.zeros(3, 25).double()
        for k in range(3):
            rows[:, [(middle + k) * size + n for n in (0, 1, 3)]] = slopes[k][middle, 0]
        weight = (2 if middle == 3 else 1) / math.sqrt(1 + float(residual[middle].square().sum()))
        dense += weight * rows.T @ rows
        right += weight * rows.T @ residual[middle, 0]
    step, of_all = chain.solve(0.0)
    wanted = torch.linalg.solve(dense, -right)
    torch.testing.assert_close(step.flatten(), wanted[:24], rtol=1e-6, atol=1e-8)
    assert of_all == pytest.approx(float(wanted[24]), rel=1e-6)


def test_a_step_that_does_not_help_is_taken_back() -> None:
    """(x^2 - 1)^2 from 0.1: where the curvature is that of Gauss and Newton, the first steps fly far beyond."""
    at = torch.tensor([0.1], dtype=torch.float64)

    def equations() -> Chain:
        chain, off = Chain(1, 1), float(at**2 - 1)
        slope = 2 * at
        chain.add_frame(0, 0.5 * off**2, (slope * slope)[:, None], slope * off)
        return chain

    tried = []

    def move(step: Tensor, _: float):  # type: ignore[no-untyped-def]
        before = at.clone()
        at.add_(step[0])
        tried.append(float(at))
        return lambda: at.copy_(before) and None

    costs = descend(equations, move, 30)
    assert max(tried) > 3 and float(at) == pytest.approx(1, abs=1e-2)
    assert all(later < earlier for earlier, later in pairwise(costs))


def test_accelerations_are_those_of_the_terms_and_their_slopes_fit() -> None:
    turns = matrix_from_rotvec(0.1 * random(5, 2, 3))
    found, slopes = turn_rows(turns, STEPS)
    torch.testing.assert_close(found, turn_acceleration(turns, STEPS))
    places, axes = random(5, 2, 3, seed=1), matrix_from_rotvec(random(5, 2, 3, seed=2))
    moved, by_place = place_rows(places, axes, STEPS)
    torch.testing.assert_close(moved, acceleration(places, STEPS))
    small = 1e-4 * random(5, 2, 3, seed=3)
    change = turn_rows(turns @ matrix_from_rotvec(small), STEPS)[0] - found
    guess = sum(torch.einsum("tjab,tjb->tja", slope, small[k : k + 3]) for k, slope in enumerate(slopes))
    assert float((change - guess).norm() / change.norm()) < 0.1  # to first order in the turn between frames, 0.2 rad
    change = place_rows(places + torch.einsum("tjab,tjb->tja", axes, small), axes, STEPS)[0] - moved
    guess = sum(torch.einsum("tjab,tjb->tja", slope, small[k : k + 3]) for k, slope in enumerate(by_place))
    torch.testing.assert_close(change, guess)


def test_slopes_of_the_skin_are_those_of_autograd(body: BodyModel, drawn) -> None:  # type: ignore[no-untyped-def]
    world, _ = fresh(body, drawn)
    avatar = world.avatar(0).detach()
    pose, root = matrix_from_rotvec(0.4 * random(23, 3)).float(), torch.eye(4)
    root[:3, :3], root[:3, 3] = matrix_from_rotvec(random(3, seed=1)).float(), torch.tensor([0.1, 0.2, 3.0])

    def centres(step: Tensor) -> Tensor:
        turned = matrix_from_rotvec(step[: UNKNOWNS - 3].reshape(24, 3))
        moved = make_transform(root[:3, :3] @ turned[23], root[:3, 3] + step[-3:])
        return avatar.posed(body, pose @ turned[:23], moved).means

    # At zero itself the length of a turn has no slope; so near it the turn is its own first order.
    automatic = torch.autograd.functional.jacobian(centres, torch.full((UNKNOWNS,), 1e-4), vectorize=True)
    found = skin_slopes(body, avatar, pose, root)
    assert float((found - automatic).abs().max()) < 2e-3  # metres per radian, of up to one
    assert float(automatic.abs().max()) > 0.5


# Cameras


@pytest.mark.parametrize(("axis", "size"), [(0, 0.002), (1, 0.002), (2, 0.002), (3, 0.01), (4, 0.01), (5, 0.01)])
def test_cameras_find_a_small_move_in_one_step(body: BodyModel, rough, axis: int, size: float) -> None:  # type: ignore[no-untyped-def]
    """Each turn (rad) and shift (m) alone, by about a tenth of a pixel: residual, derivative, sign and frame."""
    step = torch.zeros(6, dtype=torch.float64)
    step[axis] = size
    change = make_transform(matrix_from_rotvec(step[:3]), step[3:]).numpy()
    cameras = rough[0].cameras
    start = replace(rough[0], cameras=replace(cameras, world_from_cam=cameras.world_from_cam @ change))
    config = replace(CONFIG, prior=replace(CONFIG.prior, camera_rot_deg=20.0, camera_pos_m=2.0))
    world, objective = fresh(body, rough, start, config)
    world.unknowns["background"].data.fill_(0.5)
    before = seen_off_px(world, rough)
    align_cameras(world, objective.views[1], config.prior, 1)
    assert bool((seen_off_px(world, rough) < 0.15 * before).all())


def test_cameras_come_back(body: BodyModel, rough) -> None:  # type: ignore[no-untyped-def]
    config = replace(CONFIG, prior=replace(CONFIG.prior, camera_rot_deg=2.0, camera_pos_m=0.2))
    world, objective = fresh(body, rough, moved_camera(rough[0], 2.0, 0.05), config)
    world.unknowns["background"].data.fill_(0.5)
    before = seen_off_px(world, rough)
    for level in (2, 1):
        costs = align_cameras(world, objective.views[level], config.prior, 8)
        assert all(later < earlier for earlier, later in pairwise(costs))
    after = seen_off_px(world, rough)
    assert before.median() > 1 and bool((after < before / 8).all())


def seen_off_px(world: World, drawn) -> Tensor:  # type: ignore[no-untyped-def]
    """[T] Median distance in the pictures between where the scene is seen and where it should be.

    Before one wall a turn and a shift are nearly the same picture; what it tells is where points are seen.
    """
    true = torch.from_numpy(drawn[0].cameras.world_from_cam).float()
    points = world.base.scene.means.expand(FRAMES, -1, -1)
    seen = project(transform_points(world.cam_from_world().detach(), points), drawn[1].K)
    wanted = project(transform_points(invert(true), points), drawn[1].K)
    return (seen - wanted).norm(dim=-1).median(-1).values


# Bodies


def test_time_alone_takes_jitter_out_of_poses(body: BodyModel, drawn) -> None:  # type: ignore[no-untyped-def]
    result = drawn[0]
    noise = matrix_from_rotvec(0.1 * torch.randn(FRAMES, 1, 23, 3, generator=torch.Generator().manual_seed(0)))
    shaken = replace(result, motion=replace(result.motion, body_rot=result.motion.body_rot @ noise.double().numpy()))
    world, objective = fresh(body, drawn, shaken)
    nobody = replace(objective.views[1], boxes=[(0, 0, 0, 0)] * FRAMES)
    align_bodies(world, nobody, 0, CONFIG.prior, 20)
    error = rotation_angle(world.bodies()[0].detach(), torch.eye(3).expand(FRAMES, 1, 23, 3, 3)).mean()
    # A line through T independent errors keeps sqrt(2 / T) of them (0.63 here), and has no acceleration to take out.
    least = math.sqrt(2 / FRAMES) * float(rotation_angle(noise, torch.eye(3).expand_as(noise)).mean())
    assert float(error) < 1.15 * least


def test_a_body_comes_back_to_its_pictures(body: BodyModel, drawn) -> None:  # type: ignore[no-untyped-def]
    """The same error in every frame: time cannot tell it, the pictures must."""
    result = drawn[0]
    turn = matrix_from_rotvec(torch.tensor([0.0, 0.0, math.radians(15)])).double().numpy()
    pose, root = result.motion.body_rot.copy(), result.motion.cam_from_body.copy()
    pose[:, :, 17] = pose[:, :, 17] @ turn  # the left elbow, 9 cm at the hand
    root[..., 0, 3] += 0.03
    moved = replace(result, motion=replace(result.motion, body_rot=pose, cam_from_body=root))
    world, objective = fresh(body, drawn, moved, replace(CONFIG, prior=replace(CONFIG.prior, pose_deg=15.0)))
    world.unknowns["person0/colors"].data.copy_(drawn[2].unknowns["person0/colors"])
    for name in ("log_scales", "logits", "offsets"):
        world.unknowns[f"person0/{name}"].data.copy_(drawn[2].unknowns[f"person0/{name}"])
    true = joints_px(drawn[2], drawn)
    before = (joints_px(world, drawn) - true).norm(dim=-1)
    align_bodies(world, objective.views[1], 0, CONFIG.prior, 10)
    after = (joints_px(world, drawn) - true).norm(dim=-1)
    assert float(before.mean()) > 0.5 and float(after.mean()) < 0.25 * float(before.mean())
    assert float(before[:, :, 20].mean()) > 1 and float(after[:, :, 20].mean()) < 0.5  # the left wrist


def joints_px(world: World, drawn) -> Tensor:  # type: ignore[no-untyped-def]
    body_rot, cam_from_body = (value.detach() for value in world.bodies())
    joints = world.base.parts(world.base.betas, body_rot, cam_from_body).joints
    return project(joints.flatten(1, 2), drawn[1].K).unflatten(1, joints.shape[1:3])


def test_rows_of_points_are_slopes_of_their_cost(body: BodyModel, drawn) -> None:  # type: ignore[no-untyped-def]
    """Keypoints, stillness and heights: the gradient against central differences of the cost."""
    world, _ = fresh(body, drawn)
    base, draw = world.base, torch.Generator().manual_seed(5)
    for value in (world.unknowns["pose"], world.unknowns["root_rot"], world.unknowns["root_pos"]):
        value.data.copy_(0.1 * torch.randn(value.shape, generator=draw))
    base.keypoint_weight.fill_(1.0)
    points = base.parts(base.betas, *(value.detach() for value in world.bodies()))
    pixels = project(points.keypoints.flatten(1, 2), base.K).view_as(base.keypoints_px)
    # Near them: the person's height in the picture, over which errors are counted, is held fixed in the gradient.
    base.keypoints_px.copy_(pixels + 0.5 * torch.randn(pixels.shape, generator=draw))
    base.site_height[:] = 0.1

    def chain() -> Chain:
        found = Chain(FRAMES, UNKNOWNS)
        turns, roots = (value[:, 0].detach() for value in world.bodies())
        _add_points(found, world, 0, turns, roots)
        return found

    analytic, step = chain().gradient, 3e-3
    way = torch.randn(FRAMES, UNKNOWNS, generator=draw)
    ends = []
    for sign in (1, -1):
        take_back = world.remember(("pose", "root_rot", "root_pos"))
        with torch.no_grad():
            _turn(world, 0, sign * step * way)
            ends.append(chain().cost)
        take_back()
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((analytic * way).sum()), rel=2e-2)


def test_a_thick_coat_does_not_move_the_body(body: BodyModel) -> None:
    result = still_result(body)
    _, footage, world = drawn_world(body, result, thicker_m=0.02)
    bare, objective = fresh(body, (result, footage, world))
    recolour(bare, footage)
    align_bodies(bare, objective.views[1], 0, CONFIG.prior, 10)
    # 34 pixels of person do not tell a thicker one from a nearer one for sure; the prior (1 cm) shares it out.
    assert 0.008 < thickness_m(bare, 0) < 0.025
    # Without the unknown, 2 cm on each side of a limb of 10 cm would draw the body nearer by much.
    np.testing.assert_allclose(bare.unknowns["root_pos"].detach().numpy(), 0, atol=0.01)
