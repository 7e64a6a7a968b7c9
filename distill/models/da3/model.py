"""Depth Anything 3 (arXiv 2511.10647) as a backbone, written anew; it reads the published checkpoints unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from distill.geometry.cameras import pixel_grid
from distill.geometry.transforms import invert, transform_points
from distill.models.backbones import Backbone, Pair, Preprocessing, Tokens, check_image_size
from distill.models.da3.camera import CameraDecoder, CameraEncoder, decode_cameras, encode_cameras
from distill.models.da3.config import PATCH, Da3Config
from distill.models.da3.head import DualDpt
from distill.models.da3.vit import CrossViewVit, ViewTokens
from distill.models.precision import full_precision
from distill.models.rays import rays_of_pixels

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(kw_only=True)
class View:
    """Everything the network says about B images that were read together with others."""

    tokens: list[Tensor]
    """Per output block [B, h*w, 2 C]."""
    camera: Tensor
    """[B, 9] encoding of the camera, see `da3.camera`."""
    depth: Tensor
    """[B, H, W] along the optical axis; its unit is common to all views and otherwise unknown."""
    depth_conf: Tensor
    """[B, H, W], 1 and above."""
    rays: Tensor
    """[B, 8h, 8w, 6]: direction (z = 1 in its own camera) and origin, in the first camera."""
    ray_conf: Tensor
    """[B, 8h, 8w], 1 and above."""


class Da3(Backbone):
    """Blocks before the first camera token encode a frame alone; the rest reads the two frames of a pair together.

    **Scale.** Depth and places are in one unit per pair, chosen by the network (about the mean distance of the
    scene), not in metres: the student's scene scale has to learn it, from the people.

    Points come from depth and the decoded cameras, as in the published inference. There are no descriptors.
    """

    patch_size = PATCH
    has_points = True

    mean: Tensor
    std: Tensor

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        self.config = config
        self.feature_dim, self.token_dim = config.dim, 2 * config.dim
        self.preprocessing = Preprocessing(
            long_side=config.long_side, multiple=PATCH, mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
        self.backbone = nn.ModuleDict({"pretrained": CrossViewVit(config)})
        self.head = DualDpt(config)
        self.cam_enc, self.cam_dec = CameraEncoder(config), CameraDecoder(config)
        # On the CPU even where the network is built without memory to be filled from a file.
        mean, std = (torch.tensor(values, device="cpu")[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def vit(self) -> CrossViewVit:
        """The transformer."""
        module = self.backbone["pretrained"]
        assert isinstance(module, CrossViewVit)
        return module

    def encode(self, images: Tensor) -> Tokens:
        """Images [B, 3, H, W] in [0, 1] -> patch tokens [B, h*w, C] before any view is told its part."""
        check_image_size(images, PATCH)
        height, width = images.shape[-2:]
        features = self.vit.embed(((images - self.mean) / self.std).to(self.vit.cls_token.dtype))
        return Tokens(features=features, grid=(height // PATCH, width // PATCH), size=(width, height))

    def decode(self, a: Tokens, b: Tokens, *, points: bool = True, descriptors: bool = False) -> Pair:
        """Ordered pairs; `a` is the reference view. See `Backbone.decode`; points are not in metres, see the class.

        A layer has `token_dim` channels: the view's own token and the one that has read both views, of which only
        the second is normalised (the dense head reads them like this).
        """
        views = self.vit.read_views([a.features, b.features], [a.grid, b.grid])
        pair = Pair(tokens_a=views[0].layers, tokens_b=views[1].layers)
        if points:
            with full_precision(a.features.device):
                pair.points_a, pair.conf_a, world_from_a = self._points(views[0], a)
                in_b, pair.conf_b, world_from_b = self._points(views[1], b)
                a_from_b = invert(world_from_a) @ world_from_b
                pair.points_b = transform_points(a_from_b, in_b.flatten(1, 2)).view_as(in_b)
        return pair

    def read(self, frames: Sequence[Tokens], cameras: tuple[Tensor, Tensor] | None = None) -> list[View]:
        """Everything about any number of frames read together; the first is the reference view.

        Args:
            frames: of `encode`, the same B each; sizes may differ where `cameras` is None.
            cameras: known world_from_cam [B, V, 4, 4], the first the identity, and K [B, V, 3, 3] in pixels.
        """
        known = None
        if cameras is not None:
            encodings = encode_cameras(*cameras, frames[0].size)
            with full_precision(encodings.device):
                known = self.cam_enc(encodings).unbind(1)
        views = self.vit.read_views([frame.features for frame in frames], [frame.grid for frame in frames], known)
        return [self._view(view, frame.grid) for view, frame in zip(views, frames, strict=True)]

    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """Cast the transformer; dense head and cameras stay float32."""
        self.backbone.to(dtype)

    def _view(self, view: ViewTokens, grid: tuple[int, int]) -> View:
        """All outputs of one view."""
        with full_precision(view.camera.device):
            levels = self.head.levels([layer.float() for layer in view.layers], grid)
            depth, depth_conf = self.head.depth(levels, grid)
            rays, ray_conf = self.head.rays(levels, grid)
            camera = self.cam_dec(view.camera.float())
        return View(tokens=view.layers, camera=camera, depth=depth, depth_conf=depth_conf, rays=rays, ray_conf=ray_conf)

    def _points(self, view: ViewTokens, frame: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Points [B, H, W, 3] in the view's own camera, confidence [B, H, W] and world_from_cam [B, 4, 4]."""
        levels = self.head.levels([layer.float() for layer in view.layers], frame.grid)
        depth, conf = self.head.depth(levels, frame.grid)
        world_from_cam, K = decode_cameras(self.cam_dec(view.camera.float()), frame.size)
        pixels = pixel_grid(frame.size, device=depth.device).flatten(0, 1)
        rays = rays_of_pixels(pixels.expand(depth.shape[0], -1, -1), K)
        plane = torch.cat((rays, torch.ones_like(rays[..., :1])), dim=-1).unflatten(1, depth.shape[1:])
        return plane * depth[..., None], conf, world_from_cam
