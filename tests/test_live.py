"""Sources, threads, breaks: what comes in late, twice, from elsewhere or not at all."""

from __future__ import annotations

import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill.breaks import Breaks
from distill.errors import FootfallError
from distill.files import load_arrays, read_json
from distill.live import FileSource, PacedSource, Picture, UrlSource, is_file, open_source, overlapped
from distill.live.capture import CameraSource, shown
from distill.live.shrink import Shrink
from distill.live.stream_video import stream_video
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.people.token_tracker import TokenTracker, TokenTrackerConfig
from distill.results import load_result
from distill.stream import FrameResult, Stream, StreamConfig
from teacher.run_video import RunConfig, run_video
from tests.live_support import Given, noise, python_blocks
from tests.student_support import one_thread, wake  # noqa: F401 (a fixture)

BOXES = {7: np.array([10.0, 5, 40, 60]), 3: np.array([50.0, 8, 80, 62])}
LOW = TokenTrackerConfig(enter_score=0.02, stay_score=0.01, max_people=2)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(2)
    return wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))))


@pytest.fixture(scope="module")
def checkpoint(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    student.save_pretrained(folder)
    return folder


# Threads


def test_items_pass_all_stages_in_order_and_at_the_same_time() -> None:
    together, most = [0], [0]
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        time.sleep(0.01)
        with lock:
            together[0] -= 1
        return item + 1

    assert list(overlapped(range(30), [work, work, work])) == [k + 3 for k in range(30)]
    assert 2 <= most[0] <= 3


def test_what_a_stage_or_a_source_raises_comes_out_and_everything_stops() -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise FootfallError("stage", got="3", expected="another", do="nothing")
        return item

    def endless() -> Iterator[int]:
        k = 0
        while True:
            yield k
            k += 1

    seen = []
    with pytest.raises(FootfallError, match="stage"):
        for item in overlapped(endless(), [fail, lambda item: item]):
            seen.append(item)
    assert seen == [0, 1, 2]

    def broken() -> Iterator[int]:
        yield 0
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(overlapped(broken(), [lambda item: item]))
    time.sleep(0.3)
    assert not [thread for thread in threading.enumerate() if thread.name in ("fail", "<lambda>", "frames")]


def test_of_live_input_the_newest_waits_and_nobody_is_held_up() -> None:
    def slow(item: int) -> int:
        time.sleep(0.06)
        return item

    def camera() -> Iterator[int]:
        for k in range(60):
            yield k
            time.sleep(0.01)

    start = time.perf_counter()
    taken = list(overlapped(camera(), [slow], depth=1, newest=True))
    assert taken == sorted(set(taken))
    assert 3 <= len(taken) < 40
    assert taken[-1] == 59  # the last one is not lost
    assert time.perf_counter() - start < 60 * 0.06  # it did not wait for all


# Sources


def test_which_source_a_word_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_file("walk.mp4") and is_file("a/b") and not is_file("0") and not is_file("rtsp://camera/1")
    (tmp_path / "7").mkdir()
    assert is_file("7")
    Image.fromarray(noise(1)[0]).save(tmp_path / "7" / "0.png")
    assert isinstance(open_source("7", image_fps=10.0), FileSource)
    with pytest.raises(FootfallError, match="another kind"):
        open_source("ftp://host/video.mp4", image_fps=30.0)
    with pytest.raises(FootfallError, match="no such file"):
        open_source("nothing.mp4", image_fps=30.0)
    assert shown("rtsp://me:secret@host/live") == "rtsp://host/live"
    assert shown("/dev/video0") == "/dev/video0"


def test_a_camera_that_is_not_there_is_said_so() -> None:
    pytest.importorskip("cv2")
    with pytest.raises(FootfallError, match="plugged in"):
        CameraSource("99")


def jpeg(image: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "JPEG", quality=90)
    return packed.getvalue()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of motion JPEG at /live, without an end until 40 frames, and of files at /."""
    images = [jpeg(image) for image in noise(40)]

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self) -> None:
            if self.path != "/live":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for image in images:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
                self.wfile.write(head.encode() + image + b"\r\n")
                time.sleep(0.02)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_motion_jpeg_over_http_is_live_and_has_the_time_of_arrival(address: str) -> None:
    pytest.importorskip("cv2")
    source = UrlSource(f"{address}/live")
    assert source.live and source.length is None
    pictures = list(source.frames())
    assert len(pictures) >= 30
    assert pictures[0].image.shape == (64, 96, 3) and pictures[0].timestamp == 0.0
    assert abs(int(pictures[5].image.mean()) - int(np.mean(noise(40)[5]))) < 8
    times = np.array([picture.timestamp for picture in pictures])
    assert (np.diff(times) >= 0).all()
    assert 0.4 < times[-1] < 20  # as long as the server took, and not frames / 25
    source.close()


def write_video(path: Path, images: list[np.ndarray], *options: str) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    height, width = images[0].shape[:2]
    head = [ffmpeg, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    words = [*head, "-r", "30", "-i", "-", *options, "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(words, input=b"".join(image.tobytes() for image in images), check=True)


def test_a_file_behind_a_url_has_an_end_and_keeps_its_clock(address: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    write_video(tmp_path / "walk.mp4", noise(12), "-movflags", "+faststart")
    source = open_source(f"{address}/walk.mp4", image_fps=30.0)
    assert not source.live and source.length == 12
    pictures = list(source.frames())
    np.testing.assert_allclose([picture.timestamp for picture in pictures], np.arange(12) / 30, atol=2e-3)
    with pytest.raises(FootfallError, match="nothing that opens"):
        open_source(f"{address}/no.mp4", image_fps=30.0)


def test_a_paced_file_takes_as_long_as_it_plays() -> None:
    start = time.monotonic()
    source = PacedSource(Given(noise(7), [k / 20 for k in range(7)]))
    came = [time.monotonic() - start for _ in source.frames()]
    assert source.live
    assert all(moment - k / 20 >= 0 for k, moment in enumerate(came))


# Breaks


def test_pauses_steps_back_and_cuts_break_motion() -> None:
    breaks = Breaks(1.0, cuts=True)
    one, other = noise(3, seed=1), [image // 4 for image in noise(2, seed=7)]
    assert breaks.step(one[0], 0.0) is None
    assert breaks.step(one[1], 0.9) is None
    assert breaks.step(one[2], 2.0) == "nothing for 1.100 s"
    assert breaks.step(one[0], 1.5) == "time went back by 0.500 s"
    assert breaks.shift == pytest.approx(0.5 + 1 / 30)  # the clock goes on
    assert breaks.step(other[0], 1.6) == "cut"
    assert breaks.step(other[1], 1.7) is None
    assert Breaks(1.0, cuts=False).step(one[0], 0.0) is None


def test_a_break_begins_a_new_path_where_the_last_one_ended(student: Student) -> None:
    """Before it nothing changes; after it the stream is what a new one would be, moved to the last camera."""
    images, times = noise(12), [k / 30 for k in range(6)] + [5 + k / 30 for k in range(6)]
    config = StreamConfig(gaps=[1, 3])
    whole, before, after = (Stream(student, (96, 64), config) for _ in range(3))
    found = [whole.step(image, moment, BOXES) for image, moment in zip(images, times, strict=True)]
    assert [frame.broken for frame in found] == [None] * 6 + ["nothing for 4.833 s"] + [None] * 5
    for k in range(6):
        torch.testing.assert_close(before.step(images[k], times[k], BOXES).world_from_cam, found[k].world_from_cam)
    last = before.finish()[-1].world_from_cam
    for k in range(6, 12):
        fresh = after.step(images[k], times[k], BOXES)
        torch.testing.assert_close(last @ fresh.world_from_cam, found[k].world_from_cam, atol=1e-4, rtol=1e-4)
        assert [person.id for person in found[k].people] == [3, 7]
    assert len(whole.arrays._past) == 3


def test_frames_settle_before_a_break_and_all_come_out_in_order(student: Student) -> None:
    images, times = noise(20), [k / 30 for k in range(9)] + [3 + k / 30 for k in range(11)]
    stream = Stream(student, (96, 64), StreamConfig(gaps=[1]))
    settled: list[FrameResult] = []
    for k, (image, moment) in enumerate(zip(images, times, strict=True)):
        stream.step(image, moment, BOXES)
        settled += stream.settled()
        assert len(settled) == (0 if k < 9 else 9)  # the lag is 12
    settled += stream.finish()
    assert [frame.index for frame in settled] == list(range(20))
    assert [frame.timestamp for frame in settled] == times
    assert settled[9].broken and not settled[8].broken


def test_after_an_interruption_people_are_known_by_looks_wherever_they_are() -> None:
    looks = np.eye(8)[:2]
    boxes = np.array([[10.0, 10, 30, 60], [60.0, 10, 80, 60]])
    tracker = TokenTracker(TokenTrackerConfig())
    first = tracker.step(boxes, np.ones(2), looks)
    for _ in range(3):
        tracker.step(boxes, np.ones(2), looks)
    tracker.interrupt()
    again = tracker.step(boxes[::-1].copy(), np.ones(2), looks)  # they have changed places
    assert {person: box[0] for person, box in first.items()} == {0: 10.0, 1: 60.0}
    assert {person: box[0] for person, box in again.items()} == {0: 60.0, 1: 10.0}
    stranger = tracker.step(boxes[:1], np.ones(1), np.eye(8)[5:6])
    tracker.interrupt()
    assert list(tracker.step(boxes[1:], np.ones(1), np.eye(8)[6:7])) == [2 + (2 in stranger)]


# Streams


def test_overlapping_stages_say_what_steps_say(student: Student) -> None:
    images = noise(15)
    config = StreamConfig(gaps=[1, 3], tracker=LOW)
    stream = Stream(student, (96, 64), config)
    wanted, settled = [], []
    for k, image in enumerate(images):
        wanted.append(stream.step(image, k / 30))
        settled += stream.settled()
    settled += stream.finish()
    found = list(stream_video(student, Given(images), config))
    assert any(frame.people for frame in found)
    later = list(student.stream(Given(images), config, settled=True))
    for mine, other in zip([*found, *later], [*wanted, *settled], strict=True):
        assert mine.index == other.index and mine.timestamp == other.timestamp
        assert torch.equal(mine.world_from_cam, other.world_from_cam)
        assert [person.id for person in mine.people] == [person.id for person in other.people]
        for one, two in zip(mine.people, other.people, strict=True):
            assert torch.equal(one.joints_cam, two.joints_cam) and torch.equal(one.betas, two.betas)


@pytest.mark.parametrize("page", ["README.md", "docs/stream.md"])
def test_examples_run(page: str, tmp_path: Path) -> None:
    """With the checkpoint that ships, on a video of noise, in which it may find nobody."""
    write_video(tmp_path / "walk.mp4", noise(4, (320, 180)))
    (code,) = [block for block in python_blocks(page) if ".stream(" in block]
    count = f"{code}\nprint('frames', frame.index + 1)"
    done = subprocess.run([sys.executable, "-c", count], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "frames 4"


def test_leaving_the_loop_ends_the_source(student: Student) -> None:
    source = Given(noise(200))
    for frame in student.stream(source):
        if frame.index == 2:
            break
    else:
        pytest.fail("the loop ended by itself")
    time.sleep(0.3)
    assert source.closed and source.read < 40
    assert list(student.stream(Given([]))) == []


def test_a_live_run_drops_frames_and_says_which(checkpoint: Path, tmp_path: Path) -> None:
    """Frames come faster than anybody can work: the result's clock is that of those that were taken."""
    source = Given(noise(60), [k / 200 for k in range(60)], live=True, wait_s=0.005)
    summary = run_video(source, str(checkpoint), tmp_path, RunConfig(people="tokens", scene_every=1000))
    meta = read_json(tmp_path / "meta.json")["stream"]
    frames = load_arrays(tmp_path / "stream.npz")[0]["source_frame"]
    assert meta["live"] and meta["given"] == 60
    assert meta["used"] == len(frames) == summary["frames"]
    assert meta["dropped"] == summary["dropped"] == 60 - len(frames) > 0
    assert frames[-1] == 59 and (np.diff(frames) > 0).all()
    np.testing.assert_allclose(load_result(tmp_path).cameras.timestamps, frames / 200, atol=1e-9)


def test_a_broken_run_says_where_and_each_part_stands(checkpoint: Path, tmp_path: Path) -> None:
    images, times = noise(24), [k / 30 for k in range(12)] + [9 + k / 30 for k in range(12)]
    config = RunConfig(people="tokens", scene_every=3, stream=StreamConfig(tracker=LOW))
    run_video(Given(images, times), str(checkpoint), tmp_path, config)
    result = load_result(tmp_path)
    assert result.meta["breaks"] == [{"frame": 12, "why": "nothing for 8.633 s"}]
    np.testing.assert_allclose(result.cameras.timestamps, times)
    assert np.isfinite(result.cameras.world_from_cam).all()


def test_frames_of_another_shape_are_left_out_and_counted(checkpoint: Path, tmp_path: Path) -> None:
    images = noise(6) + noise(2, (64, 96)) + noise(4, (192, 128))
    run_video(Given(images), str(checkpoint), tmp_path, RunConfig(people="tokens"))
    meta = read_json(tmp_path / "meta.json")["stream"]
    assert (meta["used"], meta["other_shape"], meta["unreadable"]) == (10, 2, 0)
    assert load_arrays(tmp_path / "stream.npz")[0]["source_frame"].tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]


