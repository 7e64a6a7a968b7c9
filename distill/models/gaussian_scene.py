"""The scene's Gaussians: one for each cell of pixels, on the frozen pointmap, in the camera that saw them.

A cell of s x s pixels at depth z has the footprint p = s z / f metres. Everything the network says is in footprints, so
it means the same at any distance and in any unit of the pointmap (arXiv 2408.13912 for the recipe, with metres in
place of footprints):

    centre   z K^-1 (u, v, 1) + 2 p tanh(o)     z of the pointmap, (u, v) the middle of the cell
    scale    0.5 p exp(s), s within -3 and 2
    opacity  sigmoid(a + 4)
    colour   mean of the cell + 0.2 tanh(c), cut to 0..1

The last layer starts at zero, so a fresh head already draws nearly the picture it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import FootfallError
from distill.geometry.cameras import pixel_grid, unproject
from distill.models.backbones import Tokens
from distill.models.gaussian_config import GaussianConfig
from distill.models.precision import full_precision
from distill.render import Gaussians

CHANNELS: Final = 14
"""Offset 3, scale 3, quaternion 4, opacity 1, colour 3."""
START_SCALE: Final = 0.5
"""Standard deviation of a fresh Gaussian in footprints: neighbours overlap, and the picture stays sharp."""
START_OPACITY: Final = 4.0
"""Logit of the opacity of a fresh Gaussian."""
NEAREST: Final = 0.05
"""Points nearer than this, in the pointmap's unit, become no Gaussians."""
_LOOKS: Final = 5
"""Channels of a pixel: RGB, log depth, log confidence."""


@dataclass(kw_only=True)
class PixelGaussians:
    """Gaussians of B images, M cells each, in their cameras and in the unit of the pointmap."""

    means: Tensor
    """[B, M, 3]."""
    quats: Tensor
    """[B, M, 4] wxyz, unit."""
    scales: Tensor
    """[B, M, 3]."""
    opacities: Tensor
    """[B, M]."""
    colors: Tensor
    """[B, M, 3]."""
    confidence: Tensor
    """[B, M] of the point below, as the backbone says: 1 and above."""
    keep: Tensor
    """[B, M] bool: sure enough, and not of a person."""
    backdrop: Tensor
    """[B, 3] mean colour of the cells that are not kept for want of confidence: mostly sky; grey if all are kept."""

    def of(self, image: int, metres: Tensor | float) -> tuple[Gaussians, Tensor]:
        """Those of one image that are kept, in its camera, and their confidence [N].

        Args:
            image: which of the B.
            metres: per unit of the pointmap (`exp(log_scene_scale)`).
        """
        keep = self.keep[image]
        kept = Gaussians(
            means=self.means[image, keep] * metres, quats=self.quats[image, keep],
            scales=self.scales[image, keep] * metres, opacities=self.opacities[image, keep],
            colors=self.colors[image, keep],
        )  # fmt: skip
        return kept, self.confidence[image, keep]


