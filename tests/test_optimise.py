"""The joint solve finds a known world again from initial values that are wrong in known ways."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.errors import FootfallError
from distill.files import read_json
from distill.geometry.alignment import align_points
from distill.geometry.cameras import project
from distill.results import load_result
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from teacher.optimise import quality
from teacher.optimise import run as optimise
from teacher.optimise.assemble import assemble_result
from teacher.optimise.config import LearningRates, OptimiseConfig, TermWeights
from teacher.optimise.contact_chain import reestimate, speeds
from teacher.optimise.contacts import Partners, SceneDepth, find_partners, only_level
from teacher.optimise.degrade import Degradation, problem_from_truth
from teacher.optimise.evidence import make_evidence
from teacher.optimise.measure import Measures, measure
from teacher.optimise.problem import Problem, match_focal
from teacher.optimise.solver import Solution, solve
from teacher.optimise.tracks import make_tracks
from teacher.optimise.variables import State, Unknowns, free_blocks
from teacher.stagefiles import CameraInit, Contacts, DepthInit, Frames
from teacher.workspace import ClipFolder, ClipSource, StageRecord

WRONG = Degradation(
    focal=1.15, unit=1 / 3, root_depth=1.15, root_depth_sd=0.02, root_rot_sd=0.03, pose_sd=0.08, keypoint_px=1.0,
    track_px=1.0, depth_sd=0.02,
)  # fmt: skip
"""Focal and depth 15 % too long, a scene in units of three metres, noise on everything."""
QUICK = OptimiseConfig(stage1_steps=6, stage2_steps=6, search_every=4, trace_every=2)


def silent(fraction: float, text: str) -> None:
    """A report that nobody reads."""


@functools.cache
def world(camera: str = "walk", people: int = 1, frames: int = 40) -> SyntheticClip:
    return make_clip(ClipSpec(frames=frames, people=people, seed=4, camera=camera, objects=4))  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Case:
    """A solved problem with its truth."""

    clip: SyntheticClip
    problem: Problem
    solution: Solution
    unit: float

    def error_mm(self, state: State) -> float:
        """Mean joint error in the world after a rigid alignment (no scale) of the whole clip, millimetres."""
        truth = torch.from_numpy(self.clip.truth.joints_world).double().reshape(-1, 3)
        solved = state.world.joints.double().reshape(-1, 3)
        _, rotation, translation = align_points(truth, solved, with_scale=False)
        return float((truth - solved @ rotation.T - translation).norm(dim=-1).mean()) * 1000

    def focal_ratio(self, state: State) -> float:
        return float(state.K[0, 0]) / self.clip.truth.cameras.K[0, 0]

    def camera_path_ratio(self, state: State) -> float:
        """Distance between first and last camera relative to the truth: the scale of the cameras."""
        truth = self.clip.truth.cameras.world_from_cam[:, :3, 3]
        return float((state.centre[-1] - state.centre[0]).norm()) / float(np.linalg.norm(truth[-1] - truth[0]))

    def depth_ratio(self, state: State) -> float:
        """Depth of the scene relative to the truth: wrong cameras see it `focal` times too far, in their own unit."""
        return float(state.depth_scale.median()) * self.solution.evidence.unit * self.unit

    def slip(self, state: State) -> float:
        """Mean speed of the sites that truly stand, m/s."""
        touching = torch.from_numpy(self.clip.truth.motion.contact_prob) > 0.5
        speed = (state.world.sites[1:] - state.world.sites[:-1]).norm(dim=-1) / self.solution.evidence.dt[:, None, None]
        return float(speed[touching[1:] & touching[:-1]].mean())


@functools.cache
def solved(camera: str = "walk", people: int = 1, kind: str = "sfm", align: float = 1.0, still: float = 1.0) -> Case:
    """Solve a degraded clip; `align` and `still` weigh the two contact terms."""
    clip = world(camera, people)
    degradation = replace(WRONG, cameras=kind)
    if kind != "sfm":
        degradation = replace(degradation, focal=1.0, unit=1.0)
    weights = TermWeights(contact_align=align, penetration=0.5 * align, contact_still=still)
    problem = problem_from_truth(clip, degradation)
    solution = solve(problem, OptimiseConfig(weights=weights), silent)
    return Case(clip=clip, problem=problem, solution=solution, unit=degradation.unit * degradation.focal)


def test_a_moving_camera_and_a_person_are_found_again() -> None:
    case = solved()
    before, after = case.solution.before, case.solution.after
    assert case.error_mm(after) < case.error_mm(before) / 4
    assert abs(case.focal_ratio(before) - 1.15) < 1e-3
    assert abs(case.focal_ratio(after) - 1) < 0.04
    assert abs(case.depth_ratio(after) - 1) < 0.05
    assert abs(case.camera_path_ratio(after) - 1) < 0.05
    assert case.slip(after) < min(0.25, case.slip(before) / 10)


def test_the_measures_fall_and_the_held_out_part_agrees() -> None:
    case = solved()
    config = OptimiseConfig()
    before = measure(case.solution.before, case.solution.evidence, config).summary()
    after = measure(case.solution.after, case.solution.evidence, config).summary()
    for name in ("keypoint_px", "background_px", "slip_mps", "foot_gap_m"):
        assert after[name] < before[name], name
    # Noise of 1 px per axis on both ends of a pair leaves a median near sqrt(2) * 1.18 px.
    assert after["background_px"] < 2.0
    assert abs(after["held_out_px"] - after["background_px"]) < 0.3


def test_contacts_alone_tell_the_scale() -> None:
    # L_c1 compares depths, L_c2 lets the feet stand while the camera travels: either finds the scale.
    assert abs(solved(align=1.0, still=0.0).depth_ratio(solved(align=1.0, still=0.0).solution.after) - 1) < 0.06
    still_only = solved(align=0.0, still=1.0)
    assert still_only.solution.evidence.unit_from == "still"
    assert abs(still_only.depth_ratio(still_only.solution.after) - 1) < 0.06
    neither = solved(align=0.0, still=0.0)
    assert neither.solution.evidence.unit_from == "pelvis"
    assert abs(neither.depth_ratio(neither.solution.after) - 1) > 0.15


def test_a_scale_without_contacts_is_not_taught() -> None:
    case = solved(align=0.0, still=0.0)
    result = assemble_result(case.problem, case.solution, _measures(case), OptimiseConfig())
    verdict, weight = quality.judge(result, _measures(case), quality.QualityConfig())
    assert verdict.decision == "reject"
    assert any("scale is a guess" in reason for reason in verdict.reasons)
    assert weight.max() == 0


def test_two_people_before_a_fixed_camera_stand_on_one_ground() -> None:
    case = solved("static", 2, "static")
    before, after = case.solution.before, case.solution.after
    assert case.solution.evidence.partners is None
    assert torch.equal(after.centre, before.centre)
    assert torch.equal(after.rotation, before.rotation)
    assert case.error_mm(after) < case.error_mm(before) / 3
    assert case.slip(after) < 0.15
    numbers = _measures(case).summary()
    assert numbers["background_px"] is None
    assert numbers["foot_gap_m"] < 0.02
    # One ground: the truth's own vertical and floor height say how far the common plane is off.
    cam_from_world = np.linalg.inv(case.clip.truth.cameras.world_from_cam[0])
    up = torch.from_numpy(cam_from_world[:3, 2]).float()
    assert torch.rad2deg(torch.acos((after.normal @ up).clamp(max=1))) < 5


def test_known_cameras_and_focal_do_not_move() -> None:
    case = solved("walk", 2, "known")
    before, after = case.solution.before, case.solution.after
    for name in ("rotation", "centre", "K", "scale", "depth_scale"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    assert case.error_mm(after) < case.error_mm(before) / 3
    assert case.error_mm(after) < 50


def test_the_result_is_z_up_on_the_ground_and_complete() -> None:
    case = solved()
    result = assemble_result(case.problem, case.solution, _measures(case), OptimiseConfig())
    result.check()
    truth = case.clip.truth
    assert result.meta["world"] == "z_up_ground"
    true_from_solved = truth.cameras.world_from_cam[0] @ np.linalg.inv(result.cameras.world_from_cam[0])
    assert np.degrees(np.arccos(true_from_solved[2, 2])) < 2
    assert abs(result.cameras.world_from_cam[0, 2, 3] - truth.cameras.world_from_cam[0, 2, 3]) < 0.08
    # The focal coupling t_z' = (f / f_init) t_z is in the result, not only in the objective.
    depth = result.motion.cam_from_body[..., 2, 3] / truth.motion.cam_from_body[..., 2, 3]
    assert abs(np.median(depth) - 1) < 0.04
    # Points of the ground lie at height 0.
    near_ground = np.abs(result.scene_points[:, 2]) < 0.15
    assert near_ground.mean() > 0.2
    verdict, weight = quality.judge(result, _measures(case), quality.QualityConfig())
    assert verdict.decision == "accept", verdict.reasons
    assert weight.min() > 0


def _measures(case: Case) -> Measures:
    return measure(case.solution.after, case.solution.evidence, OptimiseConfig())


def test_a_solve_is_deterministic() -> None:
    problem = problem_from_truth(world(), WRONG)
    first, second = (solve(problem, QUICK, silent) for _ in range(2))
    assert torch.equal(first.after.world.joints, second.after.world.joints)
    assert first.trace == second.trace
    assert {entry["stage"] for entry in first.trace} == {1, 2}


def test_divergence_is_an_error_that_names_the_term() -> None:
    rates = LearningRates(root_depth=30.0, pose=30.0, root_ray=5.0)
    config = OptimiseConfig(solver="adam", stage1_steps=12, stage2_steps=0, rates=rates)
    with pytest.raises(FootfallError, match=r"diverging objective; term \w+ went from"):
        solve(problem_from_truth(world(), WRONG), config, silent)


def test_perfect_initial_values_stay() -> None:
    problem = problem_from_truth(world(), Degradation())
    case = Case(clip=world(), problem=problem, solution=solve(problem, OptimiseConfig(), silent), unit=1.0)
    assert case.error_mm(case.solution.after) < 10
    assert abs(case.focal_ratio(case.solution.after) - 1) < 0.005
    assert abs(case.depth_ratio(case.solution.after) - 1) < 0.01


def test_focal_moves_the_camera_back_and_leaves_world_and_image_alone() -> None:
    evidence = make_evidence(problem_from_truth(world(), Degradation()), OptimiseConfig())
    unknowns = Unknowns(evidence)
    with torch.no_grad():
        before = unknowns.decode()
        unknowns.blocks["log_focal"].fill_(0.1)
        after = unknowns.decode()
    pelvis_px = [project(s.cam.joints[:, :, 0], s.K) for s in (before, after)]
    torch.testing.assert_close(pelvis_px[1], pelvis_px[0], rtol=1e-4, atol=1e-2)
    ratio = after.cam_from_body[..., 2, 3] / before.cam_from_body[..., 2, 3]
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(np.exp(0.1))), rtol=1e-4, atol=1e-4)
    moved = (after.world.joints[:, :, 0] - before.world.joints[:, :, 0]).norm(dim=-1)
    # The pivot lies at the median depth of the people; their own depths differ from it by centimetres.
    spread = (evidence.root[..., 2] - evidence.pivot).abs().max() * (np.exp(0.1) - 1)
    assert moved.max() < 1.2 * float(spread) + 1e-3


def test_rotations_stay_rotations() -> None:
    after = solved().solution.after
    for rotation in (after.rotation, after.body_rot, after.cam_from_body[..., :3, :3]):
        product = rotation @ rotation.transpose(-1, -2)
        torch.testing.assert_close(product, torch.eye(3).expand_as(product), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "frozen", "free"),
    [
        ("sfm", {"plane_tilt"}, {"log_focal", "log_scale", "camera_pos"}),
        ("known", {"camera_rot", "camera_pos", "log_scale", "log_drift", "log_focal"}, {"pose", "betas"}),
        ("static", {"camera_rot", "camera_pos", "log_scale"}, {"log_focal", "plane_tilt"}),
    ],
)
def test_what_is_known_is_no_unknown(kind: str, frozen: set[str], free: set[str]) -> None:
    open_blocks = free_blocks(
        problem_from_truth(world("static" if kind == "static" else "walk"), Degradation(cameras=kind))
    )
    assert not frozen & open_blocks
    assert free <= open_blocks


# --- parts ---------------------------------------------------------------------------------------------


def test_partners_follow_a_slanted_ground_to_the_contact() -> None:
    K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    height, width = 240, 320
    v = (np.arange(height) + 0.5) * 2
    below = np.where(v > 250, v - 240, np.inf)
    ground = np.broadcast_to((400 * 1.5 / below)[:, None], (height, width)).copy()  # a floor 1.5 m below the camera
    ground[150:200, 140:180] = 0  # the person's shoe and leg
    depth = DepthInit(depth=ground[None].astype(np.float32))
    scene = SceneDepth.from_dense(depth, (640, 480), unit=1.0, spacing=6.0)
    foot = np.array([320.0, 380.0])
    sites = np.tile(foot, (1, 1, 6, 1))
    sites[0, 0, 1] = [-5, 380]  # outside of the image
    sites[0, 0, 2] = [320, 30]  # above the horizon nothing is known
    partners = find_partners(
        scene, sites, np.array([[60.0]]), K, size=(640, 480), count=24, depth_ratio=1.04
    )  # fmt: skip
    assert partners.depth[0, 0, 0] == pytest.approx(400 * 1.5 / 140, rel=5e-3)
    assert partners.weight[0, 0, 0] > 0.2
    torch.testing.assert_close(partners.normal[0, 0, 0], torch.tensor([0.0, -1.0, 0.0]), rtol=0, atol=0.02)
    assert partners.weight[0, 0, 1] == 0
    assert partners.weight[0, 0, 2] == 0
    nearest = scene.nearest(0, foot[None], count=1, radius=np.array([100.0]))[1][0, 0]
    assert abs(nearest / (400 * 1.5 / 140) - 1) > 0.05  # what JOSH would have taken


def test_a_site_at_a_depth_edge_has_no_partner() -> None:
    K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    rng = np.random.default_rng(0)
    broken = rng.choice([3.0, 9.0], (1, 240, 320)).astype(np.float32)  # no surface at all
    scene = SceneDepth.from_dense(DepthInit(depth=broken), (640, 480), unit=1.0, spacing=6.0)
    sites = rng.uniform(100, 380, (1, 1, 6, 2))
    partners = find_partners(scene, sites, np.array([[60.0]]), K, size=(640, 480), count=24, depth_ratio=1.04)
    flat = SceneDepth.from_dense(DepthInit(depth=np.full_like(broken, 3.0)), (640, 480), unit=2.0, spacing=6.0)
    whole = find_partners(flat, sites, np.array([[60.0]]), K, size=(640, 480), count=24, depth_ratio=1.04)
    assert (whole.weight > 0).all()
    torch.testing.assert_close(whole.depth, torch.full((1, 1, 6), 6.0), rtol=1e-4, atol=1e-4)
    assert (partners.weight > 0).sum() < 6


def test_nobody_stands_on_a_wall_but_a_hand_may_rest_on_it() -> None:
    normal = torch.zeros(1, 1, 6, 3)
    normal[..., 0, :] = torch.tensor([0.0, -1.0, 0.0])  # a floor: up is -y in a level camera
    normal[..., 1:, :] = torch.tensor([0.0, 0.0, -1.0])  # a wall that faces the camera
    found = Partners(px=torch.zeros(1, 1, 6, 2), depth=torch.ones(1, 1, 6), normal=normal, weight=torch.ones(1, 1, 6))
    kept = only_level(found, torch.tensor([[0.0, -1.0, 0.0]]), 35.0)
    assert kept.weight.flatten().tolist() == [1, 0, 0, 0, 1, 1]


def test_sparse_points_replace_missing_dense_depth() -> None:
    problem = problem_from_truth(world(), replace(Degradation(), dense=False), points=6000)
    evidence = make_evidence(problem, OptimiseConfig())
    assert problem.depth is None
    assert "depth" in evidence.unit_from
    assert evidence.unit == pytest.approx(1.0, abs=0.03)


def test_motion_can_veto_a_contact_label() -> None:
    sites = torch.zeros(20, 1, 6, 3)
    sites[:, 0, 1, 0] = torch.arange(20) * 0.05  # 1.5 m/s at 30 frames a second
    dt = torch.full((19,), 1 / 30)
    prob = reestimate(torch.full((20, 1, 6), 0.9), dt, speed=speeds(sites, dt))
    assert prob[:, 0, 1].max() < 0.5
    assert prob[:, 0, 0].min() > 0.9


def test_flickering_labels_are_mended_and_unlabelled_contacts_found() -> None:
    truth = (torch.arange(90) // 15 % 2 == 0).float()  # half a second of stance, half a second of flight
    flicker = truth.clone()
    flicker[[5, 6, 20, 21, 50, 70]] = 1 - flicker[[5, 6, 20, 21, 50, 70]]
    labels, dt = flicker[:, None, None].expand(90, 1, 6), torch.full((89,), 1 / 30)
    found = reestimate(0.1 + 0.8 * labels, dt)
    assert ((found[:, 0, 0] > 0.5) == (truth > 0.5)).float().mean() > 0.95
    speed = (1.5 * (1 - truth))[:, None, None].expand(90, 1, 6)
    unlabelled = reestimate(torch.full((90, 1, 6), 0.35), dt, speed=speed)
    assert ((unlabelled[:, 0, 0] > 0.5) == (truth > 0.5)).float().mean() > 0.95


def test_the_scene_speaks_where_it_is_seen() -> None:
    given, dt = torch.full((30, 1, 6), 0.6), torch.full((29,), 1 / 30)
    still, high = torch.zeros(30, 1, 6), torch.full((30, 1, 6), 0.4)
    seen = torch.zeros(30, 1, 6, dtype=torch.bool)
    seen[..., 1] = True
    prob = reestimate(given, dt, speed=still, gap=high, seen=seen)
    assert prob[..., 0].min() > 0.5
    assert prob[..., 1].max() < prob[..., 0].min()


def test_tracks_pair_each_point_with_itself_and_hold_whole_points_out() -> None:
    pose = np.tile(np.eye(4), (5, 1, 1))
    points = np.array([[0, 0, 4.0], [1, 0, 5.0], [0, 1, 6.0]] * 40, np.float32)
    frame, point = (grid.ravel() for grid in np.meshgrid(np.arange(5), np.arange(120), indexing="ij"))
    cameras = CameraInit(
        kind="sfm", metric=False, focal_known=False, K=np.eye(3), world_from_cam=pose,
        registered=np.array([True, True, True, True, False]), points=points, points_rgb=np.zeros((120, 3), np.uint8),
        obs_frame=frame.astype(np.int32), obs_point=point.astype(np.int32),
        obs_px=np.stack((frame, point), -1).astype(np.float32),
    )  # fmt: skip
    solve_part, held = make_tracks(cameras, unit=2.0, gaps=[1, 3], max_pairs=10_000, held_out=0.25, seed=1)
    for part in (solve_part, held):
        assert torch.equal(part.point[part.a], part.point[part.b])
        assert set((part.frame[part.b] - part.frame[part.a]).tolist()) == {1, 3}
        assert part.frame.max() == 3  # frame 4 is not registered
        torch.testing.assert_close(part.depth, 2 * torch.from_numpy(points[part.point.numpy(), 2]))
    assert not set(solve_part.point.tolist()) & set(held.point.tolist())
    assert len(solve_part) + len(held) == 120 * 4  # 3 pairs with gap 1, 1 pair with gap 3
    few, _ = make_tracks(cameras, unit=2.0, gaps=[1, 3], max_pairs=50, held_out=0.0, seed=1)
    assert len(few) == 50


def test_bodies_follow_another_focal_length() -> None:
    bodies = problem_from_truth(world(), Degradation()).bodies
    moved = match_focal(bodies, 2 * bodies.focal_px)
    np.testing.assert_allclose(moved.cam_from_body[..., 2, 3], 2 * bodies.cam_from_body[..., 2, 3])
    np.testing.assert_allclose(moved.cam_from_body[..., :2, 3], bodies.cam_from_body[..., :2, 3])


# --- bad input -----------------------------------------------------------------------------------------


def test_a_clip_without_people_says_so() -> None:
    problem = problem_from_truth(world(), Degradation())
    nobody = replace(problem.bodies, present=np.zeros_like(problem.bodies.present))
    with pytest.raises(FootfallError, match="no body in any frame"):
        replace(problem, bodies=nobody)


@pytest.mark.parametrize("broken", ["frames", "nan", "times", "behind"])
def test_stage_files_that_do_not_fit_are_refused(broken: str) -> None:
    problem = problem_from_truth(world(), Degradation())
    with pytest.raises(FootfallError, match="stage files"):
        if broken == "frames":
            replace(problem, contacts=Contacts(prob=problem.contacts.prob[:-1]))
        elif broken == "nan":
            replace(problem, contacts=Contacts(prob=np.full_like(problem.contacts.prob, np.nan)))
        elif broken == "times":
            replace(problem, timestamps=problem.timestamps[::-1])
        else:
            replace(problem, bodies=replace(problem.bodies, cam_from_body=-problem.bodies.cam_from_body))


def test_a_licensed_body_without_its_file_names_the_config_key() -> None:
    problem = problem_from_truth(world(), Degradation())
    with pytest.raises(FootfallError, match=r"optimise\.body_file"):
        make_evidence(replace(problem, bodies=replace(problem.bodies, body_model="smpl")), OptimiseConfig())


@pytest.mark.parametrize("field", ["stage1_steps", "neighbours", "held_out", "divergence"])
def test_config_values_are_checked(field: str) -> None:
    with pytest.raises(ValueError, match=f"optimise.{field}"):
        OptimiseConfig(**{field: -1})


# --- the stage -----------------------------------------------------------------------------------------


def test_the_stage_reads_and_writes_the_clip_folder(tmp_path: Path) -> None:
    problem = problem_from_truth(world(), WRONG)
    clip = ClipFolder(tmp_path / "clip")
    clip.write_source(ClipSource(id="clip", path="none", sha256=""))
    frames = Frames(
        timestamps=problem.timestamps, size=list(problem.size), source_size=list(problem.size), unreadable=0
    )
    assert problem.depth is not None
    stages = {
        "frames": frames, "people": problem.people, "cameras": problem.cameras, "depth": problem.depth,
        "bodies": problem.bodies, "contacts": problem.contacts,
    }  # fmt: skip
    for stage, file in stages.items():
        file.save(clip.stage_dir(stage))
        _finish(clip, stage)
    for index in range(len(problem.timestamps)):
        Image.new("RGB", problem.size, (10, 200, 30)).save(Frames.image_path(clip.stage_dir("frames"), index))
    clip.begin("joint")
    outcome = optimise.run(clip, QUICK, silent)
    _finish(clip, "joint")
    json.dumps(outcome.summary)
    assert set(outcome.summary["before"]) == set(outcome.summary["after"])
    result = load_result(clip.require("joint"))
    assert result.motion.present.shape == (40, 1)
    assert np.median(result.scene_rgb, axis=0).tolist() == pytest.approx([10, 200, 30], abs=8)
    assert read_json(clip.stage_dir("joint") / "trace.json")["steps"][0]["stage"] == 1
    clip.begin("quality")
    verdict = quality.run(clip, quality.QualityConfig(), silent).summary
    assert verdict["decision"] in ("accept", "weight", "reject")
    assert read_json(clip.stage_dir("quality") / "quality.json") == verdict


def _finish(clip: ClipFolder, stage: str) -> None:
    clip.finish(StageRecord(stage=stage, status="done", implementation="test", config_hash="", inputs={}))
