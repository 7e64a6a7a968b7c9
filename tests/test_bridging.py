"""Lost tracks: short gaps are filled and solved, marked as such; long ones stay gaps."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from distill.geometry.alignment import align_points
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from teacher.optimise.assemble import assemble_result
from teacher.optimise.bridging import (
    CONFIDENCE,
    DRIFT_MPS,
    GOOD_M,
    Gap,
    bridged_bodies,
    bridged_confidence,
    bridges,
    doubt_m,
    find_gaps,
)
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.degrade import Degradation, lost_span, problem_from_truth
from teacher.optimise.evidence import make_evidence
from teacher.optimise.measure import measure
from teacher.optimise.problem import Problem
from teacher.optimise.quality import QualityConfig, judge
from teacher.optimise.solver import Solution, solve
from teacher.stagefiles import Array

LOST = Degradation(
    focal=1.05, unit=1 / 3, root_depth=1.05, root_depth_sd=0.02, root_rot_sd=0.03, pose_sd=0.08, keypoint_px=1.0,
    track_px=1.0, depth_sd=0.02, lost_frames=10,
)  # fmt: skip


@functools.cache
def walk() -> SyntheticClip:
    return make_clip(ClipSpec(frames=40, people=1, seed=4, camera="walk", objects=4))


def exact(lost: int) -> Problem:
    """A problem that is the truth but for a lost track."""
    return problem_from_truth(walk(), Degradation(lost_frames=lost))


@functools.cache
def solved() -> tuple[Problem, Solution]:
    problem = problem_from_truth(walk(), LOST)
    return problem, solve(problem, OptimiseConfig(), lambda fraction, text: None)


def test_gaps_lie_between_two_sightings_and_are_short() -> None:
    seen = np.array([[0, 1, 0, 0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 1, 1]], bool).T
    times = np.arange(9) / 10
    short = [Gap(person=0, before=1, after=4), Gap(person=0, before=4, after=6)]
    assert find_gaps(seen, times, 0.2) == short
    assert find_gaps(seen, times, 0.1) == short[1:]
    assert find_gaps(seen, times, 0.6) == [*short, Gap(person=1, before=0, after=7)]
    assert find_gaps(seen, times, 0.0) == []


def test_twenty_frames_at_twenty_a_second_are_not_too_long() -> None:
    seen = np.ones((40, 1), bool)
    seen[10:30] = False
    assert len(find_gaps(seen, np.arange(40) / 20, OptimiseConfig().bridge_s)) == 1
    seen[30] = False
    assert find_gaps(seen, np.arange(40) / 20, OptimiseConfig().bridge_s) == []


def turning(problem: Problem, rate: float, rotvec: Array) -> tuple[Problem, Array]:
    """The problem with a camera that turns by `rate` rad a frame before a person who stands; its body in the world."""
    frames = len(problem.timestamps)
    world_from_cam = np.tile(np.eye(4), (frames, 1, 1))
    turns = np.outer(rate * (np.arange(frames) - frames / 2), (0.0, 1.0, 0.0))
    world_from_cam[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    body = np.eye(4)
    body[:3, :3], body[:3, 3] = Rotation.from_rotvec(rotvec).as_matrix(), (0.2, 0.1, 4.0)
    stands = np.tile(np.eye(4), (frames, 1, 1, 1))
    stands[:, 0] = np.linalg.inv(world_from_cam) @ body
    present = problem.bodies.present
    stands[~present] = np.eye(4)  # nothing is known there
    cameras = replace(problem.cameras, world_from_cam=world_from_cam)
    return replace(problem, cameras=cameras, bodies=replace(problem.bodies, cam_from_body=stands)), body


def test_a_turn_of_the_camera_does_not_swing_the_person() -> None:
    problem, body = turning(exact(10), 0.02, np.array([3.0, 0.1, 0.2]))
    bodies = bridged_bodies(problem, 1.0)
    found = problem.cameras.world_from_cam @ bodies.cam_from_body[:, 0]
    np.testing.assert_allclose(found, np.tile(body, (len(found), 1, 1)), atol=1e-6)
    assert bodies.present.all()
    assert (bodies.confidence[~problem.bodies.present] == np.float32(CONFIDENCE)).all()


def test_what_is_seen_stays_as_it_is() -> None:
    problem = exact(10)
    bodies, seen = bridged_bodies(problem, 1.0), problem.bodies.present
    for name in ("body_rot", "cam_from_body", "confidence"):
        np.testing.assert_array_equal(getattr(bodies, name)[seen], getattr(problem.bodies, name)[seen])
    whole = exact(0)
    assert bridged_bodies(whole, 1.0) is whole.bodies


def test_long_gaps_and_people_beside_the_camera_are_not_bridged() -> None:
    problem = exact(10)
    assert bridged_bodies(problem, 0.2) is problem.bodies
    # So fast a turn that the person is out of view, behind the camera's plane, in the middle of the gap.
    turned, _ = turning(problem, 0.0, np.zeros(3))
    lost = lost_span(40, Degradation(lost_frames=10))
    poses = turned.cameras.world_from_cam.copy()
    poses[lost, :3, :3] = Rotation.from_rotvec((0.0, 2.5, 0.0)).as_matrix()
    away = replace(turned, cameras=replace(turned.cameras, world_from_cam=poses))
    assert not bridged_bodies(away, 1.0).present[lost].any()


def test_nothing_is_claimed_of_a_gap_before_the_solve() -> None:
    problem = exact(10)
    evidence, gap = make_evidence(problem, OptimiseConfig()), ~torch.from_numpy(problem.bodies.present)
    assert (evidence.given_contact[gap] == 0.5).all()
    assert (evidence.keypoint_weight[gap] == 0).all()
    assert (evidence.person_weight[gap] > 0).all()
    assert torch.equal(evidence.seen, ~gap)
    apart = make_evidence(problem, OptimiseConfig(bridge_s=0.0))
    assert (apart.person_weight[gap] == 0).all()
    assert (apart.given_contact[gap] == 0).all()


def test_doubt_grows_with_time_and_confidence_falls() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.4, 0.5])
    seen = np.array([[1, 0, 0, 0, 1], [1, 1, 1, 1, 0]], bool).T
    present = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], bool).T
    doubt = doubt_m(seen, present, times)
    np.testing.assert_allclose(doubt[:, 0], DRIFT_MPS * np.array([0, 0.1, 0.2, 0.1, 0]))
    assert (doubt[:, 1] == 0).all()
    given = np.array([[0.5, 0, 0, 0, 1.0], [1, 1, 1, 1, 0]]).T
    filled = bridged_confidence(given, seen, present, times)
    np.testing.assert_allclose(filled[1, 0], 0.6 / (1 + (DRIFT_MPS * 0.1 / GOOD_M) ** 2))
    np.testing.assert_array_equal(filled[:, 1], given[:, 1])
    assert bridges(seen, present, times) == [
        {"person": 0, "first_frame": 1, "frames": 3, "doubt_m": round(0.2 * DRIFT_MPS, 3)}
    ]


def test_a_lost_track_is_found_again_in_the_solve_and_marked() -> None:
    problem, solution = solved()
    measures = measure(solution.after, solution.evidence, OptimiseConfig())
    result = assemble_result(problem, solution, measures, OptimiseConfig())
    gap = ~problem.bodies.present[:, 0]
    assert gap.sum() == 10
    assert result.motion.present.all()
    truth = torch.from_numpy(walk().truth.joints_world[:, 0]).double()
    found = torch.from_numpy(result.joints_world[:, 0]).double()
    _, rotation, move = align_points(truth[~gap].reshape(-1, 3), found[~gap].reshape(-1, 3), with_scale=False)
    error = (found @ rotation.T + move - truth).norm(dim=-1)
    assert error[gap, 0].mean() < 0.08  # the pelvis walks on
    assert error[gap].mean() < 0.12
    assert error[gap].mean(1).max() < 2 * doubt_m(~gap[:, None], result.motion.present, problem.timestamps).max()
    confidence = result.motion.confidence[:, 0]
    assert confidence[~gap].mean() > 1.5 * confidence[gap].mean()
    assert (confidence[gap] > 0).all()
    first = int(np.flatnonzero(gap)[0])
    assert [(b["person"], b["first_frame"], b["frames"]) for b in result.meta["bridged"]] == [(0, first, 10)]
    _, weight = judge(result, measures, QualityConfig())
    assert weight[gap].max() < 0.9 * weight[~gap].mean()
    assert weight[gap].mean() < 0.5 * weight[~gap].mean()
    # It moves no more abruptly in the gap than elsewhere.
    jerk = torch.from_numpy(np.diff(result.joints_world[:, 0], n=3, axis=0)).norm(dim=-1).mean(-1)
    inside = slice(first - 1, first + 9)
    assert jerk[inside].max() < 2 * jerk.max() and jerk[inside].mean() < 1.5 * jerk.mean()


def test_an_impossible_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="bridge_s"):
        OptimiseConfig(bridge_s=-1.0)
