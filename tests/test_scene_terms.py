"""Terms, seeds, footage and the optimiser of the photometric stage: hand-worked values and invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distill.geometry.rotations import matrix_from_quat, matrix_from_rotvec
from distill.metrics.images import ssim
from teacher.scene import motion, terms
from teacher.scene.adam import RowAdam
from teacher.scene.config import GateConfig, GaussiansConfig, PhotoWeights, PriorConfig
from teacher.scene.densify import densify
from teacher.scene.footage import make_footage
from teacher.scene.gate import decide
from teacher.scene.inputs import _interpolated, known_cameras
from teacher.scene.schedule import plan, rates
from teacher.scene.seeds import scene_gaussians, thin_points


def test_dissimilarity_is_one_minus_the_published_ssim() -> None:
    first, second = torch.rand(2, 24, 30, 3, dtype=torch.float64)
    expected = 1 - ssim(first.numpy(), second.numpy(), border="zero")[0]
    assert float(terms.dissimilarity(first, second).mean()) == pytest.approx(expected, abs=1e-6)
    assert float(terms.dissimilarity(first, first).abs().max()) < 1e-9


def test_terms_by_hand() -> None:
    assert float(terms.depth_2d(torch.tensor(2.0), torch.tensor(4.0))) == pytest.approx(math.log(2))
    assert float(terms.far_offset(torch.tensor([[0.0, 0.066, 0]]))[0]) == pytest.approx(0.01, abs=1e-6)
    assert float(terms.far_offset(torch.tensor([[0.05, 0, 0]]))[0]) == 0
    assert float(terms.anisotropy(torch.tensor([[0.001, 0.01, 0.07]]))[0]) == pytest.approx(2.0, abs=1e-5)
    assert float(terms.oversize(torch.tensor([[0.01, 0.02, 0.04]]), torch.tensor([0.02]))[0]) == pytest.approx(
        math.log(2)
    )
    # Huber: 2 cm is inside the width (quadratic), 10 cm outside (linear); over the width of 5 cm.
    points, centres = torch.zeros(1, 3), torch.tensor([[0.02, 0, 0], [0.1, 0, 0]])
    expected = torch.tensor([0.5 * 0.02**2 / 0.05, 0.1 - 0.025])
    torch.testing.assert_close(terms.depth_3d(centres, points), expected)


def test_accelerations_of_known_motions() -> None:
    times = torch.tensor([0.0, 0.1, 0.3, 0.4], dtype=torch.float64)
    fall = torch.stack((torch.zeros(4), torch.zeros(4), -0.5 * 9.81 * times**2), -1).double()
    torch.testing.assert_close(terms.acceleration(fall, times.diff())[:, 2], torch.full((2,), -9.81).double())
    spin = matrix_from_rotvec(torch.stack((times, torch.zeros(4), torch.zeros(4)), -1))
    assert float(terms.turn_acceleration(spin, times.diff()).abs().max()) < 1e-9


def test_gradients_of_terms() -> None:
    generator = torch.Generator().manual_seed(0)
    place = torch.randn(5, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    dt = torch.full((4,), 0.1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: terms.soft(terms.acceleration(x, dt)), place)
    turn = (0.3 * torch.randn(5, 3, dtype=torch.float64, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: terms.soft(terms.turn_acceleration(matrix_from_rotvec(x), dt)), turn)
    image = torch.rand(4, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.rand(4, 4, 3, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda x: terms.dissimilarity(x, target).mean(), image)


def test_stances_keep_their_own_height() -> None:
    prob = torch.zeros(7, 1, 6)
    prob[[0, 1, 2, 5, 6], 0, 0] = 1
    height = torch.tensor([0.0, 0.3, 0.1, 9, 9, 0.5, 0.5])[:, None, None].expand(7, 1, 6)
    found = motion.stance_heights(height, prob)[:, 0, 0]
    torch.testing.assert_close(found[[0, 1, 2]], torch.full((3,), 0.1))
    torch.testing.assert_close(found[[5, 6]], torch.full((2,), 0.5))
    assert bool(found[[3, 4]].isnan().all())


def test_points_are_thinned_evenly_in_the_picture() -> None:
    rng = np.random.default_rng(0)
    near = rng.uniform(-1, 1, (2000, 3)) * [1, 1, 0] + [0, 0, 2]
    far = rng.uniform(-8, 8, (2000, 3)) * [1, 1, 0] + [0, 0, 16]
    points, rgb = np.concatenate((near, far)), np.full((4000, 3), 7)
    kept, colours = thin_points(points, rgb, np.zeros((1, 3)), 400)
    assert 200 < len(kept) <= 400 and np.allclose(colours, 7)
    share = (kept[:, 2] < 3).mean()  # both walls fill the same angle
    assert 0.35 < share < 0.65


def test_scene_begins_as_discs_along_the_surface() -> None:
    rng = np.random.default_rng(0)
    wall = np.column_stack((rng.uniform(-2, 2, (3000, 2)), np.full(3000, 5.0)))
    scene = scene_gaussians(wall, np.zeros((3000, 3), np.uint8), np.zeros((1, 3)), 300)
    normal = matrix_from_quat(scene.quats)[..., 2]
    assert float(normal[:, 2].abs().min()) > 0.999
    torch.testing.assert_close(scene.scales[:, 2], 0.1 * scene.scales[:, 0])


def test_smaller_footage_keeps_colours_and_rays() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 48, 64, 3)).astype(np.uint8)
    ids = np.zeros((2, 48, 64), np.uint8)
    ids[:, 10:30, 20:30] = 2
    K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    footage = make_footage(images, ids, 2, K, (32, 24))
    half = footage.smaller(2)
    assert footage.size == (32, 24) and half.size == (16, 12)
    torch.testing.assert_close(half.images.mean(), torch.tensor(images.mean() / 255, dtype=torch.float32))
    torch.testing.assert_close(half.K[:2], torch.from_numpy(K).float()[:2] / 4)
    assert float(footage.masks[:, 0].max()) == 0 and float(footage.masks[:, 1].sum()) == 2 * 200 / 4


def test_adam_moves_only_the_rows_of_a_step() -> None:
    unknown = torch.zeros(3, 2, requires_grad=True)
    adam = RowAdam({"x": unknown})
    (unknown * torch.tensor([3.0, 4.0])).sum().backward()
    adam.step({"x": 0.1}, torch.tensor([1]), {"x"})
    # The first step is rate times gradient over its root mean square within the row: 3 and 4 over sqrt(12.5).
    torch.testing.assert_close(unknown.detach()[1], -0.1 * torch.tensor([3.0, 4.0]) / math.sqrt(12.5))
    assert bool((unknown.detach()[[0, 2]] == 0).all()) and unknown.grad is None


def test_splitting_keeps_the_scene_where_it_is() -> None:
    names = {"means": (4, 3), "log_scales": (4, 3), "quats": (4, 4), "logits": (4,), "colors": (4, 3)}
    unknowns = {f"scene/{name}": torch.zeros(shape, requires_grad=True) for name, shape in names.items()}
    unknowns["scene/quats"].data[:, 0] = 1
    unknowns["scene/log_scales"].data[2, 0] = 1.0
    unknowns["scene/logits"].data[0] = -9.0  # as good as invisible
    adam = RowAdam(unknowns)
    adam.first["scene/means"][1] = 5.0
    assert densify(unknowns, adam, torch.tensor([0.0, 1, 9, 2]), 0.25) == 4  # one of four splits, one goes
    means = unknowns["scene/means"].detach()
    assert float(means.sum(0).abs().max()) < 1e-6 and float(means[2:, 0].abs().min()) == pytest.approx(math.e)
    assert float(adam.first["scene/means"][0, 0]) == 5.0 and float(adam.first["scene/means"][2:].abs().max()) == 0


def test_offsets_are_held_while_poses_move() -> None:
    config = GaussiansConfig().rates
    separate, joint = rates("separate", config, 5.0, 1), rates("joint", config, 5.0, 1)
    assert separate["person0/offsets"] < 0.2 * joint["person0/offsets"]
    assert "pose" not in rates("warm_up", config, 5.0, 1) and "field0/last" not in separate


def test_plan_draws_every_frame_equally_often() -> None:
    steps = plan(GaussiansConfig(visits=[1, 4, 2]), 6)
    drawn = [frame for step in steps for frame in step.frames]
    assert np.bincount(drawn).tolist() == [7] * 6
    assert [step.phase for step in steps] == ["warm_up"] * 6 + ["separate"] * 24 + ["joint"] * 12
    assert sum(step.begins for step in steps) == 4  # two levels in the separate phase


def test_the_gate_says_why() -> None:
    before = {"held_out_psnr_db": 20.0, "keypoint_px": 2.0, "background_px": 0.5, "slip_mps": 0.2, "jitter": 1.0}
    assert decide(before, {**before, "held_out_psnr_db": 21.0}, GateConfig()).decision == "refined"
    worse = decide(before, {**before, "jitter": 2.0, "held_out_psnr_db": 19.0}, GateConfig())
    assert (
        worse.decision == "kept" and "-1.00 dB" in worse.reasons[0] and "jitter grows from 1 to 2" in worse.reasons[1]
    )
    nothing = dict.fromkeys(before)
    assert decide(nothing, nothing, GateConfig()).decision == "refined"


def test_gate_forgives_what_a_detector_errs() -> None:
    """At 100 pixels of person, 2 pixels; people's own picture must not get worse meanwhile."""
    before = {"keypoint_px": 0.5, "person_px": 100.0, "held_out_person_psnr_db": 20.0}
    near = decide(before, {**before, "keypoint_px": 1.9, "held_out_person_psnr_db": 20.5}, GateConfig())
    assert near.decision == "refined"
    assert decide(before, {**before, "keypoint_px": 2.1}, GateConfig()).reasons == ["keypoint_px grows from 0.5 to 2.1"]
    blurred = decide(before, {**before, "keypoint_px": 1.9, "held_out_person_psnr_db": 19.5}, GateConfig())
    assert blurred.decision == "kept" and "people" in blurred.reasons[0]


