"""JOSH3R's loss: published values and gradients, terms by hand, labels that agree with themselves, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.geometry.rotations import matrix_from_rotvec, matrix_from_sixd
from distill.geometry.transforms import invert, make_transform, transform_points
from distill.josh3r_loss import (
    FEET,
    Josh3rLabels,
    camera_translation_error,
    contact_scale_error,
    contact_static_error,
    depth_error,
    josh3r_losses,
    relative_rotation_error,
    relative_translation_error,
    weighted_mean,
)
from distill.josh3r_task import Josh3rTask, Josh3rTrainConfig, choose_person, labels_of, make_josh3r
from distill.models.backbones import Provenance
from distill.models.josh3r import Josh3rConfig, Josh3rOutput
from distill.models.josh3r_images import zoom_boxes
from distill.models.josh3r_student import Josh3rStudent
from distill.models.mast3r import Mast3r, initialise
from distill.task import Batch
from tests.josh3r_support import BACKBONE
from tests.student_support import make_batch, one_thread  # noqa: F401 (an automatic fixture)

TERMS = {
    "rel_trans": "rel_tran", "rel_rot": "rel_rot", "trans_a": "trans1", "trans_b": "trans2",
    "contact_scale": "contact_scale", "contact_static": "contact_static", "depth": "depth",
}  # fmt: skip
"""Our names of the terms, and the published ones."""


@pytest.mark.parametrize("masked", ["", "_nomask"])
def test_reproduces_published_terms_and_gradients(shared_dir: Path, masked: str) -> None:
    with np.load(shared_dir / "parity" / "josh3r" / "dev" / "loss.npz") as stored:
        given = {name: torch.from_numpy(stored[name]) for name in stored.files}
    names = ("rel_trans", "rel_rot", "trans1", "trans2", "X11", "X21", "scale1", "scale2")
    answers = [given[f"ret/{name}"].requires_grad_() for name in names]
    fields = ("rel_trans", "rel_rot6d", "trans_a", "trans_b", "points_a", "points_b", "scale_a", "scale_b")
    output = Josh3rOutput(**dict(zip(fields, answers, strict=True)))
    batch = {name.removeprefix("batch/"): value for name, value in given.items() if name.startswith("batch/")}
    mask = batch["depth_mask"]
    labels = Josh3rLabels(
        rel_trans=batch["trans"], rel_rot6d=batch["rot"], betas=batch["beta"],
        trans=torch.stack((batch["trans1"], batch["trans2"]), 1), rot6d=torch.stack((batch["rot1"], batch["rot2"]), 1),
        body_rot=matrix_from_rotvec(batch["pose"]), points=batch["depth"].flatten(2, 3),
        points_mask=torch.zeros_like(mask) if masked else mask,
    )  # fmt: skip

    def toy_body(betas: Tensor, body_rot: Tensor, rotation: Tensor, transl: Tensor) -> Tensor:
        """As config.json of the parity data writes it."""
        rest = given["toy/J0"] + torch.einsum("jdb,nb->njd", given["toy/S"], betas)
        bent = torch.einsum("jdp,np->njd", given["toy/P"], (body_rot - torch.eye(3)).flatten(1))
        return (rest + bent - rest[:, :1]) @ rotation.transpose(-1, -2) + rest[:, :1] + transl[:, None]

    cam1 = toy_body(batch["beta"], labels.body_rot[:, 0], matrix_from_sixd(batch["rot1"]), given["ret/trans1"])
    torch.testing.assert_close(cam1, given["joints/cam1"], rtol=0, atol=1e-5)
    losses = josh3r_losses(output, labels, toy_body)
    for ours, theirs in TERMS.items():
        wanted = given[f"terms{masked}/loss_{theirs}"].reshape(())
        torch.testing.assert_close(losses[ours], wanted, rtol=1e-5, atol=1e-6)
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, given[f"terms{masked}/loss"].reshape(()), rtol=1e-5, atol=1e-6)
    total.backward()
    for name, answer in zip(names, answers, strict=True):
        gradient = torch.zeros_like(answer) if answer.grad is None else answer.grad
        torch.testing.assert_close(gradient, given[f"grad{masked}/{name}"], rtol=1e-4, atol=2e-6)


def test_terms_by_hand() -> None:
    zero, one = torch.zeros(1, 3), torch.tensor([[2.0, 3, 6]])
    torch.testing.assert_close(relative_translation_error(zero, one), torch.tensor([7.0]))
    torch.testing.assert_close(relative_rotation_error(zero, one), torch.tensor([[4.0, 9, 36]]))
    torch.testing.assert_close(camera_translation_error(2 * one, one), torch.tensor([7 / 7.001]))
    torch.testing.assert_close(
        depth_error(one[None], torch.tensor([[3.0]]), 2 * one[None]), torch.tensor([[7 / 14.001]])
    )
    joints = torch.zeros(1, 24, 3)
    joints[0, FEET, 2] = torch.tensor([5.0, 5.5, 4.0, 9.0])  # left foot, right foot, left ankle, right ankle
    points = torch.tensor([[[0.0, 0, 2], [0, 0, 4]]])
    found = contact_scale_error(joints, points, torch.tensor([[1.5]]))  # the scene lies at depths 3 and 6
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5, 1.0, 3.0]]))
    moved = joints.clone()
    moved[0, [10, 11, 7, 8], 0] = torch.tensor([0.3, 0.2, 0.1, 0.4])
    torch.testing.assert_close(contact_static_error(joints, moved), torch.tensor([[0.2, 0.1]]))  # feet, ankles


def test_gradients_of_the_terms() -> None:
    draw = torch.Generator().manual_seed(0)
    joints, points, other = (torch.randn(2, 24, 3, generator=draw, dtype=torch.float64) for _ in range(3))
    scale = 1 + torch.rand(2, 1, generator=draw, dtype=torch.float64)
    leaf = [t.requires_grad_() for t in (joints, points, scale)]
    assert torch.autograd.gradcheck(lambda j, s: contact_scale_error(j, points.detach(), s), (leaf[0], leaf[2]))
    assert torch.autograd.gradcheck(lambda j: contact_static_error(j, other), leaf[0])
    assert torch.autograd.gradcheck(lambda p, s: depth_error(p, s, other), (leaf[1], leaf[2]))
    contact_scale_error(*leaf).sum().backward()
    assert points.grad is None and scale.grad is not None  # the scene is only scaled towards the feet


def test_means_leave_out_what_has_no_weight() -> None:
    values = torch.tensor([[1.0, 3], [5, 7], [100, 100]])
    torch.testing.assert_close(weighted_mean(values, torch.tensor([1.0, 3, 0])), torch.tensor((2 + 3 * 6) / 4))
    assert weighted_mean(values, torch.zeros(3)) == 0


def _batch(body: BodyModel, *, frames: int = 2) -> Batch:
    batch = make_batch(body, windows=3, people=2, frames=frames)
    return {**batch, "depth": 2 + 3 * torch.rand(3, frames, 4, 6)}


def _student() -> Josh3rStudent:
    backbone = Mast3r(BACKBONE)
    initialise(backbone, 1)
    backbone.provenance = Provenance(id="drawn", revision=None, sha256="seed:1", licence="Apache-2.0")
    return Josh3rStudent(Josh3rConfig(dim=16, heads=2, roi_channels=8), backbone)


def test_labels_agree_with_truth(body: BodyModel) -> None:
    batch = _batch(body, frames=3)
    batch["valid"][1, 0, 2] = False
    person = choose_person(batch)
    assert person.tolist() == [0, 1, 0]
    labels, weight = labels_of(batch, person, body)
    assert labels.rel_trans.shape == (6, 3) and weight.tolist() == [1] * 6
    take = torch.arange(3), person
    a, b = batch["cam_from_body"][take][:, 1], batch["cam_from_body"][take][:, 2]  # the second pair of each window
    motion = invert(batch["world_from_cam"][:, 1]) @ batch["world_from_cam"][:, 2]
    second = slice(1, None, 2)
    step = make_transform(matrix_from_sixd(labels.rel_rot6d), labels.rel_trans)[second]
    torch.testing.assert_close(a @ step, motion @ b, rtol=1e-4, atol=1e-5)
    # Our body, placed by SMPL's kind of `transl`, has the labelled joints, in camera a for both frames.
    task = Josh3rTask(_student(), Josh3rTrainConfig(heads=2), body)
    for view, cam in ((0, torch.eye(4).expand(3, 4, 4)), (1, motion)):
        rotation = matrix_from_sixd(labels.rot6d[second, view])
        joints = task._joints(labels.betas[second], labels.body_rot[second, view], rotation, labels.trans[second, view])
        wanted = transform_points(cam, batch["joints_cam"][take][:, 1 + view])
        torch.testing.assert_close(joints, wanted, rtol=1e-4, atol=1e-4)


def test_labelled_points_lie_where_the_zoomed_image_shows_them(body: BodyModel) -> None:
    batch = _batch(body)
    labels, _ = labels_of(batch, choose_person(batch), body)
    # 6 x 4 tokens over 96 x 64 pixels; the middle half shows those with centres at x 24, 40, 56 and y 24, 40.
    assert labels.points_mask.shape == (3, 2, 64 * 96) and labels.points_mask.sum(-1).unique().tolist() == [6]
    at = zoom_boxes(torch.tensor([40.0, 24, 56, 40]), (96, 64)).long()
    index = int(at[1] * 96 + at[0])
    assert labels.points_mask[0, 0, index]
    point = labels.points[0, 0, index]
    torch.testing.assert_close(point[2], batch["depth"][0, 0, 1, 2])
    pixel = batch["K"][0, 0] @ point / point[2]
    torch.testing.assert_close(pixel[:2], torch.tensor([40.0, 24.0]), rtol=1e-4, atol=1e-3)


def test_training_lowers_the_loss_and_moves_nothing_frozen(body: BodyModel) -> None:
    student = _student()
    task = Josh3rTask(student, Josh3rTrainConfig(heads=2, contact_static=0), body).train()
    frozen = {name: tensor.clone() for name, tensor in student.backbone.module.state_dict().items()}
    batch = _batch(body)
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
    totals = []
    for _ in range(12):
        losses, report = task(batch)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.85 * totals[0]
    assert "contact_static" not in losses and set(report) == {
        "motion_translation_mm", "motion_rotation_deg", "root_a_mm",
    }  # fmt: skip
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in student.backbone.module.state_dict().items())
    assert all(p.grad is not None for p in student.parameters())


def test_windows_without_weight_do_not_count(body: BodyModel) -> None:
    task = Josh3rTask(_student(), Josh3rTrainConfig(heads=2), body).eval()
    batch = _batch(body)
    batch["weight"][2] = 0
    losses, _ = task(batch)
    spoilt = {**batch, "cam_from_body": batch["cam_from_body"].clone()}
    spoilt["cam_from_body"][2, :, :, :3, 3] += 5
    again, _ = task(spoilt)
    for name in losses:
        torch.testing.assert_close(losses[name], again[name])


def test_a_new_student_can_start_from_given_heads(tmp_path: Path) -> None:
    first = make_josh3r(Josh3rTrainConfig(roi_channels=8))
    first.save_pretrained(tmp_path)
    second = make_josh3r(Josh3rTrainConfig(roi_channels=8, init_from=str(tmp_path)))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(FootfallError, match="of another shape"):
        make_josh3r(Josh3rTrainConfig(roi_channels=9, init_from=str(tmp_path)))


def test_batches_that_cannot_train_are_refused(body: BodyModel) -> None:
    task = Josh3rTask(_student(), Josh3rTrainConfig(heads=2), body).train()
    one = {name: value[:1] for name, value in _batch(body).items()}
    with pytest.raises(FootfallError, match="batch normalisation"):
        task(one)
    with pytest.raises(ValueError, match="depth"):
        Josh3rTrainConfig(depth=-1)
    student = _student().eval()
    tokens, box = student.encode(torch.rand(1, 3, 32, 48)), torch.tensor([[5.0, 4, 40, 30]])
    answer = student.pair(tokens, tokens, box, box, points=False)
    labels, _ = labels_of(one, choose_person(one), body)
    with pytest.raises(FootfallError, match="without points"):
        josh3r_losses(answer, labels, task._joints)
