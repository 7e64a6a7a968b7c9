"""Decoding keeps the container's clock, applies rotation and lens, splits at cuts and survives damage."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill.errors import FootfallError
from distill.video import Decoder
from teacher.stagefiles import Frames, read_image
from teacher.video import VideoConfig, run, split_shots
from teacher.workspace import ClipFolder, ClipSource, StageRecord

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
Array = NDArray[Any]
SIZE = (160, 120)


def sliding_noise(frames: int, *, seed: int = 0) -> Array:
    """[frames, H, W, 3] uint8: a random grey picture (video halves colour) that slides up by a pixel a frame."""
    cells = np.random.default_rng(seed).integers(0, 255, (SIZE[1] // 8 + 20, SIZE[0] // 8, 1))
    picture = np.kron(cells, np.ones((8, 8, 3))).astype(np.uint8)
    return np.stack([picture[k : k + SIZE[1]] for k in range(frames)])


def write_video(path: Path, images: Array, *options: str, fps: float = 10) -> Path:
    """H.264, every frame's time stamp k / fps unless `options` of ffmpeg change that."""
    writer = imageio_ffmpeg.write_frames(
        str(path), (images.shape[2], images.shape[1]), fps=fps, macro_block_size=2, quality=None,
        output_params=["-crf", "12", *options], ffmpeg_log_level="error",
    )  # fmt: skip
    writer.send(None)
    for image in images:
        writer.send(np.ascontiguousarray(image))
    writer.close()
    return path


def decode(folder: Path, path: Path, config: VideoConfig | None = None, **source: Any) -> tuple[ClipFolder, Frames]:
    """Run the stage on a video."""
    clip = ClipFolder(folder / "clip")
    clip.write_source(ClipSource(id="clip", path=str(path), sha256="", **source))
    clip.begin("frames")
    run(clip, config or VideoConfig(), lambda fraction, text: None)
    clip.finish(StageRecord(stage="frames", status="done", implementation="v", config_hash="c", inputs={}))
    return clip, Frames.load(clip.stage_dir("frames"))


def written(clip: ClipFolder, index: int) -> Array:
    """A written image."""
    return read_image(Frames.image_path(clip.stage_dir("frames"), index))


def test_frames_are_those_of_the_video(tmp_path: Path) -> None:
    images = sliding_noise(12)
    clip, frames = decode(tmp_path, write_video(tmp_path / "v.mp4", images))
    assert frames.size == [160, 120] and frames.unreadable == 0 and frames.K is None
    np.testing.assert_allclose(frames.timestamps, np.arange(12) / 10, atol=1e-6)
    for index in (0, 5, 11):  # a frame off by one would differ by tens of grey levels
        assert np.abs(written(clip, index).astype(float) - images[index]).mean() < 6


def test_small_pictures_have_three_channels(tmp_path: Path) -> None:
    """decord takes the padding of narrow rows for a fourth channel."""
    across, down = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 64))
    image = np.stack((across, down, 255 - across), -1).astype(np.uint8)
    path = write_video(tmp_path / "v.mp4", np.stack([image] * 4))
    for _, frame in Decoder(path, fps=None).frames(range(4)):
        assert frame is not None and frame.shape == (64, 96, 3)
        assert np.abs(frame.astype(float) - image).mean() < 4


def test_variable_frame_rate_keeps_its_time_stamps(tmp_path: Path) -> None:
    # Frame k is shown at (k + floor(k / 3)) tenths of a second: three frames, a pause, three frames ...
    options = ("-vf", "setpts=(N+floor(N/3))*0.1/TB", "-fps_mode", "passthrough")
    _, frames = decode(tmp_path, write_video(tmp_path / "v.mp4", sliding_noise(12), *options))
    k = np.arange(12)
    np.testing.assert_allclose(frames.timestamps, (k + k // 3) * 0.1, atol=1e-6)


def test_fps_of_the_manifest_overrides_the_container(tmp_path: Path) -> None:
    _, frames = decode(tmp_path, write_video(tmp_path / "v.mp4", sliding_noise(9)), fps=50.0)
    np.testing.assert_allclose(frames.timestamps, np.arange(9) / 50)


def test_window_takes_start_and_leaves_end(tmp_path: Path) -> None:
    images = sliding_noise(20)
    clip, frames = decode(tmp_path, write_video(tmp_path / "v.mp4", images), start_s=0.3, end_s=1.5)
    np.testing.assert_allclose(frames.timestamps, np.arange(3, 15) / 10, atol=1e-6)
    assert np.abs(written(clip, 0).astype(float) - images[3]).mean() < 6


def test_rotation_metadata_is_applied(tmp_path: Path) -> None:
    images = np.zeros((10, 120, 160, 3), np.uint8)
    images[:, :20, :, 0] = 250  # a red bar along the top of what the sensor saw
    plain = write_video(tmp_path / "plain.mp4", images)
    turned = tmp_path / "turned.mp4"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", "90", "-i", str(plain),
         "-c", "copy", str(turned)],
        check=True,
    )  # fmt: skip
    clip, frames = decode(tmp_path, turned)
    assert frames.size == frames.source_size == [120, 160]
    # ffmpeg's display_rotation is counter-clockwise: what was on top comes to the left.
    red = written(clip, 0)[..., 0].astype(float)
    assert red[:, :15].mean() > 200 and red[:, 30:].mean() < 20


