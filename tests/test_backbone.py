"""The backbone: official files and numbers, any size, any dtype, no host round trips, the registry."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.errors import FootfallError
from distill.files import read_json, sha256_of
from distill.models.backbones import Backbone, FrozenBackbone, load_backbone
from distill.models.mast3r import Mast3r, Mast3rConfig, initialise, points_from_raw
from distill.models.mast3r_files import config_from_words
from distill.models.registry import TINY, TINY_WEIGHTS, build, list_backbones
from distill.models.rope import apply_rope, grid_positions, rope_from_positions, rope_of_grid

PARITY = {"atol": 2e-4, "rtol": 1e-4}  # what fused attention meets against explicit softmax (facts/mast3r.md, 3)


@pytest.fixture(scope="module")
def parity_folder(shared_dir: Path) -> Path:
    return shared_dir / "parity" / "mast3r" / "a"


@pytest.fixture(scope="module")
def small() -> Mast3r:
    config = replace(
        TINY, enc_dim=24, enc_depth=1, enc_heads=2, dec_dim=16, dec_depth=3, dec_heads=2, hooks=(0, 1, 2, 3)
    )
    model = Mast3r(replace(config, dpt_dim=8, dpt_last_dim=8, dpt_layer_dims=(8, 8, 8, 8), descriptor_dim=6))
    initialise(model, 3)
    return model.eval()


def _check_direction(model: Backbone, arrays: dict[str, NDArray[np.float32]], first: str, second: str) -> None:
    """Tokens of every layer, points, confidence and descriptors of one decoding direction."""
    views = {key: model.encode((torch.from_numpy(arrays[f"img{key}"]) + 1) / 2) for key in (first, second)}
    torch.testing.assert_close(views[first].features, torch.from_numpy(arrays[f"enc_{first}"]), **PARITY)
    pair = model.decode(views[first], views[second], descriptors=True)
    names = {"pts3d": "points", "conf": "conf", "desc": "desc", "desc_conf": "desc_conf"}
    for view, side in (("1", "a"), ("2", "b")):
        prefix = f"{first}{second}_view{view}"
        layers: list[Tensor] = getattr(pair, f"tokens_{side}")
        for layer, tokens in enumerate(layers, start=1):
            torch.testing.assert_close(tokens, torch.from_numpy(arrays[f"dec_{prefix}_{layer:02d}"]), **PARITY)
        for official, ours in names.items():
            value = getattr(pair, f"{ours}_{side}")
            torch.testing.assert_close(value, torch.from_numpy(arrays[f"{official}_{prefix}"]), **PARITY)


@torch.no_grad()
def test_reproduces_the_official_outputs_in_both_directions(parity_folder: Path) -> None:
    model = load_backbone(parity_folder)
    with np.load(parity_folder / "io.npz") as stored:
        arrays = dict(stored)
    _check_direction(model, arrays, "1", "2")
    _check_direction(model, arrays, "2", "1")


@pytest.mark.slow
@torch.no_grad()
def test_reproduces_the_official_full_size_model(shared_dir: Path) -> None:
    """688 M weights by the recipe of the parity data (one seed per name), 3 GB of memory, a minute."""
    folder = shared_dir / "parity" / "mast3r" / "full"
    recipe = read_json(folder / "config.json")
    with torch.device("meta"):
        model = Mast3r(config_from_words(recipe))
    with np.load(folder / "io.npz") as stored:
        arrays = dict(stored)
    model.to_empty(device="cpu")
    _fill_by_recipe(model, arrays)
    model.eval()
    a, b = (model.encode(torch.from_numpy(arrays[f"img{i}_uint8"])[None].permute(0, 3, 1, 2) / 255) for i in "12")
    pair = model.decode(a, b, descriptors=True)
    torch.testing.assert_close(a.features, torch.from_numpy(arrays["enc_1"]), **PARITY)
    for layer in (1, 6, 9, 12):
        wanted = torch.from_numpy(arrays[f"dec_12_view2_{layer:02d}"])
        torch.testing.assert_close(pair.tokens_b[layer - 1], wanted, **PARITY)
    torch.testing.assert_close(pair.points_a, torch.from_numpy(arrays["pts3d_12_view1"]), **PARITY)
    torch.testing.assert_close(pair.points_b, torch.from_numpy(arrays["pts3d_12_view2"]), **PARITY)
    torch.testing.assert_close(pair.conf_b, torch.from_numpy(arrays["conf_12_view2"]), **PARITY)
    torch.testing.assert_close(pair.desc_a, torch.from_numpy(arrays["desc_12_view1"]), **PARITY)


def _fill_by_recipe(model: Mast3r, arrays: dict[str, NDArray[np.float32]]) -> None:
    """The `weights_recipe` of the parity data."""
    state = model.state_dict()
    for name, tensor in state.items():
        if f"override/{name}" in arrays:
            tensor.copy_(torch.from_numpy(arrays[f"override/{name}"]))
            continue
        drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tensor.numel())
        if name == "mask_token":
            drawn *= 0.02
        elif tensor.ndim == 1:
            drawn = 1 + 0.1 * drawn if "norm" in name and name.endswith("weight") else 0.05 * drawn
        else:
            transposed = name.endswith(("act_postprocess.0.1.weight", "act_postprocess.1.1.weight"))
            drawn /= np.sqrt(tensor.shape[0] if transposed else tensor[0].numel())
        tensor.copy_(torch.from_numpy(drawn).reshape(tensor.shape))


def test_official_key_list_and_parameter_counts_match_exactly(shared_dir: Path) -> None:
    listed = (shared_dir / "parity" / "mast3r" / "official_state_dict_keys.txt").read_text().splitlines()
    official = dict(line.split("\t") for line in listed)
    kept = {name: shape for name, shape in official.items() if "scratch.layer_rn." not in name}
    with torch.device("meta"):
        model = Mast3r(Mast3rConfig())
    assert {name: str(tuple(tensor.shape)) for name, tensor in model.state_dict().items()} == kept
    assert len(official) - len(kept) == 8  # the aliases
    counts = {  # facts/mast3r.md, section 4
        "patch_embed": 787_456, "enc_blocks": 302_309_376, "enc_norm": 2_048, "decoder_embed": 787_200,
        "dec_blocks": 113_439_744, "dec_blocks2": 113_439_744, "dec_norm": 1_536,
        "downstream_head1.dpt": 20_201_668, "downstream_head2.head_local_features": 58_733_824,
    }  # fmt: skip
    for name, count in counts.items():
        assert sum(p.numel() for p in model.get_submodule(name).parameters()) == count
    assert sum(p.numel() for p in model.parameters()) == 688_638_856


def test_config_of_the_hub_is_the_default(shared_dir: Path) -> None:
    words = read_json(shared_dir / "parity" / "mast3r" / "hub_config.json")
    assert config_from_words(words) == Mast3rConfig()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reads_files_with_aliases_and_of_half_precision(
    parity_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    weights = load_file(parity_folder / "model.safetensors")
    stored = {name: tensor.to(dtype) for name, tensor in weights.items()}
    for head in "12":
        for level in range(4):
            name = f"downstream_head{head}.dpt.scratch.layer{level + 1}_rn.weight"
            stored[f"downstream_head{head}.dpt.scratch.layer_rn.{level}.weight"] = stored[name].clone()
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((parity_folder / "config.json").read_text())
    model = load_backbone(tmp_path)
    loaded = model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], tensor.to(dtype).float()) for name, tensor in weights.items())


@torch.no_grad()
def test_half_precision_trunk_keeps_float32_heads(small: Mast3r) -> None:
    half = Mast3r(small.config)
    half.load_state_dict(small.state_dict())
    half.set_trunk_dtype(torch.bfloat16)
    images = torch.rand(2, 3, 48, 64)
    full, cast = (m.decode(m.encode(images)[:1], m.encode(images)[1:], descriptors=True) for m in (small, half))
    assert half.encode(images).features.dtype == torch.bfloat16
    assert cast.points_a is not None and full.points_a is not None
    assert cast.points_a.dtype == cast.conf_a.dtype == cast.desc_a.dtype == torch.float32
    assert (cast.points_a - full.points_a).norm() < 0.05 * full.points_a.norm()


@torch.no_grad()
def test_views_may_differ_in_size_and_grids_may_be_odd(small: Mast3r) -> None:
    a, b = small.encode(torch.rand(2, 3, 48, 80)), small.encode(torch.rand(2, 3, 112, 16))
    pair = small.decode(a, b, descriptors=True)
    assert (a.grid, a.size, b.grid) == ((3, 5), (80, 48), (7, 1))
    assert pair.points_a.shape == (2, 48, 80, 3) and pair.points_b.shape == (2, 112, 16, 3)
    assert pair.conf_b.shape == (2, 112, 16) and pair.desc_a.shape == (2, 48, 80, 6)
    assert (pair.conf_a >= 1).all() and (pair.desc_conf_b > 0).all()
    torch.testing.assert_close(pair.desc_b.norm(dim=-1), torch.ones(2, 112, 16))


@torch.no_grad()
def test_batch_entries_do_not_mix(small: Mast3r) -> None:
    images = torch.rand(3, 3, 32, 48)
    tokens = small.encode(images)
    together = small.decode(tokens, tokens)
    alone = small.decode(small.encode(images[1:2]), small.encode(images[1:2]))
    torch.testing.assert_close(together.points_b[1:2], alone.points_b, rtol=1e-4, atol=1e-5)


def test_rotary_angles_by_hand_and_at_negative_positions() -> None:
    # 8 channels: two quarters of 2 for the row, two for the column; frequencies 1 and 100^(-1/2) = 0.1.
    cos, sin = rope_from_positions(torch.tensor([[-1, 2]]), head_dim=8)
    angles = torch.tensor([-1.0, -0.1, -1.0, -0.1, 2.0, 0.2, 2.0, 0.2])
    torch.testing.assert_close(cos[0], angles.cos())
    torch.testing.assert_close(sin[0], angles.sin())
    first = apply_rope(torch.eye(8)[:1][None, None], (cos, sin))[0, 0, 0]  # the first channel turns into the third
    expected = torch.zeros(8)
    expected[0], expected[2] = np.cos(-1), np.sin(-1)
    torch.testing.assert_close(first, expected)


def test_rotary_scores_depend_on_relative_position_only() -> None:
    query, key = torch.randn(2, 1, 1, 1, 16)
    positions = torch.tensor([[3, 5], [4, 9], [-7, 1], [-6, 5]])  # 1 -> 2 and 3 -> 4 are the same step
    cos, sin = rope_from_positions(positions, 16)
    turned = [apply_rope(x, (cos[i : i + 1], sin[i : i + 1])) for i, x in enumerate((query, key, query, key))]
    torch.testing.assert_close((turned[0] * turned[1]).sum(), (turned[2] * turned[3]).sum(), rtol=1e-4, atol=1e-5)


def test_position_tables_are_computed_once_and_can_train_after_inference_mode() -> None:
    with torch.inference_mode():
        table = rope_of_grid((3, 2), 16, 100.0, torch.device("cpu"))
    assert rope_of_grid((3, 2), 16, 100.0, torch.device("cpu"))[0] is table[0]
    assert not table[0].is_inference()
    torch.testing.assert_close(table[0], rope_from_positions(grid_positions((3, 2)), 16)[0])


def test_points_keep_direction_and_grow_as_expm1() -> None:
    raw = torch.tensor([[0.0, 0.6, 0.8], [3.0, 0.0, 4.0]], dtype=torch.float64)
    e = float(np.expm1(1.0)), float(np.expm1(5.0))
    wanted = torch.tensor([[0.0, 0.6 * e[0], 0.8 * e[0]], [0.6 * e[1], 0.0, 0.8 * e[1]]], dtype=torch.float64)
    torch.testing.assert_close(points_from_raw(raw), wanted)
    assert torch.equal(points_from_raw(torch.zeros(1, 3)), torch.zeros(1, 3))


def test_seeded_initialisation_repeats_and_leaves_the_random_state_alone(small: Mast3r) -> None:
    before = torch.get_rng_state()
    again = Mast3r(small.config)
    torch.set_rng_state(before)
    initialise(again, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


def test_frozen_backbone_stays_frozen_and_outside_its_owner(small: Mast3r) -> None:
    owner = torch.nn.ModuleDict({"backbone": FrozenBackbone(small), "head": torch.nn.Linear(2, 2)})
    owner.train().double()
    assert not small.training and next(small.parameters()).dtype == torch.float32
    assert {name.split(".")[0] for name in owner.state_dict()} == {"head"}
    assert sum(p.numel() for p in owner.parameters()) == 6
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not owner["backbone"].encode(images).features.requires_grad
    owner.to("meta")
    assert next(small.parameters()).device.type == "meta"


def test_tiny_fits_its_budget_and_its_record() -> None:
    model = load_backbone("tiny")
    assert sum(p.numel() for p in model.parameters()) * 2 < 6e6  # shipped as float16 under 6 MB
    assert model.provenance.licence == "Apache-2.0"
    if TINY_WEIGHTS.is_file():
        record = read_json(TINY_WEIGHTS.with_suffix(".json"))
        assert model.provenance.sha256 == record["sha256"] == sha256_of(TINY_WEIGHTS)
    assert [model.preprocessing.network_size(s) for s in ((1920, 1080), (1080, 1920), (640, 480))] == [
        (224, 128), (128, 224), (224, 160),
    ]  # fmt: skip


def test_damaged_shipped_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = Mast3r(TINY)
    path = tmp_path / "tiny.safetensors"
    save_file(model.state_dict(), path)
    (tmp_path / "tiny.json").write_text(json.dumps({"sha256": "0" * 64}))
    monkeypatch.setattr("distill.models.registry.TINY_WEIGHTS", path)
    with pytest.raises(FootfallError, match="sha256"):
        build("tiny", None)


def test_bad_requests_say_what_to_do(tmp_path: Path, small: Mast3r, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FootfallError, match="tiny"):
        load_backbone("no_such_backbone")
    with pytest.raises(FootfallError, match=r"config\.json"):
        load_backbone(tmp_path)
    with pytest.raises(FootfallError, match="multiples of 16"):
        small.encode(torch.rand(1, 3, 30, 32))
    words = {"dec_depth": 4, "head_type": "linear", "output_mode": "pts3d", "conf_mode": ["exp", 1, "inf"]}
    (tmp_path / "config.json").write_text(json.dumps({**words, "depth_mode": ["exp", "-inf", "inf"]}))
    with pytest.raises(FootfallError, match="head_type"):
        load_backbone(tmp_path)


def test_weights_that_do_not_fit_their_config_are_refused(parity_folder: Path, tmp_path: Path) -> None:
    weights = load_file(parity_folder / "model.safetensors")
    (tmp_path / "config.json").write_text((parity_folder / "config.json").read_text())
    del weights["dec_norm.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FootfallError, match=r"dec_norm\.bias"):
        load_backbone(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(FootfallError, match="safetensors"):
        load_backbone(tmp_path)


def test_importing_models_imports_no_optional_package() -> None:
    code = (
        "import sys, distill.models, distill.models.registry; "
        "bad = {'timm', 'torchvision', 'onnx', 'cv2', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert "tiny" in list_backbones() and "mast3r" in list_backbones()


@torch.no_grad()
def test_timm_features_behind_the_same_protocol() -> None:
    from distill.models.timm_backbone import build_timm

    backbone = build_timm("timm:vit_tiny_patch16_224", None, pretrained=False).eval()
    small_patch = build_timm("timm:vit_small_patch14_dinov2", None, pretrained=False).eval()
    for model, size in ((backbone, (96, 64)), (small_patch, (56, 42))):
        width, height = size
        a, b = model.encode(torch.rand(2, 3, height, width)), model.encode(torch.rand(2, 3, height, width))
        pair = model.decode(a, b)
        assert a.grid == (height // model.patch_size, width // model.patch_size)
        assert pair.tokens_a[-1].shape == (2, a.grid[0] * a.grid[1], model.token_dim)
        assert pair.points_a is None
        sides = model.preprocessing.network_size((1920, 1080))
        assert all(side % model.patch_size == 0 for side in sides)
    with pytest.raises(FootfallError, match="timm"):
        build_timm("timm:no_such_model", None, pretrained=False)
