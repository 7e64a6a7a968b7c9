"""Depth Anything 3: the official numbers, the published files to the byte, what a pair means, bad files."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.errors import FootfallError
from distill.files import sha256_of
from distill.models import load_backbone
from distill.models.da3 import Da3, Da3Config
from distill.models.da3.config import config_from_words
from distill.models.da3.files import model_from_weights
from distill.models.registry import BACKBONES
from tests.da3_parity import (
    CASES,
    FILE,
    drawn_images,
    drawn_weights,
    known_cameras,
    published_words,
    small_words,
    thinned,
    words_of,
)
from tests.student_support import one_thread  # noqa: F401 (a fixture)

PARITY = {"atol": 1e-4, "rtol": 1e-4}


def on_meta(config: Da3Config) -> Da3:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return Da3(config).eval()


def with_drawn_weights(words: dict[str, Any]) -> Da3:
    config = config_from_words(words)
    shapes = {name: tensor.shape for name, tensor in on_meta(config).state_dict().items()}
    return model_from_weights(config, drawn_weights(shapes), "drawn").eval()


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(FILE)


@pytest.fixture(scope="module")
def small() -> Da3:
    return with_drawn_weights(small_words()).requires_grad_(False)


@pytest.fixture
def folder(small: Da3, tmp_path: Path) -> Path:
    return write_folder(tmp_path / "da3", small)


def write_folder(path: Path, model: Da3, *, prefix: str = "model.", aliases: bool = False) -> Path:
    """Official files of the small network, by default as the Hub has them."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(small_words()))
    kept = {name for name, _ in model.named_parameters()}  # a parameter with several names is listed once
    state = {f"{prefix}{name}": t.clone() for name, t in model.state_dict().items() if aliases or name in kept}
    save_file(state, path / "model.safetensors")
    return path


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] if c == "base" else []) for c in CASES])
@torch.no_grad()
def test_reproduces_the_official_outputs(case: str, numbers: dict[str, Tensor]) -> None:
    words, count, size, given = CASES[case]
    model = with_drawn_weights(words_of(words))
    tokens = model.encode(drawn_images(len(case), count, size))
    views = model.read([tokens[i : i + 1] for i in range(count)], known_cameras(size) if given else None)
    found = {f"tokens_{layer}": torch.cat([view.tokens[layer] for view in views]) for layer in range(4)}
    names = ("camera", "depth", "depth_conf", "rays", "ray_conf")
    found |= {name: torch.cat([getattr(view, name) for view in views]) for name in names}
    for name, value in found.items():
        torch.testing.assert_close(thinned(case, name, value), numbers[f"{case}/{name}"], **PARITY)


@torch.no_grad()
def test_points_are_the_official_depth_and_cameras_seen_from_camera_a(small: Da3, numbers: dict[str, Tensor]) -> None:
    width, height = size = CASES["two_views"][2]
    tokens = small.encode(drawn_images(len("two_views"), 2, size))
    pair = small.decode(tokens[:1], tokens[1:])
    depth, K = (numbers[f"two_views/{name}"].double().numpy() for name in ("depth", "K"))
    world_from_cam = np.tile(np.eye(4), (2, 1, 1))
    world_from_cam[:, :3] = numbers["two_views/world_from_cam"].double().numpy()
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([x, y, np.ones_like(x)], axis=-1)
    own = [(pixels @ np.linalg.inv(K[view]).T) * depth[view, ..., None] for view in range(2)]
    a_from_b = np.linalg.inv(world_from_cam[0]) @ world_from_cam[1]
    in_a = own[1] @ a_from_b[:3, :3].T + a_from_b[:3, 3]
    assert pair.points_a is not None and pair.points_b is not None and pair.conf_b is not None
    torch.testing.assert_close(pair.points_a[0].double(), torch.from_numpy(own[0]), **PARITY)
    torch.testing.assert_close(pair.points_b[0].double(), torch.from_numpy(in_a), **PARITY)
    torch.testing.assert_close(pair.conf_b, numbers["two_views/depth_conf"][1:], **PARITY)
    torch.testing.assert_close(pair.tokens_a[-1], numbers["two_views/tokens_3"][:1], **PARITY)
    assert pair.tokens_a[-1].shape[-1] == small.token_dim and pair.desc_a is None