def test_large_pictures_shrink_and_small_ones_stay(tmp_path: Path) -> None:
    images = sliding_noise(9)
    path = write_video(tmp_path / "v.mp4", images)
    clip, frames = decode(tmp_path, path, VideoConfig(long_side=80))
    assert frames.size == [80, 60] and frames.source_size == [160, 120] and written(clip, 0).shape == (60, 80, 3)
    averaged = images[4].reshape(60, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(written(clip, 4) - averaged).mean() < 8  # the picture is scaled, not shifted or cropped


def test_folder_of_images_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in (3, 0, 7, 1, 2, 5, 4, 6, 8):
        Image.new("RGB", SIZE, (20 * k, 0, 0)).save(folder / f"{k:03d}.png")
    (folder / "005.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not a frame")
    clip, frames = decode(tmp_path, folder, VideoConfig(image_fps=24.0))
    assert frames.unreadable == 1  # it is left out; the others keep their times
    np.testing.assert_allclose(frames.timestamps, np.array([0, 1, 2, 3, 4, 6, 7, 8]) / 24)
    assert [int(written(clip, k)[0, 0, 0].astype(int) / 20 + 0.5) for k in range(8)] == [0, 1, 2, 3, 4, 6, 7, 8]


def test_damage_costs_frames_up_to_the_next_keyframe(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8),
                       "-g", "10")  # fmt: skip
    data = bytearray(path.read_bytes())
    begin, end = int(0.4 * len(data)), int(0.5 * len(data))
    data[begin:end] = bytes(np.random.default_rng(1).integers(0, 255, end - begin, np.uint8))
    path.write_bytes(data)
    _, frames = decode(tmp_path, path)
    assert 0 < frames.unreadable < 40 and len(frames.timestamps) == 60 - frames.unreadable
    late = frames.timestamps[frames.timestamps > 4.95]
    np.testing.assert_allclose(late, np.arange(50, 60) / 10, atol=1e-6)  # later groups of pictures are whole


def checkerboard(K: Array, distortion: list[float]) -> Array:
    """[H, W, 3] uint8 picture that this lens takes of the plane z = 1; tiles of 0.1, centred on the axis."""
    cv2 = pytest.importorskip("cv2")
    x, y = np.meshgrid(np.arange(SIZE[0], dtype=np.float64), np.arange(SIZE[1], dtype=np.float64))
    integer = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV's pixel centres
    rays = cv2.undistortPoints(np.stack((x, y), -1).reshape(-1, 1, 2), integer, np.array(distortion))[:, 0]
    tiles = np.sin(np.pi * rays / 0.1).prod(-1).reshape(SIZE[1], SIZE[0])
    return np.repeat((127 + 120 * np.tanh(4 * tiles))[..., None], 3, -1).astype(np.uint8)


def test_known_lens_is_undone_about_our_pixel_centres(tmp_path: Path) -> None:
    K = np.array([[150.0, 0, 84], [0, 148, 57], [0, 0, 1]])
    distortion = [-0.25, 0.06, 0.004, -0.003]
    bent, straight = checkerboard(K, distortion), checkerboard(K, [0.0, 0, 0, 0])
    path = write_video(tmp_path / "v.mp4", np.repeat(bent[None], 9, 0))
    intrinsics = {"fx": 150.0, "fy": 148.0, "cx": 84.0, "cy": 57.0, "distortion": distortion}
    clip, frames = decode(tmp_path, path, intrinsics=intrinsics)
    np.testing.assert_allclose(np.asarray(frames.K), K)
    inner = (slice(15, -15), slice(15, -15))
    error = np.abs(written(clip, 3).astype(float) - straight)[inner].mean()
    assert error < 6
    for shift in (-1, 1):  # half a pixel of misunderstanding would cost more than the codec does
        moved = np.roll(straight.astype(float), shift, axis=1)
        assert np.abs(written(clip, 3) - (straight + moved) / 2)[inner].mean() > 1.5 * error


