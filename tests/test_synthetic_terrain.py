"""Terrain and actions: feet that stand do not slide on stairs and slopes, nobody sinks; the benchmark is fixed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from distill.synthetic import ClipSpec, SyntheticClip, collection, make_clip
from distill.synthetic.collections import truth_hash
from distill.synthetic.motion import JOINT
from distill.synthetic.terrain import RISE, STAIRS, make_terrain
from distill.synthetic.world import free_body

CASES = [
    *({"terrain": kind} for kind in ("stairs_up", "stairs_down", "ramp_up", "ramp_down", "kerb_up", "kerb_down")),
    {"terrain": "stairs_up", "people": 2, "seed": 5},
    *({"motion": motion} for motion in ("jog", "sit", "clap", "kick", "loop")),
    {"motion": "cross", "people": 3},
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def clip(request: pytest.FixtureRequest) -> SyntheticClip:
    return make_clip(ClipSpec(**{"frames": 120, "seed": 3, **request.param}))


def test_standing_feet_are_on_the_surface_and_stay(clip: SyntheticClip) -> None:
    sites = free_body().sites(*clip.pose).double().numpy()[..., :4, :]
    stands = clip.truth.motion.contact_prob[..., :4] > 0.5
    assert stands.sum() > 100
    moved = np.linalg.norm(np.diff(sites, axis=0), axis=-1)
    assert moved[stands[1:] & stands[:-1]].max() < 1e-4
    gap = sites[..., 2] - make_terrain(clip.spec).height(sites[..., :2])
    assert np.abs(gap[stands]).max() < 0.005


def test_nobody_sinks_into_stairs_or_slopes(clip: SyntheticClip) -> None:
    terrain = make_terrain(clip.spec)
    for vertices in clip.people_vertices(np.arange(0, clip.spec.frames, 5)):
        assert (vertices[..., 2] - terrain.height(vertices[..., :2])).min() > -0.01


def test_bodies_move_as_bodies_can(clip: SyntheticClip) -> None:
    joints, fps = clip.truth.joints_world, clip.spec.fps
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1) * fps
    assert speed.max() < 9  # a swinging foot on stairs, a kick
    acceleration = np.linalg.norm(np.diff(joints[:, :, JOINT["pelvis"]], 2, axis=0), axis=-1) * fps**2
    assert acceleration.max() < 30


def test_rays_meet_the_terrain_that_feet_stand_on() -> None:
    spec = ClipSpec(frames=60, seed=3, terrain="stairs_up", objects=0)
    clip, terrain = make_clip(spec), make_terrain(spec)
    along = terrain.axes[0]
    u = np.linspace(-3, 3, 200)
    above = np.column_stack((u[:, None] * along, np.full(len(u), 5.0)))
    hits = clip.scene.caster.cast(above, np.tile([0.0, 0.0, -1.0], (len(u), 1)))
    clear = np.array([np.abs(terrain.edges() - x).min() > 1e-3 for x in u])
    np.testing.assert_allclose(5.0 - hits.distance[clear], terrain.along(u[clear]), atol=1e-4)
    assert terrain.along(np.array([4.0]))[0] == pytest.approx(STAIRS * RISE)


def test_a_jogger_flies_a_sitter_sits_and_fast_hands_are_fast() -> None:
    def made(**fields: object) -> SyntheticClip:
        return make_clip(ClipSpec(**{"frames": 120, "seed": 3, **fields}))

    feet = made(motion="jog").truth.motion.contact_prob[..., :4] > 0.5
    assert 0.15 < (~feet.any(-1)).mean() < 0.5
    pelvis = made(motion="sit").truth.joints_world[:, 0, 0, 2]
    assert pelvis[0] > 0.7
    assert pelvis[60] < 0.6
    for motion, joint in (("clap", "left_wrist"), ("kick", "right_ankle")):
        path = made(motion=motion).truth.joints_world[:, 0, JOINT[joint]]
        assert np.linalg.norm(np.diff(path, axis=0), axis=-1).max() * 30 > 2.5


def test_ways_cross_but_people_never_meet() -> None:
    pelvis = make_clip(ClipSpec(frames=120, seed=3, motion="cross", people=4)).truth.joints_world[:, :, 0, :2]
    apart = np.linalg.norm(pelvis[:, :, None] - pelvis[:, None], axis=-1)[:, ~np.eye(4, dtype=bool)]
    assert apart.min() > 0.45
    assert apart.min(axis=0).max() < 2.5


def test_the_benchmark_has_what_it_must_have_and_never_changes() -> None:
    specs = collection("footsteps-v1")
    assert len(specs) >= 24
    assert all(100 <= spec.frames <= 400 for spec in specs)
    assert {spec.people for spec in specs} == {1, 2, 3, 4}
    assert {spec.camera for spec in specs} == {"walk", "pan", "shake", "static"}
    assert len(Counter(spec.terrain for spec in specs)) == 7
    assert {"turn", "jog", "sit", "stand", "cross", "clap", "kick"} <= {spec.motion for spec in specs}
    expected = json.loads((Path(__file__).parent / "data" / "footsteps-v1.json").read_text())
    assert list(expected) == [spec.id for spec in specs]
    for spec in specs[::3]:
        assert truth_hash(make_clip(spec)) == expected[spec.id], spec.id


def test_a_clip_of_two_thousand_frames_returns_to_its_start() -> None:
    clip = make_clip(ClipSpec(frames=2000, seed=4, motion="loop", size=[240, 136]))
    path = clip.truth.joints_world[:, 0, 0, :2]
    assert np.linalg.norm(path[-1] - path[0]) < 1.0
    assert np.linalg.norm(path[1000] - path[0]) > 10
