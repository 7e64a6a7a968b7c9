"""MASt3R-SfM in the cameras slot: cameras recovered from perfect pointmaps; a random network runs through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camera_support import clip_of, quiet, rotation_error_deg, synthetic_clip
from numpy.typing import NDArray
from torch import Tensor

from distill.errors import FootfallError
from distill.geometry.alignment import align_points
from distill.models.backbones import Pair, Preprocessing, Provenance
from distill.models.mast3r import Mast3r, Mast3rConfig, initialise
from teacher.initialisers.background import FrameReader
from teacher.initialisers.camera_sfm import SfmConfig
from teacher.initialisers.cameras import CamerasConfig, run_mast3r
from teacher.initialisers.mast3r_sfm import cameras as slot
from teacher.initialisers.mast3r_sfm.config import Mast3rSfmConfig
from teacher.initialisers.mast3r_sfm.network import Shrink
from teacher.initialisers.registry import get_initialiser
from teacher.stagefiles import CameraInit, People, read_image

pytest.importorskip("cv2")
Array = NDArray[Any]


class Perfect:
    """Answers as a perfect network would: true points, and descriptors that depend on the place in the world only."""

    def __init__(self, depth: Array, K: Array, poses: Array, shrink: Shrink) -> None:
        width, height = shrink.cropped
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        full = shrink.to_clip(grid.reshape(-1, 2).astype(float)).reshape(height, width, 2)
        column, row = np.moveaxis(full.astype(int), -1, 0)
        z = depth[:, row, column]
        self.known = torch.from_numpy(z > 0)
        z = np.where(z > 0, z, 100.0)
        rays = np.concatenate((full, np.ones((height, width, 1))), -1) @ np.linalg.inv(K).T
        local = rays * z[..., None]
        self.poses = poses
        self.world = np.einsum("tij,thwj->thwi", poses[:, :3, :3], local) + poses[:, None, None, :3, 3]
        waves = np.random.default_rng(0).normal(0, 6.0, (3, 32))  # random Fourier features: alike where places are
        phase = self.world @ waves
        features = np.concatenate((np.cos(phase), np.sin(phase)), -1) / np.sqrt(32)
        self.features = torch.from_numpy(features).float()

    def _seen(self, image: int, reference: int) -> Tensor:
        camera = np.linalg.inv(self.poses[reference])
        return torch.from_numpy(self.world[image] @ camera[:3, :3].T + camera[:3, 3]).float()[None]

    def __call__(self, a: int, b: int) -> Pair:
        sure_a, sure_b = (self.known[k].float()[None] for k in (a, b))
        return Pair(
            tokens_a=[], tokens_b=[], points_a=self._seen(a, a), points_b=self._seen(b, a), conf_a=1.0 + 4 * sure_a,
            conf_b=1.0 + 4 * sure_b, desc_a=self.features[a][None] * sure_a[..., None],
            desc_b=self.features[b][None] * sure_b[..., None], desc_conf_a=5 * sure_a, desc_conf_b=5 * sure_b,
        )  # fmt: skip


def test_cameras_from_perfect_pointmaps(tmp_path: Path) -> None:
    clip, truth, depth = synthetic_clip(tmp_path, seed=1, camera="walk", frames=12)
    reader = FrameReader(clip)
    shrink = Shrink(reader.size, 192, 16)
    config = Mast3rSfmConfig(keyframe_step=3, window=2, steps=[150, 100])
    keyframes = slot.evenly(len(reader), config)
    assert (keyframes[0], keyframes[-1], len(keyframes)) == (0, 11, 5)
    poses = truth.cameras.world_from_cam.astype(np.float64)
    network = Perfect(depth[keyframes], truth.cameras.K.astype(np.float64), poses[keyframes], shrink)
    clip.begin("cameras")
    summary = slot.solve(clip, reader, shrink, keyframes, network, config, SfmConfig(), quiet).summary
    init = CameraInit.load(clip.stage_dir("cameras"))
    assert init.kind == "sfm" and not init.focal_known and summary["points"] == len(init.points) > 100
    assert init.registered.mean() > 0.9
    assert init.K[0, 0] == pytest.approx(float(truth.cameras.K[0, 0]), rel=0.02)
    np.testing.assert_allclose(init.K[:2, 2], truth.cameras.K[:2, 2], atol=1.1)  # network pixels are larger
    # Matches are whole pixels of a picture 192 wide, each 0.3 degrees: tighter than some of them cannot be asked for.
    assert rotation_error_deg(init.world_from_cam[:, :3, :3], poses[:, :3, :3]).max() < 1.0
    eyes, true_eyes = (torch.from_numpy(p[:, :3, 3]) for p in (init.world_from_cam, poses))
    scale, rotation, shift = align_points(true_eyes, eyes, with_scale=True)
    assert 0.7 < float(scale) < 1.4  # pointmaps in metres; the gauge g makes the least image's scale 1, not the mean
    gap = (scale * eyes @ rotation.T + shift - true_eyes).norm(dim=-1)
    path = (true_eyes[-1] - true_eyes[0]).norm()
    assert gap.max() < 0.1 * path, (gap, path, scale)
    for frame in keyframes:  # nothing was taken from people
        column, row = init.obs_px[init.obs_frame == frame].astype(int).T
        assert not read_image(People.mask_path(clip.require("people"), frame))[row, column].any()


def test_a_random_network_runs_through_and_its_licence_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Mast3rConfig(
        enc_dim=32, enc_depth=2, enc_heads=2, dec_dim=24, dec_depth=4, dec_heads=3, hooks=(0, 2, 3, 4), dpt_dim=8,
        dpt_last_dim=8, dpt_layer_dims=(8, 8, 8, 8), descriptor_dim=8, long_side=64,
    )  # fmt: skip
    model = Mast3r(words)
    initialise(model, 0)
    model.preprocessing = Preprocessing(long_side=64, multiple=16)
    model.provenance = Provenance(id="random", revision=None, sha256="seed:0", licence="CC-BY-NC-SA-4.0")
    monkeypatch.setattr(slot, "load_backbone", lambda *_, **__: model.eval())
    images = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
    clip = clip_of(tmp_path / "clip", images, np.zeros((6, 48, 64), np.uint8))
    clip.begin("cameras")
    config = CamerasConfig(mast3r=Mast3rSfmConfig(keyframe_step=2, steps=[4, 4], tree="matches", max_error_px=1e6))
    outcome = run_mast3r(clip, config, quiet)
    assert outcome.weights == {"random": {"sha256": "seed:0", "licence": "CC-BY-NC-SA-4.0", "revision": None}}
    init = CameraInit.load(clip.stage_dir("cameras"))
    assert init.world_from_cam.shape == (6, 4, 4) and np.isfinite(init.world_from_cam).all()
    assert "NC" in get_initialiser("cameras", "mast3r").licence


def test_keyframes_that_share_nothing_are_refused(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 32, 32), np.uint8))
    reader = FrameReader(clip)
    shrink = Shrink(reader.size, 32, 16)
    K, poses = np.array([[30, 0, 16], [0, 30, 16], [0, 0, 1.0]]), np.tile(np.eye(4), (2, 1, 1))
    blind = Perfect(np.zeros((2, 32, 32)), K, poses, shrink)
    with pytest.raises(FootfallError, match="2 groups of keyframes"):
        slot.solve(clip, reader, shrink, [0, 3], blind, Mast3rSfmConfig(), SfmConfig(), quiet)
    with pytest.raises(ValueError, match="ward or matches"):
        Mast3rSfmConfig(tree="oak")
    with pytest.raises(FootfallError, match="narrow"):
        Shrink((1000, 10), 512, 16)
