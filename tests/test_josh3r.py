"""JOSH3R: the published numbers and names, files of every kind, what each quirk means, bad input."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distill.errors import FootfallError
from distill.models import load_josh3r
from distill.models.backbones import load_backbone
from distill.models.josh3r import Josh3r, Josh3rConfig
from distill.models.josh3r_heads import sample_boxes
from distill.models.josh3r_student import Josh3rStudent
from distill.models.mast3r import Mast3rConfig
from tests.josh3r_support import BACKBONE, SIZES, WORDS, small_josh3r, with_extras, write_folder
from tests.student_support import one_thread  # noqa: F401 (an automatic fixture)

DATA = Path(__file__).parent / "data"
# Suggested with the parity data: ten times the float32 floor of the published code.
TOLERANCE = {"answers": 2e-5, "points": 2e-4, "inside": 5e-5}
OFFICIAL_ORDER = ("rel_trans", "rel_rot", "trans1", "trans2", "X11", "X21", "scale1", "scale2")


@pytest.fixture(scope="module")
def published(shared_dir: Path) -> Josh3r:
    return load_josh3r(shared_dir / "parity" / "josh3r" / "dev")


@pytest.fixture(scope="module")
def numbers(shared_dir: Path) -> dict[str, Tensor]:
    with np.load(shared_dir / "parity" / "josh3r" / "dev" / "io.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture
def inside(published: Josh3r) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Inputs and outputs of the parts that the parity data knows, by part."""
    seen: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    parts = [f"{part}_{view}" for part in ("human_feat_extractor", "decoder_block", "scene_head") for view in "12"]
    handles = [
        published.get_submodule(part).register_forward_hook(
            lambda _module, given, made, part=part: seen[part].append((given, made))
        )
        for part in (*parts, "dec_norm", "rel_trans_head")
    ]
    yield seen
    for handle in handles:
        handle.remove()


def _close(name: str, value: Tensor, wanted: Tensor, kind: str) -> None:
    torch.testing.assert_close(value, wanted, rtol=0, atol=TOLERANCE[kind], msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("case", ["landscape", "portrait"])
@torch.no_grad()
def test_reproduces_the_published_model_inside_and_out(
    published: Josh3r, numbers: dict[str, Tensor], inside: dict[str, list[tuple[Any, Any]]], case: str
) -> None:
    images, boxes = (numbers[f"{case}/in/imgs"] + 1) / 2, numbers[f"{case}/in/bbox"]
    output = published(images[:, 0], images[:, 1], boxes[:, 0], boxes[:, 1])
    for name, value in zip(OFFICIAL_ORDER, output, strict=True):
        assert value is not None
        _close(name, value, numbers[f"{case}/out/{name}"], "points" if name[0] == "X" else "answers")
    for index, view in enumerate("12"):
        ((roi,), person) = inside[f"human_feat_extractor_{view}"][0]
        _close("roi", roi, numbers[f"{case}/mid/roi_feat_{view}"], "inside")
        _close("person", person, numbers[f"{case}/mid/human_feat_{view}"], "inside")
        (tokens, *_), after = inside[f"decoder_block_{view}"][0]
        _close("block in", tokens, numbers[f"{case}/mid/block_in_{view}"], "inside")
        _close("block out", after, numbers[f"{case}/mid/block_out_{view}"], "inside")
        normed = inside["dec_norm"][index][1]
        _close("normed", normed, numbers[f"{case}/mid/normed_{view}"], "inside")
        _close("person token", normed[:, -1], numbers[f"{case}/mid/human_token_{view}"], "inside")
        (scene,), log_scale = inside[f"scene_head_{view}"][0]
        _close("scene token", scene, numbers[f"{case}/mid/scene_token_{view}"], "inside")
        _close("log scale", log_scale, numbers[f"{case}/mid/log_scale{view}"], "inside")
    _close("all tokens", inside["rel_trans_head"][0][0][0], numbers[f"{case}/mid/all_tokens"], "inside")


def test_official_names_and_shapes_exactly(shared_dir: Path) -> None:
    with torch.device("meta"):
        model = Josh3r()
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    heads = json.loads((DATA / "josh3r_keys.json").read_text())
    assert {name: shape for name, shape in ours.items() if not name.startswith("mast3r.")} == heads
    assert len(heads) == 325
    trained = [p for name, p in model.named_parameters() if not name.startswith("mast3r.")]
    assert round(sum(p.numel() for p in trained) / 1e6, 1) == 65.4
    assert all(p.requires_grad for p in trained) and not any(p.requires_grad for p in model.mast3r.parameters())
    listed = (shared_dir / "parity" / "mast3r" / "official_state_dict_keys.txt").read_text().splitlines()
    backbone = dict(line.split("\t") for line in listed)
    kept = {f"mast3r.{name}": shape for name, shape in backbone.items() if "scratch.layer_rn." not in name}
    assert {name: str(tuple(shape)) for name, shape in ours.items() if name.startswith("mast3r.")} == kept


@torch.no_grad()
def test_frames_encoded_once_answer_as_the_whole_model() -> None:
    model = small_josh3r()
    images, boxes = torch.rand(3, 3, 48, 64), torch.tensor([[5.0, 4, 40, 44]]).expand(3, 4) + torch.rand(3, 4)
    tokens = model.encode(images)
    cached = model.pair(tokens[:2], tokens[1:], boxes[:2], boxes[1:])
    whole = model(images[:2], images[1:], boxes[:2], boxes[1:])
    for one, other in zip(cached, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    spare = model.pair(tokens[:2], tokens[1:], boxes[:2], boxes[1:], points=False)
    assert spare.points_a is None and spare.conf_b is None
    torch.testing.assert_close(spare.rel_trans, cached.rel_trans)
    assert cached.points_a is not None and cached.points_a.shape == (2, 48 * 64, 3)
    other_size = model(images[:1], torch.rand(1, 3, 32, 80), boxes[:1], boxes[1:2])  # views may differ
    assert other_size.points_b is not None and other_size.points_b.shape == (1, 32 * 80, 3)


def test_box_is_sampled_from_edge_to_edge_and_outside_by_the_border() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 4, 8) + 100 * torch.arange(4.0)[:, None]  # value = column + 100 row
    # 8 x 4 cells over 80 x 40 pixels: cell k has its centre at pixel 10 k + 5.
    found = sample_boxes(ramp, torch.tensor([[15.0, 5, 35, 35]]), (80, 40), (4, 3))[0, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 2, 3]) + 100 * torch.arange(4.0)[:, None])
    beyond = sample_boxes(ramp, torch.tensor([[-30.0, 5, 90, 5]]), (80, 40), (1, 3))[0, 0, 0]
    torch.testing.assert_close(beyond, torch.tensor([0.0, 2.5, 7.0]))  # border, pixel 30, border


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folder_in_its_own_sizes_loads_exactly(tmp_path: Path, extras: bool, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in small_josh3r().state_dict().items()}
    folder = write_folder(tmp_path, with_extras(state) if extras else state)
    model = load_josh3r(folder)
    assert (model.config, model.mast3r.config) == (SIZES, BACKBONE)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys() and not model.training
    assert all(torch.equal(loaded[name], tensor.to(loaded[name].dtype)) for name, tensor in state.items())
    assert not any(p.requires_grad for p in model.mast3r.parameters())
    assert model.rel_rot_head.head_layers[-1].weight.requires_grad