@pytest.mark.parametrize(
    ("size", "config_sha256", "config_bytes", "weights_bytes", "counts"),
    [
        (
            "base", "5e34115ebc17bd2d8d43033c5f72e9446ac8833fd61d3fa160b7e67e0bb5b7b5", 1205, 541_518_028,
            {"backbone": 86_583_296, "head": 15_387_582, "cam_enc": 28_660_224, "cam_dec": 4_735_497},
        ),
        (
            "small", "a486e29e82b7ab4a7d4cefc1ea4526cfe2ae438a572c8ca98917cfbcde7447d2", 1202, 137_248_940,
            {"backbone": 22_059_008, "head": 3_873_854, "cam_enc": 7_178_496, "cam_dec": 1_188_105},
        ),
    ],
)  # fmt: skip
def test_names_and_shapes_are_those_of_the_published_files(
    size: str, config_sha256: str, config_bytes: int, weights_bytes: int, counts: dict[str, int]
) -> None:
    """The Hub's `config.json` is written again bit for bit, and the length of its weights follows from our names."""
    text = json.dumps(published_words(size), indent=2)
    assert len(text) == config_bytes
    assert hashlib.sha256(text.encode()).hexdigest() == config_sha256
    model = on_meta(config_from_words(published_words(size)))
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()} == counts
    assert 8 + safetensors_header(model) + 4 * sum(counts.values()) == weights_bytes
    entry = BACKBONES[f"da3-{size}"]
    assert (model.preprocessing, model.config.long_side) == (entry.preprocessing, 504)