def test_rotated_video_of_variable_rate_runs_upright_on_its_own_clock(checkpoint: Path, tmp_path: Path) -> None:
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    select = "select='not(mod(n,3))+gt(n,20)',setpts=N/30/TB+gt(N\\,9)*0.2/TB"
    write_video(plain, noise(30), "-vf", select, "-fps_mode", "vfr")
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    words = [ffmpeg, "-loglevel", "error", "-display_rotation", "90", "-i", str(plain), "-codec", "copy", str(turned)]
    subprocess.run(words, check=True)
    config = RunConfig(people="tokens", stream=StreamConfig(lens=[80.0, 80.0, 32.0, 48.0]))
    run_video(turned, str(checkpoint), tmp_path / "out", config)
    result = load_result(tmp_path / "out")
    assert result.cameras.size == (64, 96)
    np.testing.assert_allclose(np.diag(result.cameras.K)[:2], 80.0)
    steps = np.diff(result.cameras.timestamps)
    assert np.isclose(steps, 1 / 30, atol=2e-3).sum() == len(steps) - 1
    assert steps.max() == pytest.approx(0.2 + 1 / 30, abs=5e-3)


def test_a_known_lens_is_scaled_and_its_distortion_taken_out() -> None:
    config = StreamConfig(lens=[400.0, 410, 330, 170, -0.2, 0.05, 0, 0, 0])
    shrink = Shrink((640, 360), 320, config)
    np.testing.assert_allclose(shrink.K.numpy(), [[200, 0, 165], [0, 205, 85], [0, 0, 1]])
    pytest.importorskip("cv2")
    image = np.zeros((360, 640, 3), np.uint8)
    image[:, 100:103] = 255
    bent = shrink(image)[..., 0].argmax(1)
    assert bent[90] != bent[5]  # a straight line of the picture is bent in the world
    plain = Shrink((640, 360), 320, StreamConfig(lens=[400.0, 410, 330, 170]))
    assert plain(image)[..., 0].argmax(1).std() == 0
    assert StreamConfig(lens=[1.0, 1, 0, 0]).knows_lens and not StreamConfig().knows_lens
    for wrong in ([1.0], [0.0, 1, 2, 3]):
        with pytest.raises(ValueError, match="lens is"):
            StreamConfig(lens=wrong)


