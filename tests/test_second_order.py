"""The second-order solver: every term's gradient and curvature against finite differences, the block solve against
a dense one, and the solution against Adam's."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.synthetic import ClipSpec, make_clip
from teacher.optimise.config import OptimiseConfig, TermWeights
from teacher.optimise.degrade import Degradation, problem_from_truth
from teacher.optimise.elimination import solve
from teacher.optimise.evidence import make_evidence
from teacher.optimise.levenberg import moved_blocks
from teacher.optimise.linearise import cost, linearise
from teacher.optimise.normal import Normal, Step
from teacher.optimise.objective import TERMS, Situation, Term
from teacher.optimise.precision import moved_tensors
from teacher.optimise.robust import rho_slope, smoothed
from teacher.optimise.solver import solve as solve_clip
from teacher.optimise.tangent import COMMON, FRAME, PERSON
from teacher.optimise.variables import Unknowns

WRONG = Degradation(
    seed=1, focal=1.1, unit=0.5, root_depth=1.1, root_rot_sd=0.05, pose_sd=0.1, betas_sd=0.5, keypoint_px=1.0,
    camera_pos_sd=0.02, camera_rot_sd=0.01,
)  # fmt: skip
WIDTH = 0.05


@functools.cache
def situation(kind: str) -> tuple[Unknowns, OptimiseConfig]:
    """A small problem of two people, at a point away from everything special."""
    clip = make_clip(ClipSpec(id="two", seed=5, frames=8, fps=10.0, people=2, camera="walk", objects=4))
    wrong = replace(WRONG, cameras="static", focal=1.0, unit=1.0) if kind == "static" else WRONG
    config = OptimiseConfig(track_gaps=[1, 3], pairs_per_frame=8)
    problem = problem_from_truth(clip, wrong, points=60)
    problem.cameras.metric = kind == "metric"
    evidence = make_evidence(problem, config)
    unknowns = Unknowns(moved_tensors(evidence, torch.float64, torch.device("cpu")))
    generator = torch.Generator().manual_seed(1)
    unknowns.blocks = {
        name: 0.05 * torch.randn(block.shape, generator=generator, dtype=torch.float64)
        for name, block in unknowns.blocks.items()
    }
    state = unknowns.decode()
    evidence.renew(state.cam.sites.float(), state.K.float(), state.depth_scale.float(), config)
    fresh = moved_tensors(evidence, torch.float64, torch.device("cpu"))
    unknowns.evidence.partners, unknowns.evidence.align_sd = fresh.partners, fresh.align_sd
    unknowns.evidence.people_near = True
    return unknowns, config


def at(unknowns: Unknowns, config: OptimiseConfig, blocks: dict[str, Tensor]) -> Situation:
    there = Unknowns(unknowns.evidence)
    there.blocks = blocks
    return Situation(state=there.decode(), blocks=blocks, evidence=unknowns.evidence, config=config)


def random_step(unknowns: Unknowns, seed: int) -> Step:
    frames, people = unknowns.evidence.person_weight.shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    step = Step(
        person=draw(frames, people, PERSON), frame=draw(frames, FRAME), common=draw(COMMON),
        betas=draw(*unknowns.blocks["betas"].shape),
    )  # fmt: skip
    if unknowns.evidence.camera_fixed:
        step.frame[:, :6] = 0  # the camera's pose is no unknown then
    return step


def scaled(step: Step, by: float) -> Step:
    return Step(person=by * step.person, frame=by * step.frame, common=by * step.common, betas=by * step.betas)


def inner(a: Step, b: Step) -> Tensor:
    return sum(((getattr(a, n) * getattr(b, n)).sum() for n in ("person", "frame", "common", "betas")), torch.zeros(()))


def only(config: OptimiseConfig, name: str) -> OptimiseConfig:
    off = {term.name: 0.0 for term in TERMS}
    return replace(config, weights=TermWeights(**{**off, name: 1.0}))


MOVING, GROUND = ("scene_3d", "scene_2d", "contact_align", "camera_smooth"), ("ground_plane", "ground_up")
CASES = [
    *((term, "metric" if term.name == "scale_prior" else "sfm") for term in TERMS if term.name not in GROUND),
    *((term, "static") for term in TERMS if term.name not in (*MOVING, "scale_prior")),
]
"""Every term with the kinds of camera that it applies to: one that does not apply where it should is a failure."""


@pytest.mark.parametrize(("term", "kind"), CASES, ids=lambda part: getattr(part, "name", part))
def test_gradient_and_curvature_of_every_term(term: Term, kind: str) -> None:
    unknowns, config = situation(kind)
    config, stage, small = only(config, term.name), term.stages[0], 1e-6
    here = at(unknowns, config, unknowns.blocks)
    made = term.make(here)
    assert made is not None
    residual, weight = made
    assert float(weight.sum()) > 0
    step = random_step(unknowns, 7)
    there = [at(unknowns, config, moved_blocks(unknowns.blocks, scaled(step, by))) for by in (small, -small)]
    numeric = (cost(there[0], stage, WIDTH)[0] - cost(there[1], stage, WIDTH)[0]) / (2 * small)
    normal = linearise(here, stage, WIDTH)
    torch.testing.assert_close(inner(normal.gradient(), step), numeric, rtol=1e-5, atol=1e-8)
    change = (term.make(there[0])[0] - term.make(there[1])[0]) / (2 * small)  # type: ignore[index]
    distance = smoothed(residual, max(WIDTH, term.width))
    strength = weight / weight.sum() * rho_slope(distance, term.gamma) / distance
    if term.mutual:
        return  # people overlap too rarely here for more than the gradient; its curvature is that of one side, twice
    torch.testing.assert_close(
        curvature(normal, step), (strength * change.square().sum(-1)).sum(), rtol=1e-4, atol=1e-9
    )


def dense(normal: Normal) -> Tensor:
    """The whole matrix, people first, then globals, then cameras."""
    frames, people = normal.frames, normal.people
    size = people * frames * PERSON
    whole = torch.zeros(size + normal.globals + frames * FRAME, size + normal.globals + frames * FRAME).double()
    place = lambda p, t: slice((p * frames + t) * PERSON, (p * frames + t + 1) * PERSON)  # noqa: E731
    camera = lambda t: slice(size + normal.globals + t * FRAME, size + normal.globals + (t + 1) * FRAME)  # noqa: E731
    common = slice(size, size + normal.globals)
    for t in range(frames):
        for u in range(t, frames):
            whole[camera(u), camera(t)] = normal.frame_frame[t, u - t]
            whole[camera(t), camera(u)] = normal.frame_frame[t, u - t].T
        whole[camera(t), common] = normal.frame_global[t]
        whole[common, camera(t)] = normal.frame_global[t].T
        for p in range(people):
            whole[place(p, t), common] = normal.person_global[p, t]
            whole[common, place(p, t)] = normal.person_global[p, t].T
            for gap in range(3):
                if t + gap < frames:
                    whole[place(p, t + gap), place(p, t)] = normal.chain[gap][p, t]
                    whole[place(p, t), place(p, t + gap)] = normal.chain[gap][p, t].T
            for k in range(5):
                if 0 <= t + k - 2 < frames:
                    whole[place(p, t), camera(t + k - 2)] = normal.person_frame[p, t, k]
                    whole[camera(t + k - 2), place(p, t)] = normal.person_frame[p, t, k].T
    whole[common, common] = normal.global_global
    return whole


def flat(step: Step) -> Tensor:
    return torch.cat((step.person.transpose(0, 1).flatten(), step.common, step.betas.flatten(), step.frame.flatten()))


def curvature(normal: Normal, step: Step) -> Tensor:
    vector = flat(step)
    return vector @ dense(normal) @ vector


@pytest.mark.parametrize("frames", [7, 8])
def test_block_solve_is_the_dense_solve(frames: int) -> None:
    unknowns, config = situation("sfm")
    normal = linearise(at(unknowns, config, unknowns.blocks), 2, WIDTH)
    if frames == 7:  # an odd count is padded to a whole block
        normal = without_last_frame(normal)
    damping = 1e-2
    keep_frame = torch.ones(FRAME, dtype=torch.bool)
    keep_frame[-1] = False
    keep_global = torch.ones(normal.globals, dtype=torch.bool)
    keep_global[2:6] = False
    step = solve(normal, damping, keep_frame, keep_global)
    whole, people = dense(normal), normal.people * frames * PERSON
    keep = torch.cat((torch.ones(people, dtype=torch.bool), keep_global, keep_frame.repeat(frames)))
    whole = whole[keep][:, keep]
    right = flat(normal.gradient())[keep]
    expected = -torch.linalg.solve(whole + damping * torch.diag(whole.diagonal()), right)
    assert step is not None
    torch.testing.assert_close(flat(step)[keep], expected, rtol=1e-3, atol=1e-5)  # the solve lifts the diagonal by 1e-9
    assert float(flat(step)[~keep].abs().max()) == 0


def without_last_frame(normal: Normal) -> Normal:
    """The same sums, of one frame fewer."""
    cut = Normal(normal.frames - 1, normal.people, normal.betas, normal.by_global)
    last = normal.frames - 1
    for gap in range(3):
        cut.chain[gap][:, : last - gap] = normal.chain[gap][:, : last - gap]
    for k in range(5):
        stop = last - max(0, k - 2)
        cut.person_frame[:, :stop, k] = normal.person_frame[:, :stop, k]
    cut.person_global[:, :last], cut.by_person[:, :last] = normal.person_global[:, :last], normal.by_person[:, :last]
    cut.frame_frame, cut.frame_global = normal.frame_frame[:last].clone(), normal.frame_global[:last]
    for t in range(last):
        cut.frame_frame[t, last - t :] = 0
    cut.by_frame, cut.global_global, cut.by_global = normal.by_frame[:last], normal.global_global, normal.by_global
    return cut


def test_people_who_stand_in_each_other_are_pushed_apart_by_both_solvers() -> None:
    unknowns, config = situation("sfm")
    blocks = {name: block.clone() for name, block in unknowns.blocks.items()}
    e = unknowns.evidence
    meet = e.root[:, 0] + torch.tensor([0.1, 0.0, 0.0]).double()
    blocks["root_ray"][:, 1] = meet[:, :2] / meet[:, 2:] - e.root[:, 1, :2] / e.root[:, 1, 2:]
    blocks["root_depth"][:, 1] = (meet[:, 2] / e.root[:, 1, 2]).log()
    config, step, small = only(config, "people_apart"), random_step(unknowns, 3), 1e-6
    here = at(unknowns, config, blocks)
    value = cost(here, 2, WIDTH)[0]
    there = [cost(at(unknowns, config, moved_blocks(blocks, scaled(step, by))), 2, WIDTH)[0] for by in (small, -small)]
    gradient = linearise(here, 2, WIDTH).gradient()
    torch.testing.assert_close(inner(gradient, step), (there[0] - there[1]) / (2 * small), rtol=1e-5, atol=1e-9)
    downhill = cost(at(unknowns, config, moved_blocks(blocks, scaled(gradient, -1e-3))), 2, WIDTH)[0]
    assert downhill < value


def test_a_wrong_name_or_device_is_an_error_before_the_solve() -> None:
    with pytest.raises(ValueError, match="device"):
        OptimiseConfig(device="gpu0")
    clip = make_clip(ClipSpec(id="two", seed=5, frames=8, fps=10.0, objects=4))
    problem = problem_from_truth(clip, WRONG, points=60)
    with pytest.raises(FootfallError, match="no such block"):
        solve_clip(problem, OptimiseConfig(frozen=["betaz"]), lambda fraction, text: None)
