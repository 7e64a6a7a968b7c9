"""Scenes of Gaussians for the tests of rendering, and the slowest possible renderer of them."""

import torch
from torch import Tensor

from distill.geometry.cameras import make_intrinsics, pixel_grid
from distill.geometry.rotations import matrix_from_quat, matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.render import Gaussians

NAMES = ("means", "quats", "scales", "opacities", "colors")


def crowd(count: int, seed: int = 0, *, size: float = 0.12) -> Gaussians:
    """Gaussians about 3 m ahead: some behind the camera, some outside the picture, some opaque, some hardly there."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=draw, dtype=torch.float64) * torch.tensor([0.9, 0.7, 1.2])
    opacities = torch.rand(count, generator=draw, dtype=torch.float64)
    opacities[::7], opacities[3::11] = 1.0, 0.002
    return Gaussians(
        means=means + torch.tensor([0.0, 0.0, 3.0]),
        quats=torch.randn(count, 4, generator=draw, dtype=torch.float64),
        scales=size * (0.05 + torch.rand(count, 3, generator=draw, dtype=torch.float64)),
        opacities=opacities,
        colors=torch.rand(count, 3, generator=draw, dtype=torch.float64),
    )


def two_cameras(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """cam_from_world [2, 4, 4] and K [2, 3, 3], neither level nor centred."""
    turns = matrix_from_rotvec(torch.tensor([[0.0, 0.0, 0.0], [0.1, -0.15, 0.2]], dtype=torch.float64))
    moves = torch.tensor([[0.0, 0.0, 0.0], [0.2, -0.1, 0.3]], dtype=torch.float64)
    K = make_intrinsics(torch.tensor([0.9, 1.1], dtype=torch.float64) * size[0], size)
    K[1, 1, 1] *= 1.2
    K[1, :2, 2] += torch.tensor([3.0, -2.0])
    return make_transform(turns, moves), K


def draw_slowly(
    gaussians: Gaussians, cam_from_world: Tensor, K: Tensor, size: tuple[int, int], features: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What `draw_reference` gives, as facts/gaussians.md 4.2 says it: one camera, one Gaussian after the other."""
    pictures = [_draw_camera(gaussians, *camera, size, features) for camera in zip(cam_from_world, K, strict=True)]
    total, light = torch.stack([p for p, _ in pictures]), torch.stack([t for _, t in pictures])
    alpha = 1 - light
    return total[..., :-1], total[..., -1] / alpha.clamp(min=1e-10), alpha


def _draw_camera(
    gaussians: Gaussians, cam_from_world: Tensor, K: Tensor, size: tuple[int, int], features: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums [H, W, D + 1] of features and depth, and the light [H, W] that is left."""
    rotation = cam_from_world[:3, :3]
    centres = gaussians.means @ rotation.T + cam_from_world[:3, 3]
    axes = matrix_from_quat(gaussians.quats)
    covariances = rotation @ axes @ torch.diag_embed(gaussians.scales**2) @ axes.mT @ rotation.T
    pixels = pixel_grid(size).to(K)
    total, light = pixels.new_zeros(size[1], size[0], features.shape[1] + 1), pixels.new_ones(size[1], size[0])
    running = torch.ones_like(light, dtype=torch.bool)
    for k in centres[:, 2].argsort(stable=True).tolist():
        x, y, z = centres[k]
        if not 0.01 < z < 1e10:
            continue
        mean, inverse = _project_one(x, y, z, covariances[k], K, size)
        d = pixels - mean
        alpha = gaussians.opacities[k] * torch.exp(-0.5 * torch.einsum("hwi,ij,hwj->hw", d, inverse, d))
        alpha = torch.where(alpha < 1 / 255, 0, alpha.clamp(max=0.999))
        running = running & (light * (1 - alpha) > 1e-4)
        alpha = torch.where(running, alpha, 0)
        total = total + (light * alpha)[..., None] * torch.cat((features[k], z[None]))
        light = light * (1 - alpha)
    return total, light


def _project_one(
    x: Tensor, y: Tensor, z: Tensor, covariance: Tensor, K: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    (fx, _, cx), (_, fy, cy), _ = K
    width, height = size
    tx = z * (x / z).clamp(-(cx / fx + 0.15 * width / fx), (width - cx) / fx + 0.15 * width / fx)
    ty = z * (y / z).clamp(-(cy / fy + 0.15 * height / fy), (height - cy) / fy + 0.15 * height / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack((fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2)).view(2, 3)
    flat = jacobian @ covariance @ jacobian.T + 0.3 * torch.eye(2).to(K)
    return torch.stack((fx * x / z + cx, fy * y / z + cy)), torch.linalg.inv(flat)