def test_corrections_between_frames_are_smooth() -> None:
    frames = np.array([0, 4, 9, 12])
    turn = np.sin(frames / 4)[:, None]
    found = _interpolated(turn, frames, 15)
    np.testing.assert_allclose(found[frames], turn)
    np.testing.assert_allclose(found[12:], turn[-1:].repeat(3, 0))
    broken = np.interp(np.arange(13), frames, turn[:, 0])
    assert np.abs(np.diff(found[:13, 0], 2)).max() < 0.7 * np.abs(np.diff(broken, 2)).max()


def test_cameras_that_reproject_well_are_believed() -> None:
    prior = PriorConfig(camera_rot_deg=0.3, camera_pos_m=0.02)
    assert known_cameras(prior, None, 500.0, 4.0) == prior
    good = known_cameras(prior, 0.2, 500.0, 4.0)  # (0.2 + 0.1) / 500 rad, at 4 m
    assert good.camera_rot_deg == pytest.approx(0.0344, abs=1e-4) and good.camera_pos_m == pytest.approx(0.0024)
    assert known_cameras(prior, 9.0, 500.0, 4.0) == prior and good.pose_deg == prior.pose_deg


@pytest.mark.parametrize("wrong", [{"visits": [1, 2]}, {"levels": []}, {"frames": 2}, {"densify": 2.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GaussiansConfig(**wrong)  # type: ignore[arg-type]


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gaussians\.weights\.ssim"):
        PhotoWeights(ssim=-1.0)
