"""Depth by networks: every architecture loads and runs; scale and shift are recovered; people have no depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_support import clip_of, finish, synthetic_clip
from neural_support import CARD, tiny_depth_anything, tiny_depth_pro, tiny_zoedepth
from numpy.typing import NDArray
from test_depth_init import at_size, write_cameras

from distill.errors import FootfallError
from distill.results import Result
from teacher.initialisers import depth_models
from teacher.initialisers.cameras import CamerasConfig, run_static
from teacher.initialisers.depth import DepthConfig, run_network
from teacher.initialisers.depth_models import DepthModelConfig, DepthNetwork, fit_frames, fit_line
from teacher.initialisers.pretrained import Pretrained, find_pretrained
from teacher.initialisers.registry import StageMissingError, get_initialiser
from teacher.stagefiles import DepthInit, People, read_image
from teacher.workspace import ClipFolder

pytest.importorskip("transformers")
Array = NDArray[Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "relative": tiny_depth_anything(root / "relative", "relative"),
        "metric": tiny_depth_anything(root / "metric", "metric"),
        "zoedepth": tiny_zoedepth(root / "zoedepth"),
        "depth_pro": tiny_depth_pro(root / "depth_pro"),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipFolder, Result, Array]:
    return synthetic_clip(tmp_path_factory.mktemp("depth"), seed=1, camera="walk", frames=6)


@pytest.mark.parametrize("name", ["relative", "metric", "zoedepth", "depth_pro"])
def test_every_architecture_loads_and_gives_maps(models: dict[str, Path], name: str) -> None:
    source = find_pretrained(str(models[name]))
    assert depth_models.kind_of(source) == ("relative" if name == "relative" else "metric")
    entry = source.record()[str(models[name])]
    assert entry["licence"] == "apache-2.0" and len(entry["sha256"]) == 64 and entry["revision"] is None
    rng = np.random.default_rng(0)
    network = DepthNetwork(source, (40, 24), focal_share=0.8)
    first, second = (network(rng.integers(0, 255, (108, 180, 3), dtype=np.uint8)) for _ in range(2))
    assert first.shape == (24, 40) and np.isfinite(first).all() and (first >= 0).all()
    assert np.abs(first - second).max() > 0  # it looks at the picture


def test_depth_pro_uses_our_focal_length(models: dict[str, Path]) -> None:
    source = find_pretrained(str(models["depth_pro"]))
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    wide, tele = (DepthNetwork(source, (16, 16), focal_share=share)(image) for share in (0.5, 1.5))
    np.testing.assert_allclose(tele, 3 * wide, rtol=1e-5)


class _Perfect:
    """A network that knows the truth up to what its kind cannot know."""

    truth: Array
    wrong: Array

    def __init__(self, source: Pretrained, size: tuple[int, int], *, focal_share: float) -> None:
        self.maps, self.next = at_size(self.truth, size[1], size[0]), 0

    def __call__(self, rgb: Array) -> Array:
        depth = self.maps[self.next]
        a, b = self.wrong[self.next]
        self.next += 1
        inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-3), 1 / 60)
        return (a * inverse + b if b else 1 / (a * inverse)).astype(np.float32)


@pytest.mark.parametrize(("name", "fit"), [("relative", "frame"), ("relative", "clip"), ("metric", "clip")])
def test_scale_and_shift_are_found_from_the_points(
    models: dict[str, Path], name: str, fit: str, drawn: tuple[ClipFolder, Result, Array],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clip, truth, depth = drawn
    write_cameras(clip, truth, depth, scale=3.0)
    wrong = np.tile([0.7, 5.0 if name == "relative" else 0.0], (len(depth), 1))
    if fit == "frame":
        wrong[:, 0] *= np.linspace(1, 1.3, len(depth))
    monkeypatch.setattr(_Perfect, "truth", depth, raising=False)
    monkeypatch.setattr(_Perfect, "wrong", wrong, raising=False)
    monkeypatch.setattr(depth_models, "DepthNetwork", _Perfect)
    config = DepthConfig(
        use="transformers", network=DepthModelConfig(model=str(models[name]), fit=fit, smooth_frames=3)
    )
    clip.begin("depth")
    outcome = run_network(clip, config, lambda fraction, text: None)
    found = DepthInit.load(clip.stage_dir("depth")).depth.astype(np.float64)
    expected = 3.0 * at_size(depth, *found.shape[1:])
    both = (found > 0) & (expected > 0) & (expected < 3 * 25)
    assert np.median(np.abs(found[both] / expected[both] - 1)) < (0.03 if fit == "frame" else 0.002)
    assert outcome.summary["kind"] == name and outcome.summary["agreement_with_points"] < 0.03
    assert "metres_per_unit" not in outcome.summary or name == "metric"
    for index in range(len(found)):
        people = at_size(read_image(People.mask_path(clip.require("people"), index))[None] > 0, *found.shape[1:])[0]
        assert people.any() and not found[index][people].any()


def test_fits_survive_wild_points_and_frames_without_any() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 2, 80)
    y = 0.6 * x + 0.05
    y[:24] *= rng.uniform(1.5, 6, 24)  # 30 % are wrong
    a, b = fit_line(x, y, shift=True)
    assert a == pytest.approx(0.6, rel=1e-2) and b == pytest.approx(0.05, abs=5e-3)
    nothing = (np.zeros(0), np.zeros(0))
    upside_down = (x, 3 - x)
    fits = fit_frames([nothing, (x, y), upside_down, nothing], shift=True, config=DepthModelConfig(smooth_frames=1))
    assert fits is not None
    np.testing.assert_allclose(fits, np.tile([a, b], (4, 1)))
    assert fit_frames([nothing] * 3, shift=True, config=DepthModelConfig()) is None


def test_a_camera_in_place_has_metric_depth_but_no_relative_one(models: dict[str, Path], tmp_path: Path) -> None:
    clip = clip_of(tmp_path, np.full((3, 90, 160, 3), 90, np.uint8), np.zeros((3, 90, 160), np.uint8))
    clip.begin("cameras")
    run_static(clip, CamerasConfig(), lambda fraction, text: None)
    finish(clip, "cameras")
    with pytest.raises(StageMissingError, match="relative depth"):
        run_network(clip, DepthConfig(network=DepthModelConfig(model=str(models["relative"]))), lambda f, t: None)
    clip.begin("depth")
    outcome = run_network(clip, DepthConfig(network=DepthModelConfig(model=str(models["metric"]))), lambda f, t: None)
    assert "metres_per_unit" not in outcome.summary  # nothing to compare metres with
    assert DepthInit.load(clip.stage_dir("depth")).depth.shape == (3, 90, 160)


def test_models_that_cannot_be_used_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "beit"}')
    with pytest.raises(FootfallError, match="safetensors"):
        find_pretrained(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(FootfallError, match="model_type beit"):
        depth_models.kind_of(find_pretrained(str(tmp_path)))
    with pytest.raises(ValueError, match="frame or clip"):
        DepthModelConfig(fit="window")
    assert get_initialiser("depth", "transformers").needs == ("frames", "people", "cameras")