def test_known_lens_of_a_shrunk_picture(tmp_path: Path) -> None:
    intrinsics = {"fx": 150.0, "fy": 148.0, "cx": 84.0, "cy": 57.0}
    path = write_video(tmp_path / "v.mp4", sliding_noise(9))
    _, frames = decode(tmp_path, path, VideoConfig(long_side=80), intrinsics=intrinsics)
    # With pixel centres at (0.5, 0.5) the image plane is only scaled.
    np.testing.assert_allclose(np.asarray(frames.K), np.array([[75, 0, 42], [0, 74, 28.5], [0, 0, 1]]))


def test_principal_point_outside_the_picture_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", sliding_noise(9))
    with pytest.raises(FootfallError, match="principal point"):
        decode(tmp_path, path, intrinsics={"fx": 900.0, "fy": 900.0, "cx": 960.0, "cy": 540.0})


def test_known_poses_follow_the_window(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", sliding_noise(20))
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, 0, 3] = np.arange(20)
    _, frames = decode(tmp_path, path, world_from_cam=poses.tolist(), start_s=0.5, end_s=1.5)
    np.testing.assert_array_equal(np.asarray(frames.world_from_cam)[:, 0, 3], np.arange(5, 15))
    with pytest.raises(FootfallError, match="7 poses for 20 frames"):
        decode(tmp_path, path, world_from_cam=poses[:7].tolist())
    _, fixed = decode(tmp_path, path, world_from_cam=poses[3].tolist())
    np.testing.assert_array_equal(fixed.world_from_cam, poses[3])


def test_shots_split_at_cuts_only(tmp_path: Path) -> None:
    other = 255 - sliding_noise(25, seed=7) // 3
    flash = sliding_noise(20)
    flash[10] = np.minimum(flash[10].astype(int) + 90, 255)  # brighter for a moment, the same picture
    path = write_video(tmp_path / "v.mp4", np.concatenate((flash, other)))
    shots = split_shots(path, VideoConfig())
    assert len(shots) == 2 and shots[0][0] == 0.0 and shots[1] == (pytest.approx(2.0, abs=1e-6), None)
    assert shots[0][1] == shots[1][0]
    np.testing.assert_allclose(Decoder(path, fps=None).timestamps, np.arange(45) / 10, atol=1e-6)


def test_long_shots_are_cut_into_parts(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", np.repeat(sliding_noise(1), 25, 0))
    shots = split_shots(path, VideoConfig(max_frames=10))
    np.testing.assert_allclose([start for start, _ in shots], [0, 1, 2], atol=1e-6)
    _, frames = decode(tmp_path, path, start_s=shots[1][0], end_s=shots[1][1])
    np.testing.assert_allclose(frames.timestamps, np.arange(10, 20) / 10, atol=1e-6)


@pytest.mark.parametrize("case", ["missing", "empty", "text", "truncated", "one"])
def test_what_cannot_be_decoded_is_said(case: str, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    expected = {"missing": "no such file", "empty": "an empty file", "one": "1 frame; expected at least 8"}
    if case == "empty":
        path.touch()
    elif case == "text":
        path.write_text("not a video\n" * 99)
    elif case == "truncated":
        data = write_video(path, sliding_noise(20)).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif case == "one":
        write_video(path, sliding_noise(1))
    with pytest.raises(FootfallError, match=expected.get(case, "cannot be decoded")):
        decode(tmp_path, path)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="min_frames"):
        VideoConfig(min_frames=1)


def test_real_clip_with_vp9_is_read_to_its_end(shared_dir: Path) -> None:
    # With one thread per core, decord loses most of this file: the reader must not use that setting.
    decoder = Decoder(shared_dir / "gt" / "pose2sim_SinglePerson" / "cam02.mp4", fps=None, size=(64, 112))
    assert sum(frame is not None for _, frame in decoder.frames(range(len(decoder)))) == 100


def test_only_the_window_is_cut_and_decoded(tmp_path: Path) -> None:
    """A cut at 1.5 s of 3 s; the window from 1.0 to 2.5 s has a part of both shots."""
    images = np.concatenate((sliding_noise(15), sliding_noise(15, seed=3) // 4))
    path = write_video(tmp_path / "v.mp4", images)
    config = VideoConfig(min_frames=2)
    assert split_shots(path, config, window=(1.0, 2.5)) == [(1.0, pytest.approx(1.5)), (pytest.approx(1.5), 2.5)]
    assert split_shots(path, config, window=(2.0, None)) == [(2.0, None)]
    clip, frames = decode(tmp_path, path, config, start_s=1.0, end_s=1.5)
    np.testing.assert_allclose(frames.timestamps, np.arange(10, 15) / 10, atol=1e-6)
    assert np.abs(written(clip, 0).astype(float) - images[10]).mean() < 6
