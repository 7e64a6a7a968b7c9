"""Rendering of Gaussians: values by hand, the slowest renderer, invariances, gradients, bounded memory, bad input."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill.errors import FootfallError
from distill.geometry.cameras import make_intrinsics
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import invert, make_transform
from distill.render import Gaussians, Rendering, render
from distill.render.projection import project_gaussians
from distill.render.reference import draw_reference
from distill.render.tiles import DEPTH, TILE, list_tiles
from tests.conftest import TOLERANCES
from tests.render_support import NAMES, crowd, draw_slowly, two_cameras

SIZE = (37, 26)
EXACT = TOLERANCES[torch.float64]
Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


def one(**changes: Any) -> Gaussians:
    """A round red Gaussian of 0.1 m, 2 m ahead."""
    values = {"means": [0.0, 0.0, 2.0], "quats": [1.0, 0.0, 0.0, 0.0], "scales": [0.1] * 3, "opacities": 0.8}
    values |= {"colors": [1.0, 0.0, 0.0]} | changes
    return Gaussians(**{name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()})


def look(gaussians: Gaussians, size: tuple[int, int] = (16, 16), focal: float = 40.0, **options: Any) -> Rendering:
    """The picture of a camera in the origin."""
    K = make_intrinsics(gaussians.means.new_tensor([focal]), size)
    return render(gaussians, torch.eye(4).to(K)[None], K, size, **options)


def inputs_of(gaussians: Gaussians, size: tuple[int, int]) -> dict[str, Tensor]:
    """Everything that a picture depends on, as leaves; `features` stands for colours and indicator."""
    cam_from_world, K = two_cameras(size)
    values = {name: getattr(gaussians, name) for name in NAMES[:4]}
    values |= {"features": torch.rand(len(gaussians), 4, dtype=torch.float64), "cam_from_world": cam_from_world, "K": K}
    return {name: value.clone().requires_grad_() for name, value in values.items()}


def draw_inputs(draw: Draw, values: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    """[2, H, W, 6]: four features, depth, alpha."""
    gaussians = Gaussians(**{name: values[name] for name in NAMES[:4]}, colors=values["features"][:, :3])
    drawn, depth, alpha = draw(gaussians, values["cam_from_world"], values["K"], size, values["features"])
    return torch.cat((drawn, depth[..., None], alpha[..., None]), -1)


def close(a: Tensor, b: Tensor, share: float) -> None:
    """Largest difference, as a share of the largest value."""
    assert float((a - b).abs().max() / b.abs().max()) < share


# Values by hand


def test_a_gaussian_ahead() -> None:
    drawn = look(one(), background=torch.tensor([0.0, 0.0, 1.0]).double())
    variance = (40 / 2 * 0.1) ** 2 + 0.3  # 4.3 square pixels
    expected = 0.8 * math.exp(-0.5 * (0.5**2 + 2.5**2) / variance)
    pixel = (0, 10, 8)  # its centre is (8.5, 10.5), the Gaussian's (8, 8)
    assert float(drawn.alpha[pixel]) == pytest.approx(expected, rel=1e-12)
    assert drawn.color[pixel].tolist() == pytest.approx([expected, 0, 1 - expected], rel=1e-12)
    assert float(drawn.depth[pixel]) == pytest.approx(2, rel=1e-12)


def test_a_gaussian_aside_is_seen_at_an_angle() -> None:
    drawn = look(one(means=[0.4, 0.0, 2.0], scales=[0.02, 0.05, 0.3]), size=(32, 32))
    across = 20**2 * 0.02**2 + (40 * 0.4 / 2**2) ** 2 * 0.3**2 + 0.3  # J = [[20, 0, -4], [0, 20, 0]]
    down = 20**2 * 0.05**2 + 0.3
    expected = 0.8 * math.exp(-0.5 * ((26.5 - 24) ** 2 / across + (14.5 - 16) ** 2 / down))
    assert float(drawn.alpha[0, 14, 26]) == pytest.approx(expected, rel=1e-12)


def test_a_turned_gaussian_leans() -> None:
    quarter = [math.cos(math.pi / 8), 0.0, 0.0, math.sin(math.pi / 8)]  # 45 degrees about z: x goes to x + y
    drawn = look(one(scales=[0.3, 0.02, 0.02], quats=[2 * q for q in quarter])).alpha[0]
    assert drawn[11, 11] > 0.5 and drawn[4, 4] > 0.5
    assert drawn[11, 4] == 0 and drawn[4, 11] == 0


def test_thresholds() -> None:
    wide = one(scales=[3.0, 3.0, 0.01], opacities=1.0)  # the same alpha everywhere but for a thousandth
    assert float(look(wide).alpha.max()) == pytest.approx(0.999, rel=1e-12)  # and never 1
    assert float(look(one(scales=[3.0, 3.0, 0.01], opacities=0.0039)).alpha.max()) == 0  # below 1/255
    edge = look(one(opacities=1.0), size=(32, 32)).alpha[0, 16]
    assert 1 / 255 <= float(edge[edge > 0].min()) < 3 / 255
    assert float(edge[0]) == 0


def test_a_finished_pixel_takes_nothing_more() -> None:
    layers = [one(means=[0.0, 0.0, z], scales=[9.0, 9.0, 0.01], opacities=1.0, colors=[z, z, z]) for z in (1.0, 2.0)]
    drawn = look(Gaussians.cat(layers))  # 0.001 of the light is left; the second would leave 1e-6, and is not drawn
    assert float(drawn.color[0, 8, 8, 0]) == pytest.approx(0.999, rel=1e-9)
    assert float(drawn.depth[0, 8, 8]) == pytest.approx(1, rel=1e-12)


def test_people_behind_and_before_things() -> None:
    wide = {"scales": [20.0, 20.0, 0.01]}
    thing = one(means=[0.0, 0.0, 2.0], opacities=0.75, **wide)
    for z, seen in ((1.0, 0.5), (3.0, 0.25 * 0.5)):
        scene = Gaussians.cat([one(means=[0.0, 0.0, z], opacities=0.5, **wide), thing])
        drawn = look(scene, person=torch.tensor([1.0, 0.0]).double())
        assert float(drawn.person[0, 8, 8]) == pytest.approx(seen, rel=1e-3)
        assert float(drawn.alpha[0, 8, 8]) == pytest.approx(0.875, rel=1e-3)
    assert float(look(scene).person.abs().max()) == 0


def test_background() -> None:
    gaussians, (cam_from_world, K) = crowd(30), two_cameras(SIZE)
    bare = render(gaussians, cam_from_world, K, SIZE)
    colors = torch.rand(2, 3, dtype=torch.float64)
    for background in (colors, colors[0]):
        drawn = render(gaussians, cam_from_world, K, SIZE, background=background)
        behind = background.expand(2, 3)[:, None, None]
        torch.testing.assert_close(drawn.color, bare.color + (1 - bare.alpha)[..., None] * behind, **EXACT)
        torch.testing.assert_close(drawn.depth, bare.depth, **EXACT)


# The slowest renderer


@pytest.mark.parametrize(
    ("size", "scale", "work", "depth"),
    [(SIZE, 0.12, 2**18, DEPTH), ((50, 3), 0.2, 1, DEPTH), ((8, 8), 0.5, 2**18, 16), ((19, 21), 0.3, 3000, 7)],
)
def test_tiles_draw_what_the_slowest_renderer_draws(
    size: tuple[int, int], scale: float, work: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all gradients, through thresholds and clamps, however many tiles and splats are taken at a time."""
    monkeypatch.setattr("distill.render.tiles.DEPTH", depth)
    monkeypatch.setattr("distill.render.compositing.DEPTH", depth)
    gaussians = crowd(80, size=scale)
    lists = list_tiles(project_gaussians(gaussians, *two_cameras(size), size), 2, size)
    assert depth == DEPTH or lists.length.max() > 2 * depth
    values = inputs_of(gaussians, size)
    direction = torch.randn(2, size[1], size[0], 6, dtype=torch.float64)

    def tiled(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        return draw_reference(*arguments, work=work)

    found, expected = (draw_inputs(draw, values, size) for draw in (tiled, draw_slowly))
    assert 0.2 < float(expected[..., -1].detach().mean()) < 1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    slopes, wanted = (torch.autograd.grad((p * direction).sum(), list(values.values())) for p in (found, expected))
    for slope, want in zip(slopes, wanted, strict=True):
        close(slope, want, 1e-9)


def test_float32_and_autocast_stay_near_float64() -> None:
    gaussians, (cam_from_world, K) = crowd(80), two_cameras(SIZE)
    exact = render(gaussians, cam_from_world, K, SIZE, person=gaussians.colors[:, 0])
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            single = render(gaussians.to(torch.float32), cam_from_world, K, SIZE, person=gaussians.colors[:, 0])
        for field in fields(exact):
            found = getattr(single, field.name)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), getattr(exact, field.name), rtol=1e-4, atol=3e-5)


