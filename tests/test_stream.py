"""Streaming: what a stream says is what the student says of the same pairs, in memory that does not grow."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.files import read_json
from distill.fuse import CameraFuser, average_rotations
from distill.geometry.cameras import resize_intrinsics
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import invert, make_transform
from distill.models.backbones import Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.recorder import MAX_POINTS, Cloud, Recorder
from distill.results import load_result, save_result
from distill.stream import TIMES_KEPT, FrameResult, PersonResult, Stream, StreamConfig
from teacher.cli import main
from tests.student_support import one_thread, wake  # noqa: F401 (a fixture)

SIZE = (96, 64)
BOXES = {7: np.array([10.0, 5, 40, 60]), 3: np.array([50.0, 8, 80, 62])}


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(2)
    return wake(Student(StudentConfig(head=HeadConfig(width=48, layers=1, attention_heads=2))))


@pytest.fixture(scope="module")
def video() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8) for _ in range(7)]


def batched(student: Student, stream: Stream, video: list[np.ndarray], pairs: list[tuple[int, int]]) -> PairPrediction:
    """The student's answer for pairs of frames, all in one batch; both people in both frames."""
    images = torch.cat([stream._prepare(frame) for frame in video])
    width, height = stream.network_size
    scale = torch.tensor([width / SIZE[0], height / SIZE[1]] * 2)
    boxes = torch.stack([torch.as_tensor(BOXES[k]).float() * scale for k in sorted(BOXES)])
    people = Prompts(
        boxes=boxes[None, :, None].expand(len(pairs), 2, 2, 4),
        valid=torch.ones(len(pairs), 2, 2, dtype=torch.bool),
        K=resize_intrinsics(stream.K, SIZE, stream.network_size).expand(len(pairs), 2, 3, 3),
    )
    with torch.no_grad():
        tokens = student.encode(images)
        return student.pair(tokens[[a for a, _ in pairs]], tokens[[b for _, b in pairs]], people)


def run(stream: Stream, video: list[np.ndarray]) -> list[FrameResult]:
    return [stream.step(frame, k / 25, BOXES) for k, frame in enumerate(video)]