def test_words_that_are_missing_are_the_official_ones(tmp_path: Path) -> None:
    from distill.models.josh3r_files import josh3r_config

    assert josh3r_config({}) == (Josh3rConfig(), Mast3rConfig())
    assert josh3r_config(WORDS) == (SIZES, BACKBONE)
    head, _ = josh3r_config({"n_rel_rot": 9, "roi_size": 5})
    assert (head.rot_dim, head.roi_points, head.dim) == (9, (5, 5), 768)


@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
def test_pytorch_files_are_read_without_running_anything(tmp_path: Path, nested: str | None) -> None:
    state = small_josh3r().state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in with_extras(state).items()}
    content = wrapped if nested is None else {nested: wrapped, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, tmp_path / "josh3r.pth")
    (tmp_path / "config.json").write_text(json.dumps(WORDS))
    for given in (tmp_path, tmp_path / "josh3r.pth"):
        loaded = load_josh3r(given).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


class _Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    torch.save({"model": small_josh3r().state_dict(), "trap": _Trap(tmp_path / "ran")}, tmp_path / "josh3r.pth")
    (tmp_path / "config.json").write_text(json.dumps(WORDS))
    with pytest.raises(FootfallError, match="nothing that would have to be run"):
        load_josh3r(tmp_path)
    assert not (tmp_path / "ran").exists()


@torch.no_grad()
def test_half_precision_trunk_answers_in_float32(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, small_josh3r().state_dict())
    full, half = load_josh3r(folder), load_josh3r(folder, dtype=torch.bfloat16)
    given = (*torch.rand(2, 2, 3, 48, 64), *torch.tensor([[5.0, 4, 40, 44]]).expand(2, 2, 4))
    assert half.decoder_block_1.norm1.weight.dtype == torch.bfloat16
    assert half.human_head_1.head_layers[-1].weight.dtype == torch.float32
    for one, other in zip(half(*given), full(*given), strict=True):
        assert one is not None and other is not None and one.dtype == torch.float32
        assert (one - other).norm() < 0.1 * other.norm()