def test_needles_do_not_burst() -> None:
    """Long, thin and close: the determinant of the projection is far below the product of its entries."""
    gaussians = crowd(40, size=0.1)
    gaussians.scales[:, 0], gaussians.scales[:, 1:] = 5.0, 1e-4
    exact, single = (look(gaussians.to(dtype), size=(64, 48)) for dtype in (torch.float64, torch.float32))
    error = (single.alpha.double() - exact.alpha).abs()
    assert float(error.mean()) < 1e-3 and bool(torch.isfinite(single.color).all())


# Invariances


def test_order_of_gaussians_does_not_matter() -> None:
    gaussians, (cam_from_world, K) = crowd(90), two_cameras(SIZE)
    shuffled = gaussians[torch.randperm(90)]
    for a, b in zip(*(vars(render(g, cam_from_world, K, SIZE)).values() for g in (gaussians, shuffled)), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_moving_everything_changes_nothing() -> None:
    gaussians, (cam_from_world, K) = crowd(90), two_cameras(SIZE)
    turn = matrix_from_rotvec(torch.tensor([0.4, -2.0, 0.9], dtype=torch.float64))
    new_from_world = make_transform(turn, torch.tensor([3.0, -1.0, 7.0], dtype=torch.float64))
    before = render(gaussians, cam_from_world, K, SIZE)
    after = render(gaussians.moved(new_from_world), cam_from_world @ invert(new_from_world), K, SIZE)
    for a, b in zip(vars(before).values(), vars(after).values(), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_scale_of_the_world_scales_depth_alone() -> None:
    gaussians, (cam_from_world, K) = crowd(90), two_cameras(SIZE)
    before = render(gaussians, cam_from_world, K, SIZE)
    gaussians.means.mul_(3), gaussians.scales.mul_(3), cam_from_world[:, :3, 3].mul_(3)
    after = render(gaussians, cam_from_world, K, SIZE)
    torch.testing.assert_close(after.color, before.color, **EXACT)
    torch.testing.assert_close(after.depth, 3 * before.depth, **EXACT)


def test_cameras_do_not_disturb_each_other() -> None:
    gaussians, (cam_from_world, K) = crowd(90), two_cameras(SIZE)
    both = render(gaussians, cam_from_world, K, SIZE)
    for k in range(2):
        alone = render(gaussians, cam_from_world[k : k + 1], K[k : k + 1], SIZE)
        torch.testing.assert_close(both.color[k], alone.color[0], **EXACT)


def test_antialiased_pictures_of_two_sizes_agree() -> None:
    """A cloud of Gaussians thinner than a pixel: four pixels of the large picture are one of the small one."""
    gaussians = crowd(300, size=0.03)
    gaussians.means[:, 2] = gaussians.means[:, 2].clamp(min=2.0)

    def covered(antialiased: bool) -> list[Tensor]:
        large = look(gaussians, (64, 64), 80.0, antialiased=antialiased).alpha[0]
        small = look(gaussians, (16, 16), 20.0, antialiased=antialiased).alpha[0]
        return [torch.nn.functional.avg_pool2d(large[None], 4)[0], small]

    classic, even = covered(False), covered(True)
    assert float(classic[1].sum() / classic[0].sum()) > 2  # what the blur adds
    # Where they overlap, light is counted once.
    assert float(even[1].sum() / even[0].sum()) == pytest.approx(1, abs=0.15)


# Gradients


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_are_those_of_central_differences(antialiased: bool) -> None:
    """Every input, cameras and K included, relative error below 1e-5; wide and faint: no threshold is near."""
    size, gaussians = (13, 10), crowd(6)
    gaussians.means[:] = torch.randn(6, 3, dtype=torch.float64) * 0.3 + torch.tensor([0.0, 0.0, 3.0])
    gaussians.means[0, 0] = 4.0  # beyond the clamp of the Jacobian
    gaussians.scales[:] = 1.0 + torch.rand(6, 3, dtype=torch.float64)
    gaussians.opacities[:] = torch.linspace(0.2, 0.6, 6)
    values = inputs_of(gaussians, size)
    direction = torch.randn(2, size[1], size[0], 6, dtype=torch.float64)

    draw = partial(draw_reference, antialiased=antialiased)

    def loss() -> Tensor:
        return (draw_inputs(draw, values, size) * direction).sum()

    analytic = torch.autograd.grad(loss(), list(values.values()))
    for (name, value), slope in zip(values.items(), analytic, strict=True):
        numeric, step = torch.zeros_like(slope), 1e-5
        flat = value.detach().view(-1)
        for k in range(flat.numel()):
            ends = []
            for sign in (1, -1):
                flat[k] += sign * step
                ends.append(float(loss().detach()))
                flat[k] -= sign * step
            numeric.view(-1)[k] = (ends[0] - ends[1]) / (2 * step)
        assert float(slope.abs().max()) > 1e-3, name
        assert float((slope - numeric).norm() / numeric.norm()) < 1e-5, name
        large = numeric.abs() > 1e-3 * numeric.abs().max()
        assert float(((slope - numeric) / numeric)[large].abs().max()) < 1e-5, name


def test_second_derivatives_are_refused() -> None:
    gaussians = crowd(5)
    gaussians.means.requires_grad_()
    for loss in (look(gaussians).color.sum(), look(gaussians).color.square().sum()):
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(loss, gaussians.means, create_graph=True)


def test_gradient_of_a_moved_set() -> None:
    gaussians = crowd(4)
    rotvec = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)

    def turned(rotvec: Tensor) -> tuple[Tensor, Tensor]:
        moved = gaussians.moved(make_transform(matrix_from_rotvec(rotvec), rotvec))
        return moved.means, moved.quats

    assert torch.autograd.gradcheck(turned, (rotvec,))


def test_a_camera_is_found_again() -> None:
    """2 degrees and 5 cm off, brought back by the picture alone."""
    size, gaussians = (48, 32), crowd(150).to(torch.float32)
    K = make_intrinsics(torch.tensor([45.0]), size)
    truth = render(gaussians, torch.eye(4)[None], K, size).color
    twist = torch.tensor([0.02, -0.025, 0.015, 0.03, -0.03, 0.03], requires_grad=True)
    start = twist.detach().clone()
    optimiser = torch.optim.Adam([twist], lr=2e-3)
    for _ in range(80):
        optimiser.zero_grad()
        cam_from_world = make_transform(matrix_from_rotvec(twist[:3]), twist[3:])[None]
        (render(gaussians, cam_from_world, K, size).color - truth).abs().mean().backward()
        optimiser.step()
    assert float(twist.detach()[:3].norm()) < 0.1 * float(start[:3].norm())
    assert float(twist.detach()[3:].norm()) < 0.1 * float(start[3:].norm())


# Little, nothing, and much


@pytest.mark.parametrize("case", ["none", "behind", "outside", "faint", "far"])
def test_nothing_to_see(case: str) -> None:
    gaussians = crowd(20)
    if case == "none":
        gaussians = gaussians[:0]
    elif case == "behind":
        gaussians.means[:, 2] = -2
    elif case == "outside":
        gaussians.means[:, 0] = 50
    elif case == "faint":
        gaussians.opacities[:] = 1e-3
    else:
        gaussians.means[:, 2] = 1e11
    gaussians.means.requires_grad_()
    background = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    drawn = look(gaussians, size=SIZE, background=background)
    torch.testing.assert_close(drawn.color, background.expand(1, SIZE[1], SIZE[0], 3), **EXACT)
    assert not any(bool(value.any()) for value in (drawn.alpha, drawn.depth, drawn.person))
    (drawn.color.sum() + drawn.depth.sum()).backward()
    assert background.grad is not None
    assert gaussians.means.grad is None or float(gaussians.means.grad.abs().sum()) == 0


def test_no_camera() -> None:
    drawn = render(crowd(5), torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), SIZE)
    assert drawn.color.shape == (0, SIZE[1], SIZE[0], 3)


