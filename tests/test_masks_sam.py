"""Masks by SAM: a tiny network loads and follows; prompts, boxes and identities are handled rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_support import clip_of, quiet
from neural_support import tiny_sam2, tiny_sam3
from numpy.typing import NDArray

from distill.errors import FootfallError
from teacher.initialisers import masks_sam
from teacher.initialisers.masks_sam import MasksConfig, VideoMasks, inside_box, merge, prompt_frames, refine_masks
from teacher.initialisers.pretrained import Pretrained, find_pretrained
from teacher.stagefiles import People, read_image

pytest.importorskip("transformers")
Array = NDArray[Any]


def people_of(frames: int, boxes: list[list[float]]) -> People:
    shape = (frames, len(boxes))
    return People(
        visible=np.ones(shape, bool), box_xyxy=np.tile(np.array(boxes, np.float32), (frames, 1, 1)),
        score=np.ones(shape, np.float32), keypoints_px=np.zeros((*shape, 23, 2), np.float32),
        keypoint_score=np.zeros((*shape, 23), np.float32), keypoints_hip=np.zeros((*shape, 23, 3), np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam2(tmp_path_factory.mktemp("sam") / "sam2")


@pytest.mark.parametrize("generation", [2, 3])
def test_a_network_follows_every_person_through_every_frame(generation: int, sam2: Path, tmp_path: Path) -> None:
    folder = sam2 if generation == 2 else tiny_sam3(tmp_path / "sam3")
    video = list(np.random.default_rng(0).integers(0, 255, (4, 60, 80, 3), dtype=np.uint8))
    tracker = VideoMasks(find_pretrained(str(folder)), video)
    first = tracker.follow({1: np.array([5, 5, 30, 50]), 3: np.array([6, 5, 31, 50])})
    second = tracker.follow({2: np.array([40, 5, 70, 50])})
    assert sorted(first) == sorted(second) == [0, 1, 2, 3]  # also before the first prompt
    assert all(tracker.enlarge(logit).shape == (60, 80) and np.isfinite(logit).all() for logit in first.values())
    assert np.abs(first[2] - second[2]).max() > 0  # the box matters
    again = tracker.follow({2: np.array([40, 5, 70, 50])})
    np.testing.assert_allclose(again[3], second[3], rtol=1e-2, atol=1e-2)  # nothing is left of the one before
    assert tracker.follow({}) == {}


class _Boxes:
    """A network that finds exactly what it was asked for, and in frame 2 nobody."""

    def __init__(self, source: Pretrained, video: list[Array]) -> None:
        self.count, self.size = len(video), video[0].shape[:2]

    def follow(self, boxes: dict[int, Array]) -> dict[int, Array]:
        inside = inside_box(np.ones(self.size), next(iter(boxes.values())), 0) > 0
        return {frame: np.where(inside & (frame != 2), 1.0, -1.0) for frame in range(self.count)}

    def enlarge(self, logits: Array) -> Array:
        return logits


def test_masks_replace_those_of_the_people_stage(sam2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = np.zeros((3, 40, 60), np.uint8)
    before[:, 20:25, 10:15] = 1
    clip = clip_of(tmp_path, np.zeros((3, 40, 60, 3), np.uint8), before)
    people = people_of(3, [[5, 5, 20, 35], [30, 5, 50, 35]])
    people.visible[1, 1] = False
    monkeypatch.setattr(masks_sam, "VideoMasks", _Boxes)
    weights = refine_masks(clip, people, MasksConfig(use="sam", model=str(sam2)), quiet)
    assert weights[str(sam2)]["licence"] == "apache-2.0"
    maps = [read_image(People.mask_path(clip.stage_dir("people"), index)) for index in range(3)]
    expected = np.zeros((40, 60), np.uint8)
    expected[5:35, 5:20], expected[5:35, 30:50] = 1, 2
    np.testing.assert_array_equal(maps[0], expected)
    np.testing.assert_array_equal(maps[1], np.where(expected == 2, 0, expected))  # not visible there
    np.testing.assert_array_equal(maps[2], before[2])  # lost: what landmarks said


def test_prompts_are_spread_over_the_surest_frames() -> None:
    visible = np.array([0, 1, 1, 1, 0, 1, 1, 1, 1], bool)
    score = np.array([9, 1, 3, 2, 9, 1, 1, 5, 1.0])
    assert prompt_frames(visible, score, 2) == [2, 7]
    assert prompt_frames(visible, score, 100) == [1, 2, 3, 5, 6, 7, 8]
    assert prompt_frames(np.zeros(4, bool), np.ones(4), 3) == []


def test_the_surer_person_has_the_pixel() -> None:
    scores = np.array([[[2.0, 1.0, -1.0]], [[1.0, 3.0, -2.0]]])
    np.testing.assert_array_equal(merge(scores, np.zeros((1, 3), np.uint8)), [[1, 2, 0]])


def test_other_models_and_settings_are_refused(sam2: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "README.md"):
        (tmp_path / name).write_bytes((sam2 / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(FootfallError, match="accept its licence"):
        VideoMasks(find_pretrained(str(tmp_path)), [np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(ValueError, match="landmarks or sam"):
        MasksConfig(use="sam2")