def test_a_stream_of_one_gap_is_the_batch_of_its_pairs(student: Student, video: list[np.ndarray]) -> None:
    stream = Stream(student, SIZE, StreamConfig(gaps=[1], shape_memory=0.0))
    frames = run(stream, video)
    whole = batched(student, stream, video, [(k, k + 1) for k in range(6)])
    pose = torch.eye(4)
    for k in range(6):
        pose = pose @ whole.cam_a_from_cam_b[k]
        found = frames[k + 1]
        torch.testing.assert_close(found.world_from_cam, pose, rtol=1e-4, atol=1e-4)
        assert [person.id for person in found.people] == [3, 7]
        for column, person in enumerate(found.people):
            torch.testing.assert_close(person.cam_from_body, whole.cam_from_body_b[k, column], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(person.body_rot, whole.body_rot_b[k, column], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(person.betas, whole.betas[k, column], rtol=1e-4, atol=1e-4)
            wanted = whole.contact_logit_b[k, column].sigmoid()
            torch.testing.assert_close(person.contact_prob, wanted, rtol=1e-4, atol=1e-4)


def test_several_gaps_are_the_batch_of_the_causal_window(student: Student, video: list[np.ndarray]) -> None:
    """Positions: inverse variances of pose and motion, recomputed here from one batch of all pairs."""
    gaps = [1, 2, 5]
    stream = Stream(student, SIZE, StreamConfig(gaps=gaps))
    frames = run(stream, video)
    pairs = [(k - gap, k) for k in range(7) for gap in gaps if gap <= k]
    whole = batched(student, stream, video, pairs)
    variance = [1e-8]
    for k in range(1, 7):
        rows = [pairs.index((k - gap, k)) for gap in gaps if gap <= k]
        past = [pairs[row][0] for row in rows]
        spread = torch.tensor([variance[p] for p in past]) + whole.camera_log_var[rows, 1].exp()
        places = torch.stack(
            [(frames[p].world_from_cam @ whole.cam_a_from_cam_b[r])[:3, 3] for p, r in zip(past, rows, strict=True)]
        )
        wanted = (places / spread[:, None]).sum(0) / (1 / spread).sum()
        torch.testing.assert_close(frames[k].world_from_cam[:3, 3], wanted, rtol=1e-4, atol=1e-4)
        variance.append(1 / (1 / spread).sum().item())
        assert frames[k].camera_sigma[1].item() == pytest.approx(variance[-1] ** 0.5, rel=1e-3)


class Counting:
    """A student that counts its work."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.encoded = 0
        self.pairs: list[int] = []

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.student.network_size(size)

    def encode(self, images: Tensor) -> Tokens:
        self.encoded += len(images)
        return self.student.encode(images)

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        self.pairs.append(len(a.features))
        return self.student.pair(a, b, people)


def test_each_frame_is_encoded_once_and_paired_with_the_gaps(student: Student, video: list[np.ndarray]) -> None:
    counting = Counting(student)
    run(Stream(counting, SIZE, StreamConfig(gaps=[1, 3])), video)
    assert counting.encoded == 7
    assert counting.pairs == [1, 1, 1, 2, 2, 2, 2]


def test_people_come_and_go_by_their_ids(student: Student, video: list[np.ndarray]) -> None:
    stream = Stream(student, SIZE, StreamConfig(gaps=[1, 3]))
    plan = [{}, {3: BOXES[3]}, BOXES, {7: BOXES[7]}, {}, BOXES]
    seen = [[p.id for p in stream.step(video[k], k / 25, boxes).people] for k, boxes in enumerate(plan)]
    assert seen == [[], [3], [3, 7], [7], [], [3, 7]]


def test_shape_follows_slowly(student: Student, video: list[np.ndarray]) -> None:
    free = run(Stream(student, SIZE, StreamConfig(gaps=[1], shape_memory=0.0)), video)
    slow = run(Stream(student, SIZE, StreamConfig(gaps=[1], shape_memory=0.9)), video)
    wanted = 0.9 * free[0].people[0].betas + 0.1 * free[1].people[0].betas
    torch.testing.assert_close(slow[1].people[0].betas, wanted, rtol=1e-5, atol=1e-5)


def test_a_frame_of_another_size_is_refused(student: Student) -> None:
    with pytest.raises(FootfallError, match="frame 0: got shape"):
        Stream(student, SIZE).step(np.zeros((10, 10, 3), np.uint8), 0.0, {})


class AtOwnSize(Counting):
    """Frames are not enlarged, which saves time."""

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def test_memory_does_not_grow_over_two_thousand_frames(student: Student) -> None:
    """New people keep coming; once forgotten, only a bounded number is remembered."""
    small = Stream(AtOwnSize(student), (32, 32), StreamConfig(gaps=[1, 3]))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    resident = []
    for k in range(2000):
        small.step(image, k / 25, {k // 20: np.array([4.0, 4, 20, 30])})
        if k in (999, 1999):
            gc.collect()
            resident.append(resident_mb())
    assert resident[1] - resident[0] < 8
    assert len(small._past) == 3
    assert len(small._betas) <= 900 // 20 + 2
    assert all(len(seconds) <= TIMES_KEPT for seconds in small.times.values())
    assert set(small.latency()) == {"encode", "pair", "fuse"}


def random_path(count: int) -> Tensor:
    steps = make_transform(matrix_from_rotvec(0.1 * torch.randn(count, 3)), 0.2 * torch.randn(count, 3))
    poses = [torch.eye(4)]
    for step in steps[1:]:
        poses.append(poses[-1] @ step)
    return torch.stack(poses)


def test_fusing_exact_motions_gives_the_exact_path() -> None:
    path = random_path(30)
    fuser = CameraFuser(10)
    fuser.start()
    for k in range(1, 30):
        gaps = [gap for gap in (1, 3, 10) if gap <= k]
        motions = torch.stack([invert(path[k - gap]) @ path[k] for gap in gaps])
        pose = fuser.step(gaps, motions, torch.randn(len(gaps), 2))
        torch.testing.assert_close(pose.world_from_cam, path[k], rtol=1e-4, atol=1e-4)


def test_two_motions_by_hand() -> None:
    """Variances 1 and 4 (the first frame is known): weights 1 : 1/4; 1 m and 2 m give 1.2 m."""
    fuser = CameraFuser(2)
    fuser.start()
    motions = make_transform(
        matrix_from_rotvec(torch.tensor([[0, 0, 0.1], [0, 0, 0.2]])), torch.tensor([[1.0, 0, 0], [2, 0, 0]])
    )
    pose = fuser.step([1, 1], motions, torch.tensor([1.0, 4.0]).log()[:, None].expand(2, 2))
    torch.testing.assert_close(pose.world_from_cam[:3, 3], torch.tensor([1.2, 0, 0]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        pose.world_from_cam[:3, :3], matrix_from_rotvec(torch.tensor([0, 0, 0.12])), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(pose.variance, torch.full((2,), 0.8))


def test_long_gaps_keep_noise_from_adding_up() -> None:
    path = random_path(200)

    def end_error(gaps: tuple[int, ...]) -> float:
        generator, fuser = torch.Generator().manual_seed(0), CameraFuser(max(gaps))
        fuser.start()
        errors = []
        for k in range(1, 200):
            used = [gap for gap in gaps if gap <= k]
            motions = torch.stack([invert(path[k - gap]) @ path[k] for gap in used])
            motions[:, :3, 3] += 0.01 * torch.randn(len(used), 3, generator=generator)
            pose = fuser.step(used, motions, torch.full((len(used), 2), 1e-4).log())
            errors.append((pose.world_from_cam[:3, 3] - path[k, :3, 3]).norm().item())
        return float(np.mean(errors))

    assert end_error((1, 3, 10)) < 0.7 * end_error((1,))


def test_average_of_rotations() -> None:
    one = matrix_from_rotvec(torch.randn(3))
    spread = matrix_from_rotvec(torch.tensor([[0.3, 0, 0], [-0.3, 0, 0], [0, 0, 0]]))
    torch.testing.assert_close(average_rotations(one @ spread, torch.ones(3)), one, rtol=1e-4, atol=1e-5)


def stand(body: BodyModel, frames: int = 8) -> tuple[Recorder, Tensor]:
    """Frames of someone standing upright, seen by a camera that is tilted and rolled; and the world's up in it."""
    up = torch.nn.functional.normalize(torch.tensor([0.2, -1.0, -0.3]), dim=0)
    x = torch.nn.functional.normalize(torch.linalg.cross(up, torch.tensor([0.0, 0, -1])), dim=0)
    root = make_transform(torch.stack((x, up, torch.linalg.cross(x, up)), dim=1), torch.tensor([0.3, 0, 4.0]))
    body_rot, betas = torch.eye(3).expand(23, 3, 3), torch.zeros(10)
    person = PersonResult(
        id=5, cam_from_body=root, body_rot=body_rot, betas=betas, joints_cam=body(betas, body_rot, root).joints,
        contact_prob=torch.full((6,), 0.5), depth_sigma=0.1,
    )  # fmt: skip
    recorder = Recorder(np.eye(3, dtype=np.float32), SIZE, "anny")
    for k in range(frames):
        result = FrameResult(
            index=k, timestamp=k / 25, world_from_cam=torch.eye(4), camera_sigma=torch.zeros(2), people=[person]
        )
        recorder.add(result, {5: 1.7})
    return recorder, up


def test_recorded_people_stand_on_the_ground_of_a_world_with_z_up(body: BodyModel, tmp_path: Path) -> None:
    recorder, up = stand(body)
    save_result(tmp_path, recorder.result())
    result = load_result(tmp_path)
    assert result.meta["world"] == "z_up_ground"
    assert result.meta["gravity"]["spread_deg"] < 1
    turned = result.cameras.world_from_cam[0, :3, :3] @ up.numpy()
    assert turned[2] > np.cos(np.radians(6))  # a trunk is not a plumb line
    feet = [SMPL_JOINTS.index(name) for name in ("left_foot", "right_foot")]
    assert abs(result.joints_world[:, 0, feet, 2].min()) < 0.02
    assert result.joints_world[:, 0, SMPL_JOINTS.index("head"), 2].min() > 1.2
    assert result.motion.ids.tolist() == [5]
    assert result.motion.confidence[0, 0] == pytest.approx(0.5)  # a depth sigma of 10 % is half trusted


def test_passers_by_of_a_few_frames_are_left_out(body: BodyModel) -> None:
    recorder, _ = stand(body, frames=3)
    result = recorder.result(min_frames=5)
    assert len(result.motion.ids) == 0
    assert result.meta["world"] == "first_camera"
    assert len(result.cameras.timestamps) == 3


def test_the_cloud_keeps_one_point_a_cell_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.recorder.MAX_POINTS", 50)
    assert MAX_POINTS >= 50
    cloud = Cloud(cell_m=1.0)
    points = np.random.default_rng(0).uniform(-10, 10, (500, 3))
    for _ in range(2):
        cloud.add(points, np.full((500, 3), 9, np.uint8))
    kept, rgb = cloud.arrays()
    assert len(kept) == len(rgb) == 50
    assert len(np.unique(np.floor(kept), axis=0)) == 50


def test_run_writes_a_result_and_its_latency(student: Student, video: list[np.ndarray], tmp_path: Path) -> None:
    """Noise holds no people: cameras, scene and latencies are written all the same."""
    student.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "video").mkdir()
    for k, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / "video" / f"{k:03d}.png")
    words = [
        "run",
        str(tmp_path / "video"),
        "--checkpoint",
        str(tmp_path / "checkpoint"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "scene_every=3"]) == 0
    result = load_result(tmp_path / "out")
    assert result.cameras.timestamps.tolist() == pytest.approx([k / 30 for k in range(7)])
    assert len(result.motion.ids) == 0
    latency = read_json(tmp_path / "out" / "latency.json")
    assert latency["frames"] == 7
    for part in ("encode", "pair", "fuse", "people"):
        assert 0 < latency[part]["p50_ms"] <= latency[part]["p95_ms"] <= latency[part]["p99_ms"]
    assert latency["hardware"] and latency["commit"]