class Largest(TorchDispatchMode):
    """Size of the largest tensor that comes into being, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_memory_is_bounded() -> None:
    """Forward and backward, no array exceeds the work given, where pixels times splats would be 20 times that."""
    size, work = (64, 64), 2**14
    gaussians = crowd(2000, size=0.15).to(torch.float32)
    gaussians.means.requires_grad_()
    K = make_intrinsics(torch.tensor([60.0]), size)
    lists = list_tiles(project_gaussians(gaussians, torch.eye(4)[None], K, size), 1, size)
    pairs = len(lists.splats)
    assert pairs * TILE**2 > 20 * work  # what a renderer without steps would hold
    with Largest() as largest:
        drawn, _, _ = draw_reference(gaussians, torch.eye(4)[None], K, size, gaussians.colors, work=work)
        drawn.sum().backward()
    bound = max(work, DEPTH * TILE**2, 2 * pairs, 9 * len(gaussians), 6 * size[0] * size[1])
    assert 0.5 * work < largest.elements <= bound


# gsplat


def test_projection_is_that_of_gsplat() -> None:
    """Against gsplat's own torch code, which shares no line with ours; its CUDA kernels are tested against that."""
    pytest.importorskip("gsplat")
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    gaussians, (cam_from_world, K) = crowd(200), two_cameras(SIZE)
    gaussians.opacities[:] = 1.0
    covariances, _ = _quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, compute_preci=False)
    radii, means, depths, conics, faded = _fully_fused_projection(
        gaussians.means, covariances, cam_from_world, K, *SIZE, calc_compensations=True
    )
    splats = project_gaussians(gaussians, cam_from_world, K, SIZE)
    at = (splats.camera, splats.gaussian)
    torch.testing.assert_close(splats.means, means[at], **EXACT)
    torch.testing.assert_close(splats.conics, conics[at], **EXACT)
    torch.testing.assert_close(splats.depths, depths[at], **EXACT)
    antialiased = project_gaussians(gaussians, cam_from_world, K, SIZE, antialiased=True)
    there = (antialiased.camera, antialiased.gaussian)
    torch.testing.assert_close(antialiased.opacities, faded[there].clamp(min=1e-4), **EXACT)
    assert float(antialiased.opacities.min()) < 0.3  # some are small enough to be faded much
    seen = torch.zeros(2, 200, dtype=torch.bool)
    seen[at] = True
    assert bool((radii[at] > 0).all()) and bool(((radii[at] - splats.reach).abs() <= 1.01).all())
    assert 20 < int(seen.sum()) < 400
    # Theirs are rounded up to whole pixels: a few more reach into the picture by less than one.
    extra = (radii > 0).all(-1) & ~seen
    outside = torch.maximum(means - torch.tensor(SIZE), -means)[extra].amax(-1)
    assert bool((outside > radii[extra].min(-1).values - 1.5).all())