@torch.no_grad()
def test_reads_no_value_back_to_the_host() -> None:
    model = small_josh3r().to("meta")  # tensors without values: whoever asks for one fails
    images, boxes = torch.rand(1, 3, 48, 64, device="meta"), torch.rand(1, 4, device="meta")
    output = model(images, images, boxes, boxes)
    assert output.rel_trans.device.type == "meta" and output.rel_trans.shape == (1, 3)


def test_only_the_trained_half_learns() -> None:
    model = small_josh3r().train()
    assert model.rel_trans_head.training and not model.mast3r.training
    images, boxes = torch.rand(2, 3, 32, 48), torch.tensor([[5.0, 4, 40, 30]]).expand(2, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output = model(images, images.flip(0), boxes, boxes)
    (output.rel_trans.sum() + output.rel_rot6d.sum() + output.trans_a.sum() + output.scale_b.sum()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.optim.SGD(trained, lr=0.1).step()
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed and not any(name.startswith("mast3r.") for name in changed)
    assert "human_feat_extractor_1.bn1.running_mean" in changed and "decoder_block_2.mlp.fc1.weight" in changed


def test_saved_heads_name_their_backbone_and_load_again(tmp_path: Path) -> None:
    backbone = load_backbone("tiny")
    student = Josh3rStudent(Josh3rConfig(dim=backbone.token_dim, heads=3, roi_channels=8), backbone).eval()
    student.save_pretrained(tmp_path)
    assert not any(name.startswith(("mast3r", "backbone")) for name in student.state_dict())
    model = load_josh3r(tmp_path)
    images, boxes = torch.rand(1, 3, 32, 48), torch.tensor([[5.0, 4, 40, 30]])
    with torch.no_grad():
        saved = student.pair(student.encode(images), student.encode(images), boxes, boxes)
        for one, other in zip(model(images, images, boxes, boxes), saved, strict=True):
            torch.testing.assert_close(one, other)
    said = json.loads((tmp_path / "config.json").read_text())
    said["backbone"]["sha256"] = "0" * 64
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(FootfallError, match="backbone tiny"):
        load_josh3r(tmp_path)


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    state = small_josh3r().state_dict()
    with pytest.raises(FootfallError, match="no such file"):
        load_josh3r(tmp_path / "nowhere")
    with pytest.raises(FootfallError, match="weights in"):
        load_josh3r(tmp_path)
    folder = write_folder(tmp_path / "a", {k: v for k, v in state.items() if k != "dec_norm.bias"})
    with pytest.raises(FootfallError, match=r"1 missing \(e\.g\. dec_norm\.bias\)"):
        load_josh3r(folder)
    write_folder(folder, {**state, "head.of.another": torch.zeros(2)})
    with pytest.raises(FootfallError, match=r"1 unknown \(e\.g\. head\.of\.another\)"):
        load_josh3r(folder)
    write_folder(folder, state, {**WORDS, "roi_conv_channels": 7})
    with pytest.raises(FootfallError, match="of another shape"):
        load_josh3r(folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FootfallError, match="safetensors"):
        load_josh3r(folder)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "josh3r.pth").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(FootfallError, match="download the file again"):
        load_josh3r(tmp_path / "b")
    save_file({name.removeprefix("mast3r."): tensor for name, tensor in state.items() if "mast3r." in name},
              tmp_path / "mast3r.safetensors")  # fmt: skip
    with pytest.raises(FootfallError, match="missing"):  # MASt3R alone is not JOSH3R
        load_josh3r(tmp_path / "mast3r.safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patch_size": 14}, "patch_size"),
        ({"num_heads": 5}, "heads"),
        ({"roi_size": [7, 7, 7]}, "values"),
        ({"mast3r_dim": "wide"}, "values"),
        ({"mast3r_dim": 32, "num_heads": 4}, "width"),
        ({"hooks": [0, 1, 2]}, "hooks"),
        ({"mast3r": {"constructor": {}}}, "no word"),
        ({"mast3r": []}, "content"),
    ],
)
def test_configs_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    write_folder(tmp_path, {"x": torch.zeros(1)}, {**WORDS, **change})
    with pytest.raises(FootfallError, match=match):
        load_josh3r(tmp_path)


def test_bad_requests_say_what_is_wrong() -> None:
    model = small_josh3r()
    images, boxes = torch.rand(1, 3, 32, 48), torch.tensor([[5.0, 4, 40, 30]])
    with pytest.raises(FootfallError, match="multiples of 16"):
        model(images[..., :40], images[..., :40], boxes, boxes)
    with pytest.raises(FootfallError, match="one person"):
        model(images, images, boxes.expand(2, 4), boxes)
    from distill.models.timm_backbone import build_timm

    with pytest.raises(FootfallError, match="MASt3R's architecture"):
        Josh3rStudent(Josh3rConfig(), build_timm("timm:vit_tiny_patch16_224", None, pretrained=False))
