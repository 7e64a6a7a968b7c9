"""Dense depth: exact on a drawn scene with true cameras, absent where nothing can be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_support import clip_of, finish, quiet, synthetic_clip
from numpy.typing import NDArray

from distill.results import Result
from teacher.initialisers.depth import DepthConfig, run
from teacher.initialisers.registry import StageMissingError
from teacher.stagefiles import CameraInit, DepthInit, People, read_image
from teacher.workspace import ClipFolder

pytest.importorskip("cv2")
Array = NDArray[Any]
LONG_SIDE = 160


def write_cameras(clip: ClipFolder, truth: Result, depth: Array, *, scale: float, seen: int = 150) -> CameraInit:
    """The true cameras in other units (`scale` of them to a metre), with a few exact points in every frame."""
    rng = np.random.default_rng(0)
    K, poses = truth.cameras.K.astype(np.float64), truth.cameras.world_from_cam.astype(np.float64)
    points, frame_of, pixels = [], [], []
    for frame, pose in enumerate(poses):
        rows, columns = np.nonzero((depth[frame] > 0) & (depth[frame] < 25))
        chosen = rng.choice(len(rows), seen, replace=False)
        px = np.stack((columns[chosen] + 0.5, rows[chosen] + 0.5, np.ones(seen)), -1)
        local = px @ np.linalg.inv(K).T * depth[frame][rows[chosen], columns[chosen], None]
        points.append(local @ pose[:3, :3].T + pose[:3, 3])
        frame_of.append(np.full(seen, frame))
        pixels.append(px[:, :2])
    poses = poses.copy()
    poses[:, :3, 3] *= scale
    init = CameraInit(
        kind="sfm", metric=False, focal_known=False, K=K, world_from_cam=poses, registered=np.ones(len(poses), bool),
        points=(scale * np.concatenate(points)).astype(np.float32),
        points_rgb=np.zeros((seen * len(poses), 3), np.uint8),
        obs_frame=np.concatenate(frame_of).astype(np.int32), obs_point=np.arange(seen * len(poses), dtype=np.int32),
        obs_px=np.concatenate(pixels).astype(np.float32),
    )  # fmt: skip
    clip.begin("cameras")
    init.save(clip.stage_dir("cameras"))
    finish(clip, "cameras")
    return init


def run_depth(clip: ClipFolder, config: DepthConfig) -> tuple[Array, dict[str, Any]]:
    """Depth [T, h, w] as written, and the summary."""
    clip.begin("depth")
    summary = run(clip, config, quiet).summary
    finish(clip, "depth")
    written = DepthInit.load(clip.require("depth")).depth
    assert written.dtype == np.float16
    return written.astype(np.float64), summary


def at_size(image: Array, height: int, width: int) -> Array:
    """Values of [T, H, W] at the centres of the pixels of smaller maps."""
    rows = ((np.arange(height) + 0.5) * image.shape[1] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * image.shape[2] / width).astype(int)
    return image[:, rows][:, :, columns]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipFolder, Result, Array]:
    return synthetic_clip(tmp_path_factory.mktemp("depth"), seed=1, camera="walk", frames=18)


def test_depth_of_a_drawn_scene(drawn: tuple[ClipFolder, Result, Array]) -> None:
    clip, truth, true_depth = drawn
    write_cameras(clip, truth, true_depth, scale=0.37)
    depth, summary = run_depth(clip, DepthConfig(long_side=LONG_SIDE))
    assert depth.shape == (18, 90, 160)
    true_small = at_size(true_depth, 90, 160)
    both = (depth > 0) & (true_small > 0)
    error = np.abs(depth / 0.37 / np.where(both, true_small, 1) - 1)
    assert np.median(error[both]) < 0.03 and np.quantile(error[both], 0.9) < 0.14
    assert both.sum() > 0.8 * (true_small > 0).sum()
    # Frames between the swept ones are as good, not copies of their neighbours.
    between = np.array([k for k in range(18) if k % 4 and k != 17])
    assert np.median(error[between][both[between]]) < 0.03
    assert summary["swept"] > 0.3 and summary["agreement_with_points"] < 0.03


def test_people_have_no_depth(drawn: tuple[ClipFolder, Result, Array]) -> None:
    clip, truth, true_depth = drawn
    write_cameras(clip, truth, true_depth, scale=1.0)
    depth, _ = run_depth(clip, DepthConfig(long_side=LONG_SIDE))
    for frame in (0, 6, 17):
        mask = read_image(People.mask_path(clip.require("people"), frame))
        people = at_size(mask[None] > 0, *depth.shape[1:])[0]
        assert people.sum() > 100 and (depth[frame][people] == 0).all()
        assert (depth[frame][~people] > 0).mean() > 0.7


def test_the_sweep_sees_more_than_the_points_do(drawn: tuple[ClipFolder, Result, Array]) -> None:
    clip, truth, true_depth = drawn
    write_cameras(clip, truth, true_depth, scale=1.0, seen=25)
    swept, _ = run_depth(clip, DepthConfig(long_side=LONG_SIDE))
    only_points, summary = run_depth(clip, DepthConfig(long_side=LONG_SIDE, min_agreement=1.1))
    assert summary["swept"] == 0
    true_small = at_size(true_depth, *swept.shape[1:])

    def good(depth: Array) -> float:
        close = (depth > 0) & (true_small > 0) & (np.abs(depth / np.where(true_small > 0, true_small, 1) - 1) < 0.05)
        return float(close.sum() / (true_small > 0).sum())

    assert good(swept) > 0.55 and good(swept) > good(only_points) + 0.1


def test_without_parallax_the_stage_says_that_it_is_missing(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "c", np.zeros((8, 90, 160, 3), np.uint8), np.zeros((8, 90, 160), np.uint8))
    clip.begin("cameras")
    CameraInit(
        kind="static", metric=False, focal_known=False, K=np.diag([150.0, 150.0, 1.0]),
        world_from_cam=np.tile(np.eye(4), (8, 1, 1)), registered=np.ones(8, bool),
        points=np.zeros((0, 3), np.float32), points_rgb=np.zeros((0, 3), np.uint8), obs_frame=np.zeros(0, np.int32),
        obs_point=np.zeros(0, np.int32), obs_px=np.zeros((0, 2), np.float32),
    ).save(clip.stage_dir("cameras"))  # fmt: skip
    finish(clip, "cameras")
    clip.begin("depth")
    with pytest.raises(StageMissingError, match="no parallax: the camera is static"):
        run(clip, DepthConfig(), quiet)
    assert not (clip.stage_dir("depth") / DepthInit.file).exists()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="planes"):
        DepthConfig(planes=2)
