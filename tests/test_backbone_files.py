"""Files of backbones: PyTorch files, other depths and hooks, infinities without quotes, and what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.errors import FootfallError
from distill.models.backbones import load_backbone
from distill.models.mast3r import Mast3r, initialise
from distill.models.mast3r_files import config_from_words, words_of_constructor
from tests.josh3r_support import BACKBONE, WORDS
from tests.student_support import one_thread  # noqa: F401 (an automatic fixture)

ALL_WORDS: dict[str, Any] = {"hooks": WORDS["hooks"], **WORDS["mast3r"]}
"""`BACKBONE` in the words of a parity folder."""
CONSTRUCTOR = (
    "AsymmetricMASt3R(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(512, 512), "
    "head_type='catmlp+dpt', output_mode='pts3d+desc24', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
    "enc_embed_dim=32, enc_depth=1, enc_num_heads=2, dec_embed_dim=32, dec_depth=12, dec_num_heads=2, two_confs=True, "
    "desc_conf_mode=('exp', 0, inf), landscape_only=False)"
)
"""As `args.model` of the published `.pth` says it, narrower."""


@pytest.fixture(scope="module")
def drawn() -> Mast3r:
    model = Mast3r(BACKBONE)
    initialise(model, 5)
    return model.eval()


def _write(folder: Path, words: dict[str, Any] | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(words if isinstance(words, str) else json.dumps(words))


@torch.no_grad()
def test_a_pytorch_file_loads_like_safetensors(drawn: Mast3r, tmp_path: Path) -> None:
    state = dict(drawn.state_dict())
    state["downstream_head1.dpt.scratch.layer_rn.0.weight"] = state["downstream_head1.dpt.scratch.layer1_rn.weight"]
    _write(tmp_path, ALL_WORDS)
    torch.save({"args": argparse.Namespace(model=CONSTRUCTOR, lr=1e-4), "model": state}, tmp_path / "MASt3R.pth")
    model = load_backbone(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), drawn.parameters(), strict=True))
    assert not any(p.requires_grad for p in model.parameters()) and len(model.provenance.sha256) == 64
    # Hooks 1 twice, an odd grid and a view of another size: what is read is what the config says.
    images = torch.rand(2, 3, 48, 80), torch.rand(2, 3, 80, 16)
    pair = model.decode(model.encode(images[0]), model.encode(images[1]))
    assert pair.points_b is not None and pair.points_b.shape == (2, 80, 16, 3)


def test_a_pytorch_file_may_say_itself_how_it_was_built(tmp_path: Path) -> None:
    words = words_of_constructor(CONSTRUCTOR)
    assert words["depth_mode"] == ["exp", float("-inf"), float("inf")] and words["img_size"] == [512, 512]
    config = config_from_words(words)
    assert (config.dec_depth, config.hooks, config.enc_dim) == (12, (0, 6, 9, 12), 32)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Mast3r(config).state_dict().items()}
    kept = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}  # no memory: one value each
    torch.save({"args": argparse.Namespace(model=CONSTRUCTOR), "model": kept}, tmp_path / "small.pth")
    assert load_backbone(tmp_path).feature_dim == 32
    torch.save({"model": kept}, tmp_path / "small.pth")
    with pytest.raises(FootfallError, match=r"no config\.json"):
        load_backbone(tmp_path)
    for text in ("print(1)", "A(x=open('f'))", "not python", "A(x=__import__('os'))"):
        with pytest.raises(FootfallError, match="constructor"):
            words_of_constructor(text)


def test_infinities_may_stand_without_quotes_and_flat(drawn: Mast3r, tmp_path: Path) -> None:
    flat = {"hooks": WORDS["hooks"], **WORDS["mast3r"]["constructor"], **WORDS["mast3r"]["width_overrides"]}
    text = json.dumps(flat).replace('"-inf"', "-Infinity").replace('"inf"', "Infinity")
    assert '"inf"' not in text
    _write(tmp_path, text)
    save_file(drawn.state_dict(), tmp_path / "model.safetensors")
    model = load_backbone(tmp_path)
    assert isinstance(model, Mast3r) and model.config == BACKBONE


@torch.no_grad()
def test_reads_no_value_back_to_the_host(drawn: Mast3r) -> None:
    model = Mast3r(BACKBONE).to("meta")  # tensors without values: whoever asks for one fails
    tokens = model.encode(torch.rand(2, 3, 48, 80, device="meta"))
    pair = model.decode(tokens[:1], tokens[1:], descriptors=True)
    assert pair.desc_a is not None and pair.desc_a.device.type == "meta"


def test_tensors_of_another_model_are_named(drawn: Mast3r, tmp_path: Path) -> None:
    _write(tmp_path, ALL_WORDS)
    state = drawn.state_dict()
    save_file({f"model.{name}": tensor for name, tensor in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(FootfallError, match=r"missing \(e\.g\. dec_blocks.* unknown \(e\.g\. model\.dec_blocks"):
        load_backbone(tmp_path)
    wrong: dict[str, Tensor] = {**state, "dec_norm.bias": torch.zeros(17)}
    save_file(wrong, tmp_path / "model.safetensors")
    with pytest.raises(FootfallError, match=r"dec_norm\.bias: \(17,\) for \(16,\)"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hooks": [0, 1]}, "four layers"),
        ({"hooks": [0, 2, 1, 3]}, "ascending"),
        ({"hooks": [0, 1, 2, 4]}, "within 0..3"),
        ({"patch_size": 14}, "patch_size"),
        ({"enc_num_heads": 5}, "heads"),
        ({"pos_embed": "cosine"}, "pos_embed"),
        ({"conf_mode": ["exp", 1, 5]}, "conf_mode"),
        ({"depth_mode": ["exp"]}, "values"),
        ({"enc_depth": "many"}, "values"),
        ({"enc_depth": 0}, "at least 1"),
    ],
)
def test_configs_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    flat = {"hooks": WORDS["hooks"], **WORDS["mast3r"]["constructor"], **WORDS["mast3r"]["width_overrides"], **change}
    _write(tmp_path, flat)
    with pytest.raises(FootfallError, match=match):
        load_backbone(tmp_path)


def test_config_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "[]")
    with pytest.raises(FootfallError, match="content"):
        load_backbone(tmp_path)


@torch.no_grad()
def test_official_example_with_half_precision_trunk_stays_near(shared_dir: Path) -> None:
    folder = shared_dir / "parity" / "mast3r" / "a"
    with np.load(folder / "io.npz") as stored:
        images = [(torch.from_numpy(stored[f"img{k}"]) + 1) / 2 for k in "12"]
        wanted = torch.from_numpy(stored["pts3d_12_view1"])
    assert load_file(folder / "model.safetensors")["dec_norm.bias"].dtype == torch.float32
    model = load_backbone(folder, dtype=torch.bfloat16)
    pair = model.decode(model.encode(images[0]), model.encode(images[1]))
    assert pair.points_a is not None and pair.points_a.dtype == torch.float32
    assert (pair.points_a - wanted).norm() < 0.05 * wanted.norm()  # random weights: 1.7 % at full size
