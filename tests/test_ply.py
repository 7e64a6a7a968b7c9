"""Gaussians in files: what other programs read, what comes back, what is refused, how much a packed form loses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch

from distill.errors import FootfallError
from distill.files import load_arrays, save_arrays
from distill.geometry.rotations import matrix_from_quat, rotation_angle
from distill.render import packed
from distill.render.gaussians import Gaussians
from distill.render.ply import HARMONIC_0, LEAST_OPACITY, PROPERTIES, read_gaussians, write_gaussians
from tests.conftest import TOLERANCES


def some(count: int = 500) -> Gaussians:
    return Gaussians(
        means=torch.randn(count, 3) * 20,
        quats=torch.nn.functional.normalize(torch.randn(count, 4), dim=-1),
        scales=torch.exp(torch.empty(count, 3).uniform_(-9, 2)),
        opacities=torch.rand(count) * 0.98 + 0.01,
        colors=torch.rand(count, 3),
    )


# The standard layout


def test_ply_reads_back_within_float32(tmp_path: Path) -> None:
    gaussians = some()
    write_gaussians(tmp_path / "g.ply", gaussians)
    read = read_gaussians(tmp_path / "g.ply")
    assert torch.equal(read.means, gaussians.means)
    for name in ("quats", "scales", "opacities", "colors"):
        torch.testing.assert_close(getattr(read, name), getattr(gaussians, name), rtol=2e-6, atol=1e-7)
    write_gaussians(tmp_path / "again.ply", read)
    assert torch.equal(read_gaussians(tmp_path / "again.ply").means, read.means)


def test_another_program_finds_the_standard_layout(tmp_path: Path) -> None:
    gaussians = some()
    write_gaussians(tmp_path / "g.ply", gaussians)
    read = plyfile.PlyData.read(tmp_path / "g.ply")
    assert not read.text
    assert read.byte_order == "<"
    (vertex,) = read.elements
    assert tuple(p.name for p in vertex.properties) == PROPERTIES
    assert (tmp_path / "g.ply").stat().st_size < 68 * 500 + 700
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(vertex[name], gaussians.means[:, axis])
        np.testing.assert_array_equal(vertex["n" + name], 0)
    np.testing.assert_allclose(vertex["opacity"], torch.logit(gaussians.opacities.double()), rtol=1e-5, atol=1e-6)
    for axis in range(3):
        np.testing.assert_allclose(vertex[f"scale_{axis}"], gaussians.scales[:, axis].log(), rtol=1e-5, atol=1e-6)
        drawn = 0.5 + 0.28209479177387814 * vertex[f"f_dc_{axis}"]
        np.testing.assert_allclose(drawn, gaussians.colors[:, axis], rtol=1e-5, atol=1e-6)
    for part in range(4):
        np.testing.assert_allclose(vertex[f"rot_{part}"], gaussians.quats[:, part], rtol=1e-5, atol=1e-6)


def test_values_by_hand(tmp_path: Path) -> None:
    one = Gaussians(
        means=torch.tensor([[1.0, 2, 3]]), quats=torch.tensor([[2.0, 0, 0, 0]]), scales=torch.full((1, 3), math.e),
        opacities=torch.tensor([0.75]), colors=torch.tensor([[0.5, 1.0, 0.0]]),
    )  # fmt: skip
    write_gaussians(tmp_path / "g.ply", one)
    row = plyfile.PlyData.read(tmp_path / "g.ply")["vertex"][0]
    expected = [1, 2, 3, 0, 0, 0, 0, 1.7724539, -1.7724539, math.log(3), 1, 1, 1, 1, 0, 0, 0]  # sqrt(pi) = 1.7724539
    np.testing.assert_allclose([row[name] for name in PROPERTIES], expected, rtol=1e-6)
    assert pytest.approx(0.28209479177387814) == HARMONIC_0


def test_the_ends_of_opacity_stay_finite(tmp_path: Path) -> None:
    ends = replace(some(2), opacities=torch.tensor([0.0, 1.0]))
    write_gaussians(tmp_path / "g.ply", ends)
    assert np.isfinite(plyfile.PlyData.read(tmp_path / "g.ply")["vertex"]["opacity"]).all()
    assert (read_gaussians(tmp_path / "g.ply").opacities - ends.opacities).abs().max() < 2 * LEAST_OPACITY


def test_a_file_of_another_program(tmp_path: Path) -> None:
    """Properties in another order, of other types, with harmonics, normals missing, and an element after them."""
    names = ["rot_3", "opacity", "f_rest_0", "z", "y", "x", "f_dc_2", "f_dc_1", "f_dc_0", "scale_2", "scale_1",
             "scale_0", "rot_0", "rot_1", "rot_2"]  # fmt: skip
    rows = np.zeros(7, [(name, "<f8" if name in "xyz" else "<f4") for name in names])
    rows["x"], rows["rot_0"], rows["f_dc_0"], rows["scale_1"] = np.arange(7) + 0.5, 1, 9, -2
    more = np.zeros(2, [("vertex_indices", "i4", (3,))])
    elements = [plyfile.PlyElement.describe(rows, "vertex"), plyfile.PlyElement.describe(more, "face")]
    plyfile.PlyData(elements, byte_order="<").write(tmp_path / "other.ply")
    read = read_gaussians(tmp_path / "other.ply")
    np.testing.assert_array_equal(read.means[:, 0], rows["x"])
    torch.testing.assert_close(read.scales[0], torch.tensor([1.0, math.exp(-2), 1.0]), **TOLERANCES[torch.float32])
    assert read.opacities[0] == 0.5
    assert read.colors[0].tolist() == [1.0, 0.5, 0.5]  # clipped


def test_no_gaussians_are_a_file_too(tmp_path: Path) -> None:
    write_gaussians(tmp_path / "g.ply", some(0))
    assert len(read_gaussians(tmp_path / "g.ply")) == 0


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (b"ply\n", b"plx\n", "no PLY header"),
        (b"end_header", b"end_heater", "no PLY header"),
        (b"binary_little_endian", b"ascii", "format ascii"),
        (b"binary_little_endian", b"binary_big_endian", "format binary_big_endian"),
        (b"format binary_little_endian 1.0\n", b"", "element vertex"),
        (b"element vertex 5", b"element chunk 5", "compressed"),
        (b"element vertex 5", b"element vertex 6", "6 Gaussians"),
        (b"element vertex 5", b"element vertex 99999999999999999999", "99999999999999999999 Gaussians"),
        (b"element vertex 5", b"element vertex -5", "-5 vertices"),
        (b"element vertex 5", b"element vertex five", "five"),
        (b"property float opacity", b"property float opaquety", "no property opacity"),
        (b"property float opacity", b"property list uchar float opacity", "property"),
        (b"property float opacity", b"property float x", "x"),
    ],
)
def test_a_bad_ply_is_one_clear_error(tmp_path: Path, old: bytes, new: bytes, word: str) -> None:
    write_gaussians(tmp_path / "g.ply", some(5))
    data = (tmp_path / "g.ply").read_bytes()
    assert old in data
    (tmp_path / "bad.ply").write_bytes(data.replace(old, new, 1))
    with pytest.raises(FootfallError, match=word):
        read_gaussians(tmp_path / "bad.ply")


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "infinite", "huge scale", "no length"])
def test_bad_content_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "g.ply"
    write_gaussians(path, some(5))
    data = bytearray(path.read_bytes())
    start = data.index(b"end_header\n") + len(b"end_header\n")
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(data[:-1])
    else:
        column, values = {"infinite": (0, [np.inf]), "huge scale": (10, [1e5]), "no length": (13, [0.0] * 4)}[kind]
        place = start + 4 * column
        data[place : place + 4 * len(values)] = np.array(values, "<f4").tobytes()
        path.write_bytes(data)
    with pytest.raises(FootfallError, match=r"binary little-endian \.ply"):
        read_gaussians(path)


def test_any_cut_of_a_file_is_the_same_kind_of_error(tmp_path: Path) -> None:
    write_gaussians(tmp_path / "g.ply", some(3))
    data = (tmp_path / "g.ply").read_bytes()
    for length in range(0, len(data), 23):
        (tmp_path / "cut.ply").write_bytes(data[:length])
        with pytest.raises(FootfallError):
            read_gaussians(tmp_path / "cut.ply")


@pytest.mark.parametrize("field", ["means", "scales", "opacities", "quats"])
def test_what_a_diverged_fit_left_is_not_written(tmp_path: Path, field: str) -> None:
    broken = some(4)
    getattr(broken, field)[1] = math.nan if field == "means" else (-1 if field != "quats" else 0)
    for write in (write_gaussians, packed.save_packed):
        with pytest.raises(FootfallError, match=field if field != "quats" else "quaternions"):
            write(tmp_path / "g", broken)
    assert not list(tmp_path.iterdir())


# The packed form


def test_packed_loses_no_more_than_stated(tmp_path: Path) -> None:
    gaussians = some(20_000)
    packed.save_packed(tmp_path / "g.npz", gaussians, {"frame": "world"})
    read, meta = packed.load_packed(tmp_path / "g.npz")
    assert meta == {"frame": "world"}
    bounds = packed.error_bounds(packed.pack_gaussians(gaussians))
    error = {
        "mean_m": (read.means - gaussians.means).abs().max(),
        "scale_ratio": (torch.maximum(read.scales / gaussians.scales, gaussians.scales / read.scales) - 1).max(),
        "color": (read.colors - gaussians.colors).abs().max(),
        "opacity": (read.opacities - gaussians.opacities).abs().max(),
        "rotation_rad": rotation_angle(
            matrix_from_quat(read.quats.double()), matrix_from_quat(gaussians.quats.double())
        ).max(),
    }
    rounding = {"mean_m": 1e-5, "scale_ratio": 1e-5}
    for name, bound in bounds.items():
        assert error[name] <= bound + rounding.get(name, 1e-6), name
        assert error[name] > 0.5 * bound, name  # the bound is no idle promise
    assert bounds["mean_m"] < 0.002
    assert bounds["scale_ratio"] < 0.025
    assert math.degrees(bounds["rotation_rad"]) < 0.3


def test_packed_is_a_quarter_of_the_ply(tmp_path: Path) -> None:
    gaussians = some(5000)
    packed.save_packed(tmp_path / "g.npz", gaussians)
    write_gaussians(tmp_path / "g.ply", gaussians)
    assert sum(part.nbytes for part in packed.pack_gaussians(gaussians).values()) <= 17 * 5000 + 100
    assert (tmp_path / "g.npz").stat().st_size < 0.28 * (tmp_path / "g.ply").stat().st_size


def test_packed_keeps_what_lies_on_the_steps() -> None:
    quats = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 3, 0], [0, 0, 0, -0.5]])
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 1]])
    exact = Gaussians(
        means=corners, quats=quats, scales=torch.full((4, 3), 0.25), opacities=torch.tensor([0.0, 1, 0, 1]),
        colors=corners,
    )  # fmt: skip
    read = packed.unpack_gaussians(packed.pack_gaussians(exact))
    for name in ("means", "opacities", "colors"):
        assert torch.equal(getattr(read, name), getattr(exact, name))
    torch.testing.assert_close(read.scales, exact.scales, **TOLERANCES[torch.float32])
    torch.testing.assert_close(matrix_from_quat(read.quats), matrix_from_quat(quats), rtol=0, atol=1e-7)


@pytest.mark.parametrize("count", [0, 1])
def test_few_are_packed_too(count: int) -> None:
    one = some(count)
    read = packed.unpack_gaussians(packed.pack_gaussians(one))
    torch.testing.assert_close(read.means, one.means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(read.scales, one.scales, rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("quat", None, "no array 'quat'"),
        ("mean", np.zeros((3, 3), np.uint16), "mean"),
        ("color", np.zeros((5, 3), np.float32), "color"),
        ("box", np.full((2, 3), np.nan, np.float32), "not finite"),
        ("format", None, "format"),
    ],
)
def test_a_bad_packed_file(tmp_path: Path, name: str, value: np.ndarray | None, word: str) -> None:
    packed.save_packed(tmp_path / "g.npz", some(5))
    arrays, meta = load_arrays(tmp_path / "g.npz")
    if name == "format":
        meta = {}
    elif value is None:
        del arrays[name]
    else:
        arrays[name] = value
    save_arrays(tmp_path / "g.npz", arrays, meta)
    with pytest.raises(FootfallError, match=word):
        packed.load_packed(tmp_path / "g.npz")