def test_the_call_of_gsplat_is_one_it_takes() -> None:
    pytest.importorskip("gsplat")
    from gsplat import rasterization

    from distill.render.splatting import SETTINGS

    names = ["means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height"]
    bound = inspect.signature(rasterization).bind(*names, **SETTINGS)
    assert list(bound.arguments)[:9] == names


@pytest.mark.gpu
def test_gsplat_draws_what_the_reference_draws() -> None:
    """facts/gaussians.md 4.7: tolerances of gsplat's own tests, but for pixels on which a threshold falls."""
    pytest.importorskip("gsplat")
    size, gaussians = (120, 90), crowd(2000, size=0.06)
    values = inputs_of(gaussians, size)
    direction = torch.randn(2, size[1], size[0], 6)
    results = {}
    for backend in ("reference", "gsplat"):
        moved = {name: value.detach().to("cuda", torch.float32).requires_grad_() for name, value in values.items()}
        colors, person = moved["features"][:, :3], moved["features"][:, 3]
        cloud = Gaussians(**{name: moved[name] for name in NAMES[:4]}, colors=colors)
        K = moved["K"].detach()
        drawn = render(cloud, moved["cam_from_world"], K, size, person=person, backend=backend)
        picture = torch.cat((drawn.color, torch.stack((drawn.person, drawn.depth, drawn.alpha), -1)), -1)
        (picture * direction.to(picture)).sum().backward()
        results[backend] = (picture.detach(), {n: v.grad for n, v in moved.items() if n != "K"})
    (expected, wanted), (found, slopes) = results["reference"], results["gsplat"]
    differs = ((found - expected).abs() > 1e-4 + 1e-4 * expected.abs()).any(-1)
    assert float(differs.float().mean()) < 0.01
    tolerances = {
        "means": (1e-2, 6e-2), "quats": (2e-1, 2e-2), "scales": (5e-1, 2e-1), "opacities": (8e-3, 6e-3),
        "features": (1e-3, 1e-3), "cam_from_world": (2e-3, 2e-3),
    }  # fmt: skip
    for name, (relative, absolute) in tolerances.items():
        slope, want = slopes[name], wanted[name]
        assert slope is not None and want is not None
        scale = want.abs().max()
        beyond = (slope - want).abs() > absolute * scale + relative * want.abs()
        assert float(beyond.float().mean()) < 0.01, name


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cam_from_world": torch.eye(4)}, r"cam_from_world: got \[4, 4\]"),
        ({"K": torch.eye(3)[None]}, r"K: got \[1, 3, 3\]; expected \[2, 3, 3\]"),
        ({"person": torch.zeros(4)}, r"person: got \[4\]; expected \[5\]"),
        ({"background": torch.zeros(3, 3)}, r"background: got \[3, 3\]; expected \[3\] or \[2, 3\]"),
        ({"background": torch.zeros(3, device="meta")}, "background: got a tensor on meta"),
        ({"person": torch.full((5,), torch.nan)}, "person: got NaN or infinity"),
        ({"size": (0, 4)}, r"size: got \(0, 4\)"),
        ({"backend": "inria"}, "auto or gsplat or reference"),
        ({"backend": "gsplat"}, "expected tensors on a CUDA device"),
        ({"backend": "gsplat", "K": torch.eye(3).repeat(2, 1, 1).requires_grad_()}, "cannot differentiate K"),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    cam_from_world, K = two_cameras(SIZE)
    arguments: dict[str, Any] = {"cam_from_world": cam_from_world, "K": K, "size": SIZE} | changes
    with pytest.raises(FootfallError, match=message):
        render(crowd(5), **arguments)


def test_a_gaussian_that_is_not_a_number_does_not_just_vanish() -> None:
    gaussians = crowd(5)
    gaussians.scales[2, 1] = torch.nan
    with pytest.raises(FootfallError, match="render, scales: got NaN"):
        look(gaussians)
