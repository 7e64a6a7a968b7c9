"""Pretraining of the tiny backbone: exact labels by hand, and a task that teaches."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from distill.config import load_config
from distill.models.mast3r import Mast3r, initialise
from distill.models.registry import TINY
from distill.pointmap_task import PointmapTask, match_divergence, stacked, static_flow
from tests.student_support import one_thread  # noqa: F401 (a fixture)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    path = ROOT / "datasets" / "synthetic" / "pretrain_tiny_backbone.py"
    spec = importlib.util.spec_from_file_location("pretrain_tiny_backbone", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _wall(shift: float) -> dict[str, np.ndarray]:
    """A wall 4 m ahead, seen by two cameras that look the same way, the second `shift` metres to the right."""
    world_from_cam = np.stack((np.eye(4), np.eye(4)))
    world_from_cam[1, 0, 3] = shift
    depth = np.full((2, 32, 48), 4.0, np.float16)
    depth[:, :5] = 0  # sky
    return {
        "rgb": np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3), dtype=np.uint8),
        "depth": depth,
        "K": np.array([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]]),
        "world_from_cam": world_from_cam,
    }


def test_labels_of_a_wall_by_hand(recipe: ModuleType) -> None:
    pair = recipe.make_pair(_wall(1.5), 0, 1)
    # Pixel (row 16, column 24) has its centre at (24.5, 16.5), half a pixel right of and below the axis.
    np.testing.assert_allclose(pair["points"][0, 16, 24], [4 * 0.5 / 40, 4 * 0.5 / 40, 4], rtol=1e-6)
    np.testing.assert_allclose(
        pair["points"][1] - pair["points"][0], np.broadcast_to([1.5, 0, 0], (32, 48, 3)), atol=1e-6
    )
    back = recipe.make_pair(_wall(1.5), 1, 0)
    np.testing.assert_allclose(
        back["points"][1] - back["points"][0], np.broadcast_to([-1.5, 0, 0], (32, 48, 3)), atol=1e-6
    )
    assert not pair["valid"][:, :5].any() and pair["valid"][:, 5:].all()


def test_mirrored_pair_is_seen_by_a_mirrored_camera(recipe: ModuleType) -> None:
    pair = recipe.make_pair(_wall(0.7), 0, 1)
    for seed in range(6):
        changed = recipe.augment(pair, np.random.default_rng(seed))
        flipped = not np.allclose(changed["points"], pair["points"])
        points = changed["points"][0]
        pixels = points[..., :2] / points[..., 2:].clip(1) * 40 + [24, 16]  # the lens is centred: still K
        wanted = np.stack(np.meshgrid(np.arange(48) + 0.5, np.arange(32) + 0.5), axis=-1)
        seen = changed["valid"][0]
        np.testing.assert_allclose(pixels[seen], wanted[seen], atol=1e-3)
        assert changed["points"][1, 20, 20, 0] - points[20, 20, 0] == pytest.approx(-0.7 if flipped else 0.7, abs=1e-5)
        assert changed["images"].min() >= 0 and changed["images"].max() <= 1


def test_run_description_loads_and_learning_rate_rises_then_falls(recipe: ModuleType) -> None:
    config = load_config(recipe.PretrainConfig, ROOT / "configs" / "student" / "tiny_backbone.yaml")
    factors = [recipe.learning_rate_factor(step, config) for step in range(1, config.steps + 1)]
    peak = int(np.argmax(factors))
    assert peak + 1 == config.warm_up and factors[peak] == pytest.approx(1)
    assert (np.diff(factors[peak:]) <= 0).all() and factors[-1] == pytest.approx(0.01)


def test_task_learns_the_depth_of_a_wall_and_reaches_every_weight(recipe: ModuleType) -> None:
    small = replace(
        TINY, enc_dim=24, enc_depth=1, enc_heads=2, dec_dim=24, dec_depth=3, dec_heads=2, hooks=(0, 1, 2, 3)
    )
    model = Mast3r(replace(small, dpt_dim=8, dpt_last_dim=8, dpt_layer_dims=(8, 8, 8, 8)))
    initialise(model, 0)
    task = PointmapTask(model, dense=1)
    batch = recipe.collate([recipe.make_pair(_wall(0.3), 0, 1), recipe.make_pair(_wall(0.3), 1, 0)])
    optimiser = torch.optim.Adam(task.parameters(), lr=5e-3)
    _, first = task(batch)
    for _ in range(140):
        losses, report = task(batch)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimiser.step()
    assert report["points_a_m"] < 0.25 * first["points_a_m"] and report["points_b_m"] < 0.25 * first["points_b_m"]
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused and all("mask_token" in name or "refinenet4.resConfUnit1" in name for name in unused)
    tokens = model.encode(batch["images"][:, 0])
    points, confidence = stacked(model.decode(tokens, tokens))
    assert points.shape == (2, 2, 32, 48, 3) and confidence.shape == (2, 2, 32, 48)


def test_flow_and_matches_of_a_wall_by_hand(recipe: ModuleType) -> None:
    batch = recipe.collate([recipe.make_pair(_wall(0.3), 0, 1)])
    for view, sign in ((0, -1), (1, 1)):  # the camera goes right, so the wall goes left
        arguments = (batch["points"], batch["valid"], batch["K"], batch["cam_a_from_cam_b"])
        flow, known = static_flow(*arguments, view=view)
        assert flow.shape == (1, 8, 12, 2) and known[0, 2:, 1:-1].all() and not known[0, 0].any()
        wanted = torch.tensor([sign * 40 * 0.3 / 4 / 48, 0.0])  # f shift / z, in widths
        torch.testing.assert_close(flow[known], wanted.expand_as(flow[known]), atol=1e-5, rtol=0)
    still = torch.zeros(1, 8, 12, 2)
    logits = 30 * torch.eye(6)[None]
    values, counts = match_divergence(logits, still, torch.ones(1, 8, 12, dtype=torch.bool), (2, 3))
    assert values.shape == (1, 6, 16) and counts.all() and values.max() < 1e-6
    beside = still + torch.tensor([1 / 3, 0.0])  # one token to the right
    values, counts = match_divergence(logits, beside, torch.ones(1, 8, 12, dtype=torch.bool), (2, 3))
    assert counts[0].any(-1).tolist() == [True, True, False] * 2 and values[counts].min() > 29


def test_world_is_drawn_with_its_exact_depth(recipe: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("moderngl")
    from distill.files import load_arrays

    config = recipe.PretrainConfig(work=str(tmp_path), frames=2, span=10)
    recipe.draw_clip(tmp_path / "world.npz", 1_000, config)
    clip, _ = load_arrays(tmp_path / "world.npz")
    pair = recipe.make_pair(clip, 0, 1)
    height, width = clip["depth"].shape[1:]
    assert sorted((height, width)) == [128, 224] and pair["valid"].mean() > 0.5
    # Points of view b, carried into view a, lie where a's own depth says for most static pixels.
    points = pair["points"][1][pair["valid"][1]]
    pixels = points @ clip["K"].T
    column, row = (np.floor(pixels[:, i] / pixels[:, 2]).astype(int) for i in (0, 1))
    inside = (points[:, 2] > 0.1) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = clip["depth"][0][row[inside], column[inside]].astype(float)
    error = np.abs(seen - points[inside, 2]) / points[inside, 2]
    assert inside.mean() > 0.5 and np.median(error) < 0.02
