"""The motion of synthetic people: feet that stand do not slide, nobody sinks, no joint bends the wrong way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.errors import FootfallError
from distill.synthetic import ClipSpec, SyntheticClip, make_clip
from distill.synthetic.axes import rot_x, turn, world_from_heading
from distill.synthetic.bvh import SOURCE_JOINT, read_bvh
from distill.synthetic.gait import CLEARANCE as SWING_CLEARANCE
from distill.synthetic.legs import MIN_FLEXION, Leg, solve_leg
from distill.synthetic.motion import JOINT
from distill.synthetic.paths import CLEARANCE
from distill.synthetic.world import free_body

CASES = [
    {"motion": "walk", "seed": 1},
    {"motion": "walk", "seed": 2, "speed": 1.9},
    {"motion": "walk", "seed": 3, "people": 3},
    {"motion": "walk", "seed": 8, "speed": 0.7},
    {"motion": "turn", "seed": 4, "camera": "static"},
    {"motion": "turn", "seed": 5, "people": 2, "camera": "shake"},
    {"motion": "stand", "seed": 6, "people": 4, "camera": "pan"},
]


def _name(case: dict[str, object]) -> str:
    return "-".join(str(value) for value in case.values())


@pytest.fixture(scope="module", params=CASES, ids=_name)
def clip(request: pytest.FixtureRequest) -> SyntheticClip:
    return make_clip(ClipSpec(frames=90, fps=30.0, **request.param))


def _sites(clip: SyntheticClip) -> np.ndarray:
    return free_body().sites(*clip.pose).double().numpy()


def test_stance_sites_do_not_slide(clip: SyntheticClip) -> None:
    stands = clip.truth.motion.contact_prob > 0.5
    both = stands[1:] & stands[:-1]
    moved = np.linalg.norm(np.diff(_sites(clip), axis=0), axis=-1)
    assert both.sum() > 100
    assert moved[both].max() < 1e-4  # a tenth of a millimetre: float32 through a chain of joints


def test_stance_sites_are_on_the_ground_and_swing_clears_it(clip: SyntheticClip) -> None:
    height = _sites(clip)[:, :, :4, 2]
    stands = clip.truth.motion.contact_prob[:, :, :4] > 0.5
    assert np.abs(height[stands]).max() < 0.005
    if clip.spec.motion != "stand":
        # Somewhere in each swing both heel and toe are off the ground by most of the clearance.
        lowest = np.minimum(height[..., 0::2], height[..., 1::2])
        assert (lowest.max(axis=0) > 0.8 * SWING_CLEARANCE).all()
        flying = ~stands[..., 0::2] & ~stands[..., 1::2]
        assert flying.any(axis=0).all() and lowest[flying].min() > -0.001


def test_nobody_sinks_into_the_ground(clip: SyntheticClip) -> None:
    lowest = min(vertices[..., 2].min() for vertices in clip.people_vertices(np.arange(0, 90, 6)))
    assert -0.01 < lowest < 0.01


def test_joints_stay_within_human_limits(clip: SyntheticClip) -> None:
    rotations = clip.truth.motion.body_rot
    limits = {"knee": 90, "hip": 70, "ankle": 50, "foot": 60, "elbow": 100, "spine1": 20, "neck": 35, "head": 35}
    for name, index in JOINT.items():
        if index == 0:
            continue
        rotation = rotations[:, :, index - 1]
        cosine = (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        kind = name.split("_")[-1]
        assert angle.max() < limits.get(kind, 125), name
        if kind == "knee":
            # Flexion is about +x; a negative angle would be a knee that bends forwards.
            flexion = np.arctan2(rotation[..., 2, 1], rotation[..., 1, 1])
            assert flexion.min() > MIN_FLEXION - 1e-6


def test_motion_is_smooth(clip: SyntheticClip) -> None:
    joints = clip.truth.joints_world
    acceleration = np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1) * clip.spec.fps**2
    # Pelvis and head accelerate gently; a foot that lands stops within a few hundredths of a second.
    assert acceleration[..., JOINT["pelvis"]].max() < 12
    assert acceleration[..., JOINT["head"]].max() < 25
    assert acceleration.max() < 200


def test_people_keep_apart_from_each_other_and_from_objects(clip: SyntheticClip) -> None:
    pelvis = clip.truth.joints_world[:, :, 0, :2]
    people = pelvis.shape[1]
    for a in range(people):
        for b in range(a):
            assert np.linalg.norm(pelvis[:, a] - pelvis[:, b], axis=-1).min() > 0.9 * CLEARANCE
    for x, y, radius in clip.scene.spots:
        assert np.linalg.norm(pelvis - [x, y], axis=-1).min() > radius + 0.4


def test_both_feet_step_in_turn() -> None:
    clip = make_clip(ClipSpec(seed=1, frames=120, fps=30.0))
    stands = clip.truth.motion.contact_prob[:, 0] > 0.5
    left, right = stands[:, 0] | stands[:, 1], stands[:, 2] | stands[:, 3]
    assert (left | right).mean() > 0.9  # walking: one foot is always down, but for the moment of landing
    assert 0.5 < left.mean() < 0.75 and 0.5 < right.mean() < 0.75


def test_walking_speed_is_the_one_asked_for() -> None:
    clip = make_clip(ClipSpec(seed=3, frames=120, speed=1.6))
    pelvis = clip.truth.joints_world[:, 0, 0, :2]
    speed = np.linalg.norm(np.diff(pelvis, axis=0), axis=-1).sum() / (119 / 30)
    assert speed == pytest.approx(1.6, rel=0.03)


def test_leg_of_known_angles_is_solved_back() -> None:
    leg = Leg(hip=np.array([0.1, -0.02, 0.0]), thigh=np.array([0.02, -0.38, 0.01]), shin=np.array([0.0, -0.43, -0.02]))
    flexion = np.array([0.1, 0.7, 1.9])
    swing = rot_x(np.array([-0.4, 0.0, 0.5]))
    ankle = leg.hip + turn(swing, leg.thigh + turn(rot_x(flexion), leg.shin))
    lateral = swing[:, :, 0]
    hip, solved = solve_leg(leg, ankle, lateral)
    np.testing.assert_allclose(solved, flexion, atol=1e-9)
    reached = leg.hip + turn(hip, leg.thigh + turn(rot_x(solved), leg.shin))
    np.testing.assert_allclose(reached, ankle, atol=1e-9)


def test_heading_frame_by_hand() -> None:
    # Facing world x: left is +y, up is +z, front is +x.
    np.testing.assert_allclose(world_from_heading(np.array(0.0)), [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_equal_specs_make_equal_worlds_and_seeds_differ() -> None:
    spec = ClipSpec(seed=11, people=2, frames=20)
    first, second, other = make_clip(spec), make_clip(spec), make_clip(ClipSpec(seed=12, people=2, frames=20))
    np.testing.assert_array_equal(first.truth.joints_world, second.truth.joints_world)
    np.testing.assert_array_equal(first.scene.mesh.vertices, second.scene.mesh.vertices)
    assert np.abs(first.truth.joints_world - other.truth.joints_world).max() > 0.1


def test_more_frames_continue_the_same_walk() -> None:
    # Only where the clip's length enters (its middle is at the origin) may differ: speed and shape may not.
    short, long = make_clip(ClipSpec(seed=9, frames=30)), make_clip(ClipSpec(seed=9, frames=60))
    np.testing.assert_array_equal(short.truth.motion.betas, long.truth.motion.betas)


_BVH = """HIERARCHY
ROOT root
{{
 OFFSET 0 0 0
 CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
 JOINT {child}
 {{
  OFFSET 0 1 0
  CHANNELS 3 Zrotation Yrotation Xrotation
  End Site
  {{
   OFFSET 0 1 0
  }}
 }}
}}
MOTION
Frames: 2
Frame Time: 0.5
0 1 0 0 0 0 0 0 0
0 1 0 90 0 0 0 0 90
"""


def test_bvh_angles_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "two.bvh"
    path.write_text(_BVH.format(child="up"))
    clip = read_bvh(path)
    assert clip.names == ["root", "up"] and clip.parents == [-1, 0] and clip.fps == 2.0
    # Root: x to y (90 degrees about z). Child: then y to z about the moved x.
    np.testing.assert_allclose(clip.globals()[1, 0] @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(clip.globals()[1, 1] @ [0, 1, 0], [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("text", ["", "HIERARCHY", "MOTION\nFrames: 1\n", _BVH.format(child="up") + "1 2 3\n"])
def test_a_file_that_is_not_bvh_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.bvh"
    path.write_text(text)
    with pytest.raises(FootfallError, match=r"bad\.bvh"):
        read_bvh(path)


def test_bvh_of_another_skeleton_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "other.bvh"
    path.write_text(_BVH.format(child="up"))
    with pytest.raises(FootfallError, match="lfemur"):
        make_clip(ClipSpec(motion="bvh", bvh=str(path), frames=2))


def test_motion_capture_keeps_limb_directions_and_the_ground(shared_dir: Path) -> None:
    path = shared_dir / "mocap" / "cmu_02_01.bvh"
    clip = make_clip(ClipSpec(motion="bvh", bvh=str(path), frames=60, fps=30.0, seed=3))
    source = read_bvh(path)
    assert set(SOURCE_JOINT.values()) <= set(source.names)
    joints = clip.truth.joints_world[:, 0]
    head_above_feet = joints[:, JOINT["head"], 2] - joints[:, JOINT["left_foot"], 2]
    assert 1.2 < head_above_feet.mean() < 1.7  # upright
    stands = clip.truth.motion.contact_prob[:, 0, :4] > 0.5
    sites = _sites(clip)[:, 0, :4]
    assert 0.2 < stands.mean() < 0.9 and np.abs(sites[..., 2][stands]).max() < 0.06
    # The pelvis goes on in front of the body: steps lead where the person faces.
    travel = joints[-1, 0, :2] - joints[0, 0, :2]
    front = clip.truth.world_from_body[:, 0, :2, 2].mean(axis=0)
    assert np.linalg.norm(travel) > 1.0 and travel @ front > 0.8 * np.linalg.norm(travel) * np.linalg.norm(front)


def test_motion_capture_that_is_too_short_says_so(shared_dir: Path) -> None:
    path = shared_dir / "mocap" / "cmu_02_03.bvh"
    with pytest.raises(FootfallError, match="fewer frames"):
        make_clip(ClipSpec(motion="bvh", bvh=str(path), frames=600))


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", [481, 270]), ("people", 0), ("people", 9), ("speed", 5.0), ("supersample", 2), ("id", "a/b"),
     ("fps", 0.0), ("motion", "bvh")],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(FootfallError, match="bvh" if field == "motion" else field):
        ClipSpec(**{field: value})


def test_body_of_truth_is_the_body_of_the_model(clip: SyntheticClip) -> None:
    motion = clip.truth.motion
    betas, body_rot, _ = clip.pose
    joints = free_body()(betas, body_rot, torch.from_numpy(motion.cam_from_body).float()).joints.numpy()
    np.testing.assert_allclose(joints, motion.joints_cam, atol=2e-5)