class SceneHead(nn.Module):
    """Tokens, picture and points of an image -> its Gaussians."""

    def __init__(self, config: GaussianConfig, token_channels: int, patch: int) -> None:
        """`token_channels` of the encoder's and the decoder's tokens together, `patch` pixels across a token.

        Raises:
            FootfallError: the stride does not divide the patch.
        """
        super().__init__()
        if patch % config.stride:
            raise FootfallError(
                "gaussians.stride", got=f"{config.stride} on a backbone of patch {patch}",
                expected="a divisor of the patch", do="choose another stride",
            )  # fmt: skip
        self.config, self.cells = config, patch // config.stride
        width = config.scene_width
        self.norm = nn.LayerNorm(token_channels)
        self.lift = nn.Linear(token_channels, width * self.cells**2)
        self.look = nn.Conv2d(_LOOKS, width, 7, stride=config.stride, padding=3)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, CHANNELS, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, frame: Tokens, last: Tensor, points: Tensor, conf: Tensor, K: Tensor, people: Tensor | None = None
    ) -> PixelGaussians:
        """Gaussians of B images.

        Args:
            frame: encoder tokens with their images [B, 3, H, W].
            last: [B, N, D] tokens of the last decoder layer of the same images.
            points: [B, H, W, 3] the backbone's points in each camera. conf: [B, H, W] their confidence.
            K: [B, 3, 3] intrinsics in pixels of the images.
            people: [B, H, W] bool, pixels of people, which become no Gaussians; None: there are none.

        Raises:
            FootfallError: tokens without images.
        """
        if frame.images is None:
            raise FootfallError(
                "Gaussians of a frame", got="tokens without their images", expected="images",
                do="keep what Student.encode returned",
            )  # fmt: skip
        images = frame.images.float()
        raw = self._read(frame, last, images, points, conf)
        with full_precision(images.device):
            return self._place(raw.float(), images, points.float(), conf.float(), K.float(), people)

    def _read(self, frame: Tokens, last: Tensor, images: Tensor, points: Tensor, conf: Tensor) -> Tensor:
        """[B, 14, h, w] what the network says."""
        tokens = torch.cat((frame.features, last), dim=-1).to(self.lift.weight.dtype)
        lifted = self.lift(self.norm(tokens)).transpose(1, 2).unflatten(-1, frame.grid)
        depth = points[..., 2].float().clamp(min=NEAREST).log()
        depth = depth - depth.mean((1, 2), keepdim=True)
        looks = torch.cat((images * 2 - 1, depth[:, None], conf.float().clamp(min=1).log()[:, None]), dim=1)
        x = F.pixel_shuffle(lifted, self.cells)
        x = x + self.look(looks.to(x.dtype))[..., : x.shape[-2], : x.shape[-1]]
        x = F.gelu(x)
        return self.out(x + F.gelu(self.mix(x)))

    def _place(
        self, raw: Tensor, images: Tensor, points: Tensor, conf: Tensor, K: Tensor, people: Tensor | None
    ) -> PixelGaussians:
        """What the network says, in footprints -> Gaussians."""
        stride = self.config.stride
        middle = slice(stride // 2, None, stride)
        depth, sure = points[:, middle, middle, 2].flatten(1), conf[:, middle, middle].flatten(1)
        height, width = images.shape[-2:]
        pixels = pixel_grid((width // stride, height // stride), device=images.device).flatten(0, 1) * stride
        clamped = depth.clamp(min=NEAREST)
        centres = unproject(pixels.expand(len(images), -1, -1), clamped, K)
        footprint = (stride * clamped / (0.5 * (K[:, 0, 0] + K[:, 1, 1]))[:, None])[..., None]
        offset, scale, turn, opacity, color = raw.flatten(2).transpose(1, 2).split((3, 3, 4, 1, 3), dim=-1)
        seen = F.avg_pool2d(images, stride).flatten(2).transpose(1, 2)
        free = self._free(depth, people)
        keep = free & (sure >= torch.quantile(sure, self.config.drop_share, dim=1, keepdim=True))
        return PixelGaussians(
            means=centres + 2 * footprint * offset.tanh(),
            quats=F.normalize(turn + turn.new_tensor([1.0, 0.0, 0.0, 0.0]), dim=-1),
            scales=START_SCALE * footprint * scale.clamp(-3, 2).exp(),
            opacities=(opacity[..., 0] + START_OPACITY).sigmoid(),
            colors=(seen + 0.2 * color.tanh()).clamp(0, 1),
            confidence=sure,
            keep=keep,
            backdrop=_mean_color(seen, free & ~keep),
        )

    def _free(self, depth: Tensor, people: Tensor | None) -> Tensor:
        """[B, M] cells that are not of people and have a point."""
        free = depth > NEAREST
        if people is None:
            return free
        return free & ~(F.max_pool2d(people.float(), self.config.stride) > 0).flatten(1)


def _mean_color(colors: Tensor, chosen: Tensor) -> Tensor:
    """Mean [B, 3] of colours [B, M, 3] where `chosen` [B, M]; grey where nothing is."""
    total = (colors * chosen[..., None]).sum(1) + 0.5e-3
    return total / (chosen.sum(1, keepdim=True) + 1e-3)


def grow(people: Tensor, pixels: int) -> Tensor:
    """Masks [B, H, W] bool, made larger by a few pixels on all sides: edges of masks are never exact."""
    side = 2 * pixels + 1
    return F.max_pool2d(people.float()[:, None], side, stride=1, padding=pixels)[:, 0] > 0
