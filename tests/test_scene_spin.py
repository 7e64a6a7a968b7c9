"""Angular momentum about the vertical: hand-worked bodies, slopes, and arms that find their swing by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.body import BodyModel
from distill.geometry.cameras import project
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.rotations import matrix_from_rotvec, rotvec_from_matrix
from distill.results import Result
from distill.synthetic import ClipSpec, make_clip
from teacher.scene.align_bodies import align_bodies
from teacher.scene.config import GaussiansConfig
from teacher.scene.footage import Footage
from teacher.scene.inputs import make_base
from teacher.scene.objective import make_view
from teacher.scene.spin import EDGE_S, STRIDE_S, SWINGING, faded, spin, turning
from teacher.scene.world import World, make_unknowns

DT = torch.full((5,), 1 / 30, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def no_slopes(frames: int) -> Tensor:
    return torch.zeros(frames, 24, 3, 1, dtype=torch.float64)


def test_a_body_that_turns_has_its_moment_of_inertia_times_its_speed() -> None:
    """All joints of a side at one place: two points of half the mass, but for the head between them."""
    place = torch.zeros(24, 3, dtype=torch.float64)
    for number, name in enumerate(SMPL_JOINTS):
        place[number, 0] = 0.2 if name.startswith("left") else -0.2 if name.startswith("right") else 0.0
    speed = 1.5
    turn = matrix_from_rotvec(torch.outer(torch.arange(6) * speed / 30, torch.tensor([0.0, 0, 1])).double())
    joints = place @ turn.transpose(-1, -2)
    value, _ = spin(joints, DT, no_slopes(6))
    inertia = (1 - 0.081) * 0.2**2
    torch.testing.assert_close(value, torch.full((5,), inertia * np.sin(speed / 30) * 30).double())


def test_walking_off_is_no_spin_and_a_world_further_away_is_none_either() -> None:
    joints = random(6, 24, 3)
    value, _ = spin(joints, DT, no_slopes(6))
    moved = joints + torch.tensor([5.0, -2, 1]) + torch.arange(6)[:, None, None] * torch.tensor([0.3, 0.1, 0])
    torch.testing.assert_close(spin(moved, DT, no_slopes(6))[0], value)


def test_slopes_are_those_of_finite_differences() -> None:
    joints, slopes, step = random(6, 24, 3), random(6, 24, 3, 4, seed=1), 1e-6
    _, (earlier, later) = spin(joints, DT, slopes)
    way = random(6, 4, seed=2)
    ends = [spin(joints + sign * step * (slopes @ way[:, None, :, None])[..., 0], DT, slopes)[0] for sign in (1, -1)]
    wanted = (earlier * way[:-1]).sum(1) + (later * way[1:]).sum(1)
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), wanted, rtol=1e-6, atol=1e-8)


def test_turning_is_what_lasts_longer_than_a_stride() -> None:
    times = torch.arange(121, dtype=torch.float64) / 30
    moment, known = (times[1:] + times[:-1]) / 2, torch.ones(120, dtype=torch.bool)
    swing = torch.sin(2 * torch.pi * moment / STRIDE_S)
    left = turning(0.7 + swing, times, known) - 0.7
    assert float(left.abs().max()) < 0.05  # of a swing of 1, at both ends as well
    known[40:60] = False
    value = torch.where(known, 0.7, 99.0).double()
    torch.testing.assert_close(turning(value, times, known), torch.full((120,), 0.7).double())
    assert torch.isfinite(turning(swing[:1], times[:2], known[:1])).all()


def test_the_term_fades_at_both_ends() -> None:
    weight = faded(torch.arange(61, dtype=torch.float64) / 30)
    torch.testing.assert_close(weight, weight.flip(0))
    assert float(weight[0]) == pytest.approx(1 / 60 / EDGE_S) and float(weight[30]) == 1.0


# Arms of a walker


@pytest.fixture(scope="module")
def walker() -> Result:
    return make_clip(ClipSpec(id="arms", seed=4, frames=75)).truth


def hanging(truth: Result) -> Result:
    """The truth with arms that keep their mean turn, as a detector of keypoints would have them."""
    pose = torch.from_numpy(np.asarray(truth.motion.body_rot)).clone()
    for number, name in enumerate(SMPL_JOINTS[1:]):
        if name.endswith(SWINGING):
            pose[:, :, number] = matrix_from_rotvec(rotvec_from_matrix(pose[:, :, number]).mean(0))
    return replace(truth, motion=replace(truth.motion, body_rot=pose.numpy()))


def wrist_error_m(world: World, truth: Result) -> float:
    """Mean error of the wrists along the line of sight."""
    joints = world.base.parts(world.base.betas, *(value.detach() for value in world.bodies())).joints
    wrists = [SMPL_JOINTS.index(f"{side}_wrist") for side in ("left", "right")]
    return float((joints[:, :, wrists, 2] - torch.from_numpy(truth.motion.joints_cam[:, :, wrists, 2])).abs().mean())


@pytest.mark.parametrize(("z_up", "left"), [(True, (0.2, 0.5)), (False, (0.6, 1.0))])
def test_arms_that_hang_learn_to_swing(body: BodyModel, walker: Result, z_up: bool, left: tuple[float, float]) -> None:
    """No picture, true keypoints: the momentum says which way arms swing. Without a vertical nothing does."""
    frames, people = walker.motion.present.shape
    size = (96, 72)
    blank = Footage(
        images=torch.zeros(frames, 72, 96, 3), masks=torch.zeros(frames, people, 72, 96),
        depth=torch.zeros(frames, 72, 96), person_depth=torch.zeros(frames, 72, 96),
        K=torch.from_numpy(walker.cameras.K).float(),
    )  # fmt: skip
    config = GaussiansConfig(enabled="always", long_side=max(size), scene_count=300, person_count=120)
    points = np.random.default_rng(0).normal(0, 3, (64, 3)).astype(np.float32)
    start = replace(hanging(walker), scene_points=points, scene_rgb=np.zeros((64, 3), np.uint8))
    tensor = lambda array: torch.from_numpy(np.asarray(array, np.float32))  # noqa: E731 - a name for a conversion
    true = body.keypoints(
        tensor(walker.motion.betas).expand(frames, -1, -1), tensor(walker.motion.body_rot),
        tensor(walker.motion.cam_from_body),
    )  # fmt: skip
    pixels = project(true.flatten(1, 2), blank.K).unflatten(1, true.shape[1:3])
    base = make_base(
        start, np.arange(frames), blank, body, config, keypoints_px=pixels.numpy(),
        keypoint_score=np.ones(true.shape[:3]),
    )  # fmt: skip
    world = World(replace(base, z_up=z_up), make_unknowns(base, 0))
    begun = wrist_error_m(world, walker)
    align_bodies(world, make_view(blank, torch.full((frames,), 3.0)), 0, config.prior, 6)
    assert begun > 0.08 and left[0] < wrist_error_m(world, walker) / begun < left[1]
