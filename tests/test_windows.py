"""Long videos: windows that cover a clip, gluing in Sim(3), loops, and the joint solve that begins there."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from distill.geometry.alignment import align_points
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from teacher.optimise.config import OptimiseConfig, WindowConfig
from teacher.optimise.degrade import Degradation, problem_from_truth
from teacher.optimise.gluing import Edge, Similarity, align_robustly, glue
from teacher.optimise.problem import Problem
from teacher.optimise.solver import solve
from teacher.optimise.variables import State
from teacher.optimise.windows import cut, spans

SHORT = OptimiseConfig(windows=WindowConfig(longest=60, length=60, overlap=20))


def similarity(rng: np.random.Generator, scale: float) -> Similarity:
    turn = Rotation.from_rotvec(0.4 * rng.standard_normal(3)).as_matrix()
    return Similarity(scale=scale, rotation=turn, translation=rng.standard_normal(3))


def silent(fraction: float, text: str) -> None:
    """No report."""


@pytest.mark.parametrize(("frames", "length", "overlap"), [(50, 60, 20), (61, 60, 20), (500, 120, 30), (2000, 120, 30)])
def test_windows_cover_the_clip_and_share_frames(frames: int, length: int, overlap: int) -> None:
    found = spans(frames, length, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == frames
    assert all(b[0] <= a[1] - overlap for a, b in pairwise(found))
    assert all(stop - start == min(frames, length) for start, stop in found)


def test_similarities_compose_invert_and_align() -> None:
    rng = np.random.default_rng(0)
    a, b, points = similarity(rng, 1.3), similarity(rng, 0.7), rng.standard_normal((40, 3))
    np.testing.assert_allclose((a @ b)(points), a(b(points)), atol=1e-12)
    np.testing.assert_allclose(a.inverse()(a(points)), points, atol=1e-12)
    target = a(points)
    target[:8] += 5 * rng.standard_normal((8, 3))  # a fifth of the points is wrong
    found, residual = align_robustly(target, points)
    np.testing.assert_allclose((found @ a.inverse()).logarithm(), 0, atol=1e-3)
    assert (residual[:8] > 0.1).all()


def drifting(loop: bool) -> float:
    """End error in metres of six windows whose neighbours' edges all err by 2 % in scale and half a degree."""
    rng = np.random.default_rng(1)
    truth = [Similarity(scale=1.0, rotation=np.eye(3), translation=np.array([3.0 * k, 0, 0])) for k in range(6)]
    slip = Similarity(
        scale=1.02, rotation=Rotation.from_rotvec([0, 0.01, 0]).as_matrix(), translation=0.01 * rng.standard_normal(3)
    )
    edges = [Edge(first=k, second=k + 1, first_from_second=truth[k].inverse() @ truth[k + 1] @ slip) for k in range(5)]
    if loop:
        edges.append(Edge(first=0, second=5, first_from_second=truth[0].inverse() @ truth[5]))
    nodes = glue(6, edges)
    end = nodes[0].inverse() @ nodes[5]  # the first window defines pose and scale of the comparison
    return float(np.linalg.norm(end.translation - truth[5].translation))


def test_gluing_is_exact_without_error_and_loops_take_drift_away() -> None:
    rng = np.random.default_rng(2)
    truth = [similarity(rng, 1.0) for _ in range(4)]
    edges = [Edge(first=k, second=k + 1, first_from_second=truth[k].inverse() @ truth[k + 1]) for k in range(3)]
    for node, expected in zip(glue(4, edges), truth, strict=True):
        np.testing.assert_allclose((truth[0].inverse() @ expected).logarithm(), node.logarithm(), atol=1e-4)
    assert drifting(loop=True) < 0.3 * drifting(loop=False)


def test_every_window_is_a_witness_of_the_metre() -> None:
    """Windows of wrong scale alternate; the glued scale is their mean, not the first one's."""
    scales = [1.1, 0.9, 1.1, 0.9]
    truth = [
        Similarity(scale=1 / s, rotation=np.eye(3), translation=np.array([k, 0.0, 0.0])) for k, s in enumerate(scales)
    ]
    edges = [Edge(first=k, second=k + 1, first_from_second=truth[k].inverse() @ truth[k + 1]) for k in range(3)]
    nodes = glue(4, edges)
    assert abs(np.mean([np.log(node.scale) for node in nodes])) < 0.01
    np.testing.assert_allclose(nodes[0].scale / nodes[1].scale, 0.9 / 1.1, rtol=1e-2)


@functools.cache
def long_clip() -> tuple[SyntheticClip, Problem]:
    clip = make_clip(ClipSpec(id="long", seed=7, frames=110, people=2, camera="walk", size=[240, 136]))
    wrong = Degradation(
        seed=1, unit=0.4, root_depth=1.2, root_rot_sd=0.05, pose_sd=0.08, keypoint_px=0.5, drift_scale=0.03
    )
    return clip, problem_from_truth(clip, wrong, points=2500)


def test_a_window_is_the_problem_of_its_frames() -> None:
    _, problem = long_clip()
    part, people = cut(problem, 30, 90)
    assert len(part.timestamps) == 60
    assert list(people) == [0, 1]
    seen = problem.cameras.obs_frame == 50
    np.testing.assert_array_equal(part.cameras.obs_px[part.cameras.obs_frame == 20], problem.cameras.obs_px[seen])
    assert part.depth is not None
    assert problem.depth is not None
    assert np.shares_memory(part.depth.depth, problem.depth.depth)  # memory does not grow with the number of windows


def error_mm(clip: SyntheticClip, state: State) -> float:
    truth = torch.from_numpy(clip.truth.joints_world).double().reshape(-1, 3)
    solved = state.world.joints.double().reshape(-1, 3)
    _, rotation, shift = align_points(truth, solved, with_scale=False)
    return 1000 * float((truth - solved @ rotation.T - shift).norm(dim=-1).mean())


def test_windows_lead_to_the_solution_of_the_whole() -> None:
    clip, problem = long_clip()
    whole = solve(problem, OptimiseConfig(), silent)
    windows = solve(problem, SHORT, silent)
    before = error_mm(clip, whole.before)
    assert error_mm(clip, windows.after) < before / 2
    assert error_mm(clip, windows.after) < 1.25 * error_mm(clip, whole.after) + 5
    assert windows.after.betas.shape == whole.after.betas.shape  # one shape per person


def test_a_short_clip_and_known_cameras_need_no_windows() -> None:
    _, problem = long_clip()
    part, _ = cut(problem, 0, 24)
    few = replace(OptimiseConfig().levenberg, stage1_steps=1, stage2_steps=2)
    plain = solve(part, OptimiseConfig(levenberg=few), silent)
    ready = solve(part, replace(SHORT, levenberg=few), silent)
    assert torch.equal(plain.after.centre, ready.after.centre)
