"""Heads are found and blurred: nothing of a face can be recovered, doing it again changes nothing, nobody is missed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill.errors import FootfallError
from distill.people.blur import blur_heads, covered
from distill.people.heads import (
    FACE_POINTS,
    HEAD_WEIGHTS,
    FaceDetector,
    HeadsConfig,
    blur_faces,
    blur_jpegs,
    fill_gaps,
    find_heads,
    heads_of_labels,
)
from distill.people.weights import get_weights
from distill.synthetic import ClipSpec, SyntheticClip, make_clip, render_clip
from teacher.stagefiles import Frames, read_image
from teacher.video import VideoConfig, run
from teacher.workspace import ClipFolder, ClipSource

Array = NDArray[np.float64]
HEAD = np.array([20.0, 10, 60, 58])


@pytest.fixture(scope="module")
def drawn() -> tuple[SyntheticClip, list[np.ndarray]]:
    """Two people walking, every pixel known."""
    clip = make_clip(ClipSpec(seed=4, frames=12, fps=20.0, supersample=1, people=2))
    return clip, [picture.rgb for picture in render_clip(clip)]


@pytest.fixture(scope="module")
def weights() -> None:
    try:
        for weight in HEAD_WEIGHTS:
            get_weights(weight)
    except FootfallError as error:
        pytest.skip(f"needs the detectors' weights: {error}")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 90, 3), dtype=np.uint8)


def inside(head: Array, shape: tuple[int, ...]) -> np.ndarray:
    """[H, W] bool: pixels whose centres lie in the ellipse."""
    points = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).reshape(-1, 2) + 0.5
    return covered(head, points).reshape(shape[:2])


def test_only_the_ellipse_is_touched_and_it_becomes_smooth() -> None:
    image = picture()
    blurred = blur_heads(image, HEAD[None])
    ellipse = inside(HEAD, image.shape)
    assert (blurred[~ellipse] == image[~ellipse]).all()
    assert (blurred[ellipse] != image[ellipse]).mean() > 0.9
    rows = blurred[30, 25:55].astype(int)  # neighbours differed by 85 levels on average
    assert np.abs(np.diff(rows, axis=0)).max() <= 3


def test_blurring_again_changes_nothing_even_where_heads_overlap() -> None:
    heads = np.array([HEAD, HEAD + [15, 5, 15, 5], HEAD + [-30, 0, -30, 0]])
    once = blur_heads(picture(), heads)
    assert np.abs(blur_heads(once, heads).astype(int) - once).max() <= 1  # rounding


def test_faces_with_the_same_six_moments_become_the_same_patch() -> None:
    """So nothing else of a face is in the patch: hide any pattern in the space that the fit cannot see."""
    image = np.full((80, 90, 3), 128.0)
    ellipse = inside(HEAD, image.shape)
    rows, columns = np.nonzero(ellipse)
    x, y = (columns + 0.5 - 40) / 20, (rows + 0.5 - 34) / 24
    basis = np.linalg.qr(np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), 1))[0]
    patches = []
    for seed in (1, 2):
        secret = np.random.default_rng(seed).normal(size=(len(rows), 3)) * 25
        secret -= basis @ (basis.T @ secret)
        face = image.copy()
        face[rows, columns] += secret
        patches.append(blur_heads(np.rint(face).astype(np.uint8), HEAD[None])[rows, columns].astype(int))
    assert np.abs(patches[0] - patches[1]).max() <= 1


def test_heads_outside_the_picture_do_no_harm() -> None:
    image = picture()
    for head in (HEAD - 200, HEAD + [60, 60, 60, 60], np.array([5.0, 5, 5, 5])):
        assert blur_heads(image, head[None]).shape == image.shape
    assert (blur_heads(image, np.zeros((0, 4))) == image).all()
    with pytest.raises(ValueError, match="finite"):
        blur_heads(image, np.full((1, 4), np.nan))


def test_gaps_are_bridged_and_ends_are_held() -> None:
    """A head that moves by 2 px a frame, seen in frames 3, 4 and 8 of 14; another one far away in frame 8 only."""
    heads = [np.zeros((0, 4)) for _ in range(14)]
    for frame in (3, 4, 8):
        heads[frame] = (HEAD + 2 * frame)[None]
    heads[8] = np.concatenate((heads[8], HEAD[None] + 300))
    filled = fill_gaps(heads, bridge=8, hold=2)
    for frame in range(3, 9):
        assert np.abs(filled[frame] - (HEAD + 2 * frame)).sum(1).min() < 1e-9
    assert [len(boxes) for boxes in filled] == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0]
    assert [len(boxes) for boxes in fill_gaps(heads, bridge=2, hold=0)] == [0, 0, 0, 1, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0]


def test_labels_know_where_heads_are(drawn: tuple[SyntheticClip, list[np.ndarray]]) -> None:
    clip, _ = drawn
    truth, points = clip.truth, clip.keypoints_cam()
    heads = heads_of_labels(truth.cameras.K, truth.motion.joints_cam, truth.motion.present)
    pixels = points @ truth.cameras.K.T
    for frame, boxes in enumerate(heads):
        for person in range(2):
            face = pixels[frame, person, FACE_POINTS]
            assert covered(boxes[person], face[:, :2] / face[:, 2:]).all()


@pytest.mark.usefixtures("weights")
def test_every_visible_head_of_drawn_people_is_covered(drawn: tuple[SyntheticClip, list[np.ndarray]]) -> None:
    clip, images = drawn
    heads = find_heads(images)
    pixels = clip.keypoints_cam() @ clip.truth.cameras.K.T
    faces = (pixels[..., :2] / pixels[..., 2:])[:, :, FACE_POINTS]
    hits, size = [], np.array(images[0].shape[1::-1])
    for frame in range(len(images)):
        for face in faces[frame]:
            if ((face >= 0) & (face < size)).all():
                hits.append(any(covered(head, face).all() for head in heads[frame]))
    assert len(hits) >= 20 and np.mean(hits) == 1.0


@pytest.mark.usefixtures("weights")
def test_the_face_detector_sees_no_face_in_noise() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    assert len(FaceDetector().faces(noise, min_score=HeadsConfig().face_score)) == 0


@pytest.mark.usefixtures("weights")
def test_blurred_frames_are_what_the_first_stage_writes(
    tmp_path: Path, drawn: tuple[SyntheticClip, list[np.ndarray]]
) -> None:
    clip, images = drawn
    (tmp_path / "images").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{index:03d}.png")
    folder = ClipFolder(tmp_path / "clip")
    folder.write_source(ClipSource(id="clip", path=str(tmp_path / "images"), sha256=""))
    written = {}
    for blur in (False, True):
        folder.begin("frames")
        outcome = run(folder, VideoConfig(blur_faces=blur), lambda fraction, text: None)
        assert outcome.summary["blurred"] is blur
        assert {name.split("-")[0] for name in outcome.weights} == ({"blazepose", "blazeface"} if blur else set())
        written[blur] = read_image(Frames.image_path(folder.stage_dir("frames"), 6)).astype(int)
    pixels = clip.keypoints_cam()[6] @ clip.truth.cameras.K.T
    changed = np.abs(written[True] - written[False]).max(-1) > 8
    for face in (pixels[..., :2] / pixels[..., 2:])[:, FACE_POINTS]:
        column, row = face.mean(0).astype(int)
        assert changed[row - 2 : row + 3, column - 2 : column + 3].any()
    assert changed.mean() < 0.1  # and not much else


@pytest.mark.usefixtures("weights")
def test_frames_of_samples_are_blurred_with_the_heads_that_labels_know(
    drawn: tuple[SyntheticClip, list[np.ndarray]],
) -> None:
    _, images = drawn
    jpegs = []
    for image in images[:2]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        jpegs.append(buffer.getvalue())
    corner = np.array([[2.0, 2, 40, 40]])  # nobody is there: only the labels say so
    decoded = [np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in blur_jpegs(jpegs, also=[corner] * 2)]
    for image, data in zip(decoded, jpegs, strict=True):
        clear = np.asarray(Image.open(io.BytesIO(data)))
        patch = blur_heads(clear, corner)[4:38, 4:38].astype(int)
        assert np.abs(image[4:38, 4:38] - patch).mean() < 2  # compression
        assert np.abs(image[4:38, 4:38] - clear[4:38, 4:38]).mean() > 4
    assert blur_faces(images[:1])[0].shape == images[0].shape
