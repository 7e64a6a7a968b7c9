"""JOSH3R's integration: the published numbers, a path that is known, gaps, and what the pelvis does to cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.errors import FootfallError
from distill.geometry.rotations import matrix_from_rotvec, rotvec_from_matrix, sixd_from_matrix
from distill.geometry.transforms import interpolate, invert, make_transform
from distill.models.josh3r_images import network_size, prepare_boxes, prepare_image, zoom_boxes, zoom_images
from distill.trajectory import chain, integrate, pair_frames, pelvis_from_transl

CLOSE = {"rtol": 0, "atol": 5e-6}  # the published arrays are float32, chained 13 times


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "data" / "josh3r_integrate.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def test_reproduces_the_published_integration(published: dict[str, Tensor]) -> None:
    cam_from_body = make_transform(published["in/human_to_cam_R"], published["in/human_to_cam_t"])
    path = chain(published["in/frame"], published["in/rel_trans"], published["in/rel_rot"], cam_from_body)
    assert torch.equal(path.keyframes, published["out/keyframes"])
    assert torch.equal(path.pairs, published["out/pair_index"])
    assert torch.equal(path.frames[path.pairs], published["out/pair_frames"])
    wanted = {
        "keyframe_R": path.world_from_body_key[:, :3, :3], "keyframe_t": path.world_from_body_key[:, :3, 3],
        "human_to_world": path.world_from_body, "human_to_world_f64": path.world_from_body,
        "cam_to_world": path.world_from_cam, "body_transl": path.world_from_body[:, :3, 3],
        "body_global_orient": rotvec_from_matrix(path.world_from_body[:, :3, :3]),
    }  # fmt: skip
    for name, value in wanted.items():
        torch.testing.assert_close(value, published[f"out/{name}"].double(), **CLOSE, msg=lambda t, n=name: f"{n}: {t}")


def test_reproduces_what_the_published_network_was_fed(published: dict[str, Tensor]) -> None:
    width, height = (int(side) for side in published["in/image_size_wh"])
    assert network_size((width, height)) == tuple(published["out/img_size_wh"].tolist()) == (512, 384)
    boxes = prepare_boxes(published["in/bbox_xyxy_original_pixels"], (width, height))[published["out/pair_index"]]
    torch.testing.assert_close(boxes, published["out/fed_bbox"], rtol=0, atol=1e-4)
    fed = torch.stack([prepare_image(image.numpy()) for image in published["in/pair0_images_uint8"]])
    small = (fed * 2 - 1)[:, :, ::8, ::8]
    torch.testing.assert_close(small, published["out/fed_imgs_pair0_every8"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((1920, 1080), (512, 288)), ((640, 480), (512, 384)), ((1080, 1920), (288, 512)), ((1242, 375), (512, 144))],
)
def test_sides_are_floored_to_sixteen(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert network_size(size) == wanted


def test_zoom_moves_boxes_with_pixels() -> None:
    image = torch.zeros(1, 3, 64, 96)
    image[:, :, 20:30, 40:60] = 1
    zoomed = zoom_images(image)[0, 0] > 0.5
    rows, columns = torch.nonzero(zoomed.any(1)).flatten(), torch.nonzero(zoomed.any(0)).flatten()
    box = zoom_boxes(torch.tensor([40.0, 20, 60, 30]), (96, 64))
    found = torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    torch.testing.assert_close(found.float(), box)
    beyond = zoom_boxes(torch.tensor([-9.0, 0, 200, 64]), (96, 64))  # clamped to the frame before it is enlarged
    torch.testing.assert_close(beyond, torch.tensor([-48.0, -32, 144, 96]))


def test_pairs_by_hand() -> None:
    assert pair_frames([0, 1, 2, 3, 4, 5, 6, 7]).tolist() == [[0, 3], [3, 6], [6, 7]]  # the last one is shorter
    assert pair_frames([0, 1, 9, 10, 11, 12]).tolist() == [[0, 2], [2, 5]]  # a hole gives a longer step
    assert pair_frames([4]).tolist() == [] and pair_frames([4, 5]).tolist() == [[0, 1]]


@given(st.sets(st.integers(0, 60), min_size=2, max_size=30))
def test_pairs_reach_from_first_to_last(chosen: set[int]) -> None:
    frames = sorted(chosen)
    pairs = pair_frames(frames)
    assert pairs[0, 0] == 0 and pairs[-1, 1] == len(frames) - 1
    assert torch.equal(pairs[1:, 0], pairs[:-1, 1])
    assert all(frames[b] - frames[a] >= 3 for a, b in pairs[:-1].tolist())
    assert all(frames[b - 1] - frames[a] < 3 for a, b in pairs.tolist())  # the first that is far enough


def _walk(count: int) -> tuple[Tensor, Tensor]:
    """world_from_body and world_from_cam [count, 4, 4] in double precision."""
    turn = torch.linspace(0, 2, count, dtype=torch.float64)[:, None]
    body = make_transform(matrix_from_rotvec(turn * torch.tensor([0.2, 1, -0.3])), turn * torch.tensor([1.0, 0.1, 2]))
    cam = make_transform(matrix_from_rotvec(turn * torch.tensor([-0.1, 0.5, 0.2])), turn + torch.tensor([0, 1.0, -4]))
    return body, cam


def test_true_steps_give_the_true_path_and_camera() -> None:
    body, cam = _walk(10)
    frames = [2 * k for k in range(10)]
    pairs = pair_frames(frames)
    steps = invert(body[pairs[:, 0]]) @ body[pairs[:, 1]]
    path = chain(frames, steps[:, :3, 3], sixd_from_matrix(steps[:, :3, :3]), invert(cam) @ body)
    first = invert(body[:1])
    at = torch.cat((pairs[:1, 0], pairs[:, 1]))
    torch.testing.assert_close(path.world_from_body[at], (first @ body)[at])
    torch.testing.assert_close(path.world_from_cam[at], (first @ cam)[at])
    between = interpolate((first @ body)[at[0]], (first @ body)[at[1]], torch.tensor(0.5, dtype=torch.float64))
    assert frames[at[1]] == 4
    torch.testing.assert_close(path.world_from_body[1], between)  # frame 2 of 0..4: by number, half way


def test_steps_are_not_made_orthonormal_again_but_stay_rotations() -> None:
    poses = integrate(torch.randn(300, 3), torch.randn(300, 6))
    gram = poses[-1, :3, :3] @ poses[-1, :3, :3].T
    torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_published_cameras_are_off_by_the_pelvis_and_ours_are_not() -> None:
    body, cam = _walk(7)
    pelvis = torch.tensor([0.0, -0.23, 0.03], dtype=torch.float64)  # J0 of a body whose origin is not its pelvis
    frames = list(range(0, 21, 3))
    cam_from_body = invert(cam) @ body
    published = make_transform(cam_from_body[:, :3, :3], cam_from_body[:, :3, 3] - pelvis)  # SMPL's transl
    steps = invert(body[:-1]) @ body[1:]
    given = frames, steps[:, :3, 3], sixd_from_matrix(steps[:, :3, :3])
    right = chain(*given, pelvis_from_transl(published, pelvis)).world_from_cam
    torch.testing.assert_close(right, invert(body[:1]) @ cam)
    off = right[:, :3, 3] - chain(*given, published).world_from_cam[:, :3, 3]
    # Both worlds put the first pelvis at zero; what is left is the lever of J0 (facts: (R - I) J0, and J0 itself).
    torch.testing.assert_close(off, -(right[:, :3, :3] @ pelvis))


def test_bad_rows_are_refused() -> None:
    eye = torch.eye(4).expand(4, 4, 4)
    with pytest.raises(FootfallError, match="1 steps for the pairs of 4 detections"):
        chain([0, 1, 2, 3], torch.zeros(2, 3), torch.zeros(2, 6), eye)
    with pytest.raises(FootfallError, match="ascend"):
        chain([0, 2, 1, 3], torch.zeros(1, 3), torch.zeros(1, 6), eye)
    with pytest.raises(FootfallError, match="0 detections"):
        chain([], torch.zeros(0, 3), torch.zeros(0, 6), eye[:0])
