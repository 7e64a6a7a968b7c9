"""The scene's Gaussians: a fresh head draws what it saw, in any unit; people and doubtful places are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.errors import FootfallError
from distill.geometry.cameras import pixel_grid, project, unproject
from distill.metrics.images import psnr
from distill.models.backbones import Tokens
from distill.models.gaussian_config import GaussianConfig
from distill.models.gaussian_scene import START_SCALE, SceneHead, grow
from distill.render import render
from tests.conftest import TOLERANCES
from tests.gaussian_support import tokens_of
from tests.student_support import one_thread  # noqa: F401 (a fixture)

SIZE = (96, 64)
K = torch.tensor([[80.0, 0, 50], [0, 80.0, 30], [0, 0, 1]])
CONFIG = GaussianConfig(stride=2, scene_width=8, drop_share=0.0)


def scene(depth_scale: float = 1.0) -> tuple[Tokens, Tensor, Tensor, Tensor]:
    """A sloped wall with smooth waves of colour: frame, last tokens, points, confidence."""
    torch.manual_seed(0)
    x, y = pixel_grid(SIZE).unbind(-1)
    image = torch.stack((0.5 + 0.4 * (x / 9).sin(), 0.5 + 0.4 * (y / 7).cos(), x / SIZE[0]))[None]
    depth = (3 + 0.02 * x + 0.01 * y) * depth_scale
    points = unproject(pixel_grid(SIZE).flatten(0, 1), depth.flatten(), K).view(1, *depth.shape, 3)
    return tokens_of(image), torch.randn(1, 24, 5), points, 1 + torch.rand(1, *depth.shape)


def fresh(config: GaussianConfig = CONFIG) -> SceneHead:
    torch.manual_seed(1)
    return SceneHead(config, 11, 16)


def test_a_fresh_head_draws_nearly_the_frame_it_was_given() -> None:
    frame, last, points, conf = scene()
    gaussians, _ = fresh()(frame, last, points, conf, K[None]).of(0, 1.0)
    drawn = render(gaussians, torch.eye(4)[None], K[None], SIZE)
    image = frame.images
    assert image is not None
    inner = (slice(4, -4), slice(4, -4))  # at the border neighbours are missing
    assert psnr(image[0].permute(1, 2, 0)[inner], drawn.color[0].detach()[inner])[0] > 26
    assert (drawn.alpha[0][inner] > 0.9).all()
    depth = points[0, ..., 2]
    assert ((drawn.depth[0] / depth - 1).abs()[inner] < 0.03).all()


def test_centres_lie_in_the_middle_of_their_cells_and_scales_are_footprints() -> None:
    frame, last, points, conf = scene()
    cells = fresh()(frame, last, points, conf, K[None])
    torch.testing.assert_close(
        project(cells.means[0], K), pixel_grid((48, 32)).flatten(0, 1) * 2, **TOLERANCES[torch.float32]
    )
    torch.testing.assert_close(
        cells.scales[0], (START_SCALE * 2 * cells.means[0, :, 2:] / 80).expand(-1, 3), **TOLERANCES[torch.float32]
    )


def test_the_unit_of_the_points_changes_nothing_but_the_size_of_the_world() -> None:
    head = fresh()
    for parameter in head.out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frame, last, points, conf = scene()
    metres, _ = head(frame, last, points, conf, K[None]).of(0, 1.0)
    other, _ = head(frame, last, points / 2.5, conf, K[None]).of(0, 2.5)
    for name in ("means", "scales", "opacities", "colors", "quats"):
        torch.testing.assert_close(getattr(other, name), getattr(metres, name), rtol=1e-3, atol=1e-4)  # logs of depth


def test_people_are_left_out_with_every_cell_they_touch() -> None:
    frame, last, points, conf = scene()
    people = torch.zeros(1, SIZE[1], SIZE[0], dtype=torch.bool)
    people[0, 11:21, 31:41] = True
    keep = fresh()(frame, last, points, conf, K[None], people).keep.view(32, 48)
    dropped = (~keep).nonzero()
    assert dropped.amin(0).tolist() == [5, 15]
    assert dropped.amax(0).tolist() == [10, 20]
    assert len(dropped) == 36
    assert int(grow(people, 2).sum()) == 14 * 14


def test_the_least_sure_share_is_left_out_and_its_colour_is_the_backdrop() -> None:
    frame, last, points, conf = scene()
    conf[:] = 3.0
    conf[0, :16] = 1.0  # a quarter of the picture
    image = torch.zeros(1, 3, SIZE[1], SIZE[0])
    image[0, 2, :16] = 1.0
    cells = fresh(replace(CONFIG, drop_share=0.25))(replace(frame, images=image), last, points, conf, K[None])
    assert not cells.keep.view(32, 48)[:8].any()
    assert cells.keep.view(32, 48)[8:].all()
    torch.testing.assert_close(cells.backdrop[0], torch.tensor([0.0, 0, 1]), rtol=0, atol=1e-3)


def test_points_behind_the_camera_become_nothing() -> None:
    frame, last, points, conf = scene()
    points[0, :, :20, 2] = -1.0
    cells = fresh()(frame, last, points, conf, K[None])
    assert not cells.keep.view(32, 48)[:, :10].any()
    gaussians, confidence = cells.of(0, 1.0)
    assert len(gaussians) == len(confidence) == 32 * 38
    assert (gaussians.means[:, 2] > 0).all()


def test_every_weight_matters_once_the_last_layer_has_woken() -> None:
    head = fresh()
    for parameter in head.out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frame, last, points, conf = scene()
    gaussians, _ = head(frame, last, points, conf, K[None]).of(0, 1.0)
    render(gaussians, torch.eye(4)[None], K[None], SIZE).color.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(FootfallError, match="divisor of the patch"):
        fresh(replace(CONFIG, stride=3))
    frame, last, points, conf = scene()
    with pytest.raises(FootfallError, match="without their images"):
        fresh()(replace(frame, images=None), last, points, conf, K[None])
    for wrong in ({"stride": 0}, {"drop_share": 1.0}, {"anchors": -1}, {"per_anchor": 0}):
        with pytest.raises(ValueError, match="gaussians"):
            GaussianConfig(**wrong)