def safetensors_header(model: Da3) -> int:
    """Bytes of the header that the Hub's library writes: tensors once, other names of a tensor in the metadata."""
    parameters = {f"model.{name}": tensor for name, tensor in model.named_parameters()}
    first = "model.head.scratch.output_conv2_aux.0.2."
    aliases = {f"model.{name}" for name in model.state_dict()} - parameters.keys()
    header: dict[str, Any] = {"__metadata__": {name: first + name.rsplit(".", 1)[1] for name in sorted(aliases)}}
    end = 0
    for name, tensor in sorted(parameters.items()):
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + 4 * tensor.numel()]}
        end += 4 * tensor.numel()
    assert len(aliases) == 6
    return -(-len(json.dumps(header, separators=(",", ":"))) // 8) * 8


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("aliases", [False, True])
def test_folders_are_recognised_with_and_without_prefix_and_aliases(
    small: Da3, tmp_path: Path, prefix: str, aliases: bool
) -> None:
    path = write_folder(tmp_path / "da3", small, prefix=prefix, aliases=aliases)
    model = load_backbone(path)
    assert isinstance(model, Da3)
    for name, tensor in small.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.provenance.sha256 == sha256_of(path / "model.safetensors")
    assert model.provenance.licence == "unknown"


@torch.no_grad()
def test_half_precision_in_the_transformer_only(small: Da3, folder: Path) -> None:
    model = load_backbone(folder, dtype=torch.bfloat16)
    assert isinstance(model, Da3)
    assert model.vit.cls_token.dtype == torch.bfloat16
    assert {p.dtype for part in (model.head, model.cam_dec) for p in part.parameters()} == {torch.float32}
    images = drawn_images(1, 2, (56, 42))
    tokens, exact = model.encode(images), small.encode(images)
    assert tokens.features.dtype == torch.bfloat16
    pair, wanted = model.decode(tokens[:1], tokens[1:]), small.decode(exact[:1], exact[1:])
    assert pair.points_a is not None and wanted.points_a is not None
    assert pair.points_a.dtype == torch.float32
    spread = wanted.points_a.std()
    assert (pair.points_a - wanted.points_a).abs().mean() < 0.1 * spread  # 8 bits through 8 blocks


@torch.no_grad()
def test_a_frame_is_encoded_alone_and_views_may_differ_in_size(small: Da3) -> None:
    images = drawn_images(2, 3, (56, 42))
    together = small.encode(images)
    torch.testing.assert_close(small.encode(images[1:2]).features, together.features[1:2], rtol=1e-5, atol=1e-5)
    tall = small.encode(drawn_images(3, 3, (42, 70)))
    assert (tall.grid, tall.size) == ((5, 3), (42, 70))
    pair = small.decode(together, tall)
    assert pair.points_a is not None and pair.points_b is not None
    assert pair.points_a.shape == (3, 42, 56, 3) and pair.points_b.shape == (3, 70, 42, 3)
    one = small.decode(together[1:2], tall[1:2])  # rows of a batch do not mix
    assert one.points_b is not None
    torch.testing.assert_close(one.points_b, pair.points_b[1:2], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_views_read_each_other_and_only_the_first_has_a_part_of_its_own(small: Da3) -> None:
    tokens = small.encode(drawn_images(4, 4, (56, 42)))
    a, b, c, other = (tokens[i : i + 1] for i in range(4))
    first, second, third = small.read([a, b, c])
    again, swapped_c, swapped_b = small.read([a, c, b])
    torch.testing.assert_close(first.depth, again.depth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.camera, swapped_b.camera, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(third.camera, swapped_c.camera, rtol=1e-4, atol=1e-5)
    assert (small.read([b, a, c])[1].camera - first.camera).abs().max() > 1e-3  # not the reference any more
    assert (small.read([a, b, other])[0].depth - first.depth).abs().max() > 1e-3


def test_full_size_runs_without_a_value_being_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no values: reading one, or copying one to the host, would fail."""
    monkeypatch.setattr("distill.models.da3.model.full_precision", lambda _: nullcontext())  # it knows no autocast
    model = on_meta(Da3Config()).to("meta")
    tokens = model.encode(torch.rand(2, 3, 378, 504, device="meta"))
    assert tokens.features.shape == (2, 27 * 36, 768)
    pair = model.decode(tokens, tokens)
    assert [layer.shape for layer in pair.tokens_b] == [(2, 27 * 36, 1536)] * 4
    assert pair.points_b is not None and pair.points_b.shape == (2, 378, 504, 3)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(small: Da3) -> None:
    with pytest.raises(FootfallError, match="multiples of 14"):
        small.encode(torch.rand(1, 3, 64, 96))
    assert small.preprocessing.network_size((96, 64)) == (84, 56)
    assert BACKBONES["da3-base"].preprocessing.network_size((1920, 1080)) == (504, 280)


def test_missing_foreign_and_damaged_files_say_what_is_wrong(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole, words = load_file(path), small_words()
    name = "model.cam_dec.fc_t.weight"
    bad: dict[str, tuple[dict[str, Tensor], str]] = {
        "missing": ({k: v for k, v in whole.items() if k != name}, "1 missing"),
        "unknown": (whole | {"model.gs_head.bias": torch.zeros(1)}, "1 unknown"),
        "shape": (whole | {name: torch.zeros(3, 4)}, "another shape"),
    }
    for state, message in bad.values():
        save_file(state, path)
        with pytest.raises(FootfallError, match=message):
            load_backbone(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FootfallError, match="safetensors"):
        load_backbone(folder)
    path.unlink()
    with pytest.raises(FootfallError, match="none"):
        load_backbone(folder)
    del words["config"]["net"]["out_layers"]
    (folder / "config.json").write_text(json.dumps(words))
    with pytest.raises(FootfallError, match="no word 'out_layers'"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("net", {"name": "vitg"}),
        ("net", {"qknorm_start": 3}),
        ("net", {"cat_token": False}),
        ("net", {"out_layers": [2, 3, 7]}),
        ("net", {"out_layers": [1, 3, 6, 7]}),
        ("net", {"num_heads": 5}),
        ("head", {"output_dim": 38}),
        ("head", {"__object__": {"name": "DPT"}}),
        ("gs_head", {"dim_in": 1}),
    ],
)
def test_other_variants_are_refused(part: str, change: dict[str, Any]) -> None:
    words = small_words()
    words["config"].setdefault(part, {}).update(change)
    with pytest.raises(FootfallError, match=r"config\.json"):
        config_from_words(words)


@pytest.mark.parametrize("words", [{"model_name": "da3-base"}, {"model_name": "da3nested-giant-large", "config": {}}])
def test_config_without_parts_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(FootfallError, match=r"config\.json"):
        config_from_words(words)


def pretend_cached(monkeypatch: pytest.MonkeyPatch, folder: Path, commit: str) -> None:
    """Let the Hub's library find `folder` as the snapshot of `commit`."""
    snapshot = folder.rename(folder.parent / commit)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))


def test_another_file_under_a_pinned_revision_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = BACKBONES["da3-base"]
    assert entry.revision is not None and entry.sha256 is not None
    pretend_cached(monkeypatch, folder, entry.revision)
    with pytest.raises(FootfallError, match=f"expected {entry.sha256}"):
        load_backbone("da3-base")
    monkeypatch.setattr("distill.models.registry.sha256_of", lambda _: entry.sha256)  # now it is the pinned file
    model = load_backbone("da3-base")
    made = model.provenance
    assert (made.id, made.revision, made.sha256) == ("da3-base", entry.revision, entry.sha256)
    assert made.licence == "Apache-2.0"
    assert load_backbone(folder.parent / entry.revision).provenance.licence == "Apache-2.0"  # known by its hash


def test_a_branch_or_an_unregistered_repository_is_recorded_as_commit_and_hash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, commit = sha256_of(folder / "model.safetensors"), "ab" * 20
    pretend_cached(monkeypatch, folder, commit)
    for name, licence in (("da3-base", "Apache-2.0"), ("somebody/their-da3", "unknown")):
        made = load_backbone(name, revision="main").provenance
        assert (made.revision, made.sha256, made.licence) == (commit, digest, licence)


def test_offline_without_files_the_way_to_get_them_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FootfallError, match="hf download depth-anything/DA3-SMALL --revision e08cab65"):
        load_backbone("da3-small")


def test_every_entry_states_its_licence_and_the_published_ones_their_hash() -> None:
    for entry in BACKBONES.values():
        assert entry.licence and entry.terms and entry.source
        if entry.hub_id is not None:
            assert len(entry.revision or "") == 40 and len(entry.sha256 or "") == 64