def test_interrupted_a_run_ends_with_what_there_is(checkpoint: Path, tmp_path: Path) -> None:
    """Ctrl-C while a file plays at its own speed: a valid result, exit code 130, and nothing left behind."""
    (tmp_path / "video").mkdir()
    for k, image in enumerate(noise(600)):
        Image.fromarray(image).save(tmp_path / "video" / f"{k:04d}.png", compress_level=1)
    out = tmp_path / "out"
    words = ["run", str(tmp_path / "video"), "--checkpoint", str(checkpoint), "--out", str(out), "people=tokens"]
    code = "import sys; from teacher.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "live=always", "image_fps=4"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "frame " in line:
            break
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted" in said
    result, meta = load_result(out), read_json(out / "meta.json")["stream"]
    assert 0 < len(result.cameras.timestamps) == meta["used"] < 600
    assert meta["ended"] == "interrupted"
    assert {path.name for path in out.iterdir()} == {
        "cameras.npz", "motion.npz", "scene.ply", "meta.json", "latency.json", "stream.npz",
    }  # fmt: skip


def test_a_run_stops_after_the_wanted_frames(checkpoint: Path, tmp_path: Path) -> None:
    source = Given(noise(50))
    summary = run_video(source, str(checkpoint), tmp_path, RunConfig(people="tokens", most_frames=7))
    assert summary["frames"] == 7 and summary["ended"] == "most_frames"
    assert source.closed and source.read < 12
    with pytest.raises(FootfallError, match="no readable frame"):
        run_video(Given([]), str(checkpoint), tmp_path / "none", RunConfig(people="tokens"))
    assert not (tmp_path / "none").exists()


def test_pictures_know_when_they_came() -> None:
    before = time.monotonic()
    assert before <= Picture(index=0, timestamp=0.0, image=np.zeros((1, 1, 3), np.uint8)).came <= time.monotonic()
