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
from distill.fuser import FrameObservation, FusedFrame, Fuser, FuserConfig
from distill.geometry.cameras import resize_intrinsics
from distill.geometry.conventions import SMPL_JOINTS
from distill.geometry.rotations import matrix_from_rotvec
from distill.geometry.transforms import make_transform
from distill.models.backbones import Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student, StudentConfig
from distill.models.trunk import HeadConfig
from distill.people.candidates import best_candidates
from distill.people.token_tracker import TokenTrackerConfig
from distill.recorder import MAX_POINTS, Cloud, Recorder
from distill.results import load_result, save_result
from distill.runner.stream import prepare_image
from distill.stream import TIMES_KEPT, FrameResult, GivenBody, PersonResult, Stream, StreamConfig
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
    images = torch.stack([torch.from_numpy(prepare_image(frame, stream.network_size)[1]) for frame in video])
    width, height = stream.network_size
    scale = torch.tensor([width / SIZE[0], height / SIZE[1]] * 2)
    boxes = torch.stack([torch.as_tensor(BOXES[k]).float() * scale for k in sorted(BOXES)])
    people = Prompts(
        boxes=boxes[None, :, None].expand(len(pairs), 2, 2, 4),
        valid=torch.ones(len(pairs), 2, 2, dtype=torch.bool),
        K=resize_intrinsics(stream.K, SIZE, stream.network_size).expand(len(pairs), 2, 3, 3),
        K_known=torch.zeros(len(pairs), dtype=torch.bool),  # a guess: neither K nor a focal length was given
        seconds=torch.tensor([(b - a) / 25 for a, b in pairs]),
    )
    with torch.no_grad():
        tokens = student.encode(images)
        return student.pair(tokens[[a for a, _ in pairs]], tokens[[b for _, b in pairs]], people)


def run(stream: Stream, video: list[np.ndarray]) -> list[FrameResult]:
    return [stream.step(frame, k / 25, BOXES) for k, frame in enumerate(video)]


def test_what_the_fuser_is_told_of_one_gap_is_the_batch_of_its_pairs(student: Student, video: list[np.ndarray]) -> None:
    stream = Stream(student, SIZE, StreamConfig(gaps=[1], shape_memory=0.0))
    frames, told = observe(stream, video)
    whole = batched(student, stream, video, [(k, k + 1) for k in range(6)])
    for k in range(6):
        found, said = frames[k + 1], told[k + 1]
        close(said.camera.past_from_now[0], whole.cam_a_from_cam_b[k])
        close(said.camera.log_var[0], whole.camera_log_var[k])
        assert [person.id for person in found.people] == [3, 7]
        for column, person in enumerate(found.people):
            body = said.people[person.id]
            close(body.cam_from_body, whole.cam_from_body_b[k, column])
            close(body.root_log_var, whole.root_log_var_b[k, column])
            close(body.motions.past_from_now[0], whole.body_a_from_body_b[k, column])
            close(body.motions.log_var[0], whole.body_log_var[k, column])
            close(person.body_rot, whole.body_rot_b[k, column])
            close(person.betas, whole.betas[k, column])
            close(person.contact_prob, whole.contact_logit_b[k, column].sigmoid())


def test_several_gaps_are_the_batch_of_the_causal_window(student: Student, video: list[np.ndarray]) -> None:
    """Motions of every gap; contacts are the mean over the pairs, log depths weighted by how sure each is."""
    gaps = [1, 2, 5]
    stream = Stream(student, SIZE, StreamConfig(gaps=gaps))
    _, told = observe(stream, video)
    pairs = [(k - gap, k) for k in range(7) for gap in gaps if gap <= k]
    whole = batched(student, stream, video, pairs)
    assert len(told[0].camera.gaps) == 0
    for k in range(1, 7):
        rows = [pairs.index((k - gap, k)) for gap in gaps if gap <= k]
        assert told[k].camera.gaps.tolist() == [gap for gap in gaps if gap <= k]
        close(told[k].camera.past_from_now, whole.cam_a_from_cam_b[rows])
        for column, person in enumerate((3, 7)):
            close(told[k].people[person].motions.past_from_now, whole.body_a_from_body_b[rows, column])
            close(told[k].people[person].contact_prob, whole.contact_logit_b[rows, column].sigmoid().mean(0))
            weight = (-whole.root_log_var_b[rows, column, 2]).exp()
            depth = whole.cam_from_body_b[rows, column, 2, 3].log()
            close(np.log(told[k].people[person].cam_from_body[2, 3]), (weight * depth).sum() / weight.sum())


def test_results_are_those_of_the_fuser_at_once_and_settled(student: Student, video: list[np.ndarray]) -> None:
    config = StreamConfig(gaps=[1, 3], fuser=FuserConfig(lag=3))
    stream = Stream(student, SIZE, config)
    causal, told, settled = [], [], []
    for k, frame in enumerate(video):
        causal.append(stream.step(frame, k / 25, BOXES))
        told.append(stream.observation)
        settled += stream.settled()
    assert [frame.index for frame in settled] == [0, 1, 2, 3]  # a frame settles three frames later
    settled += stream.finish()
    fuser, at_once, later = Fuser(config.fuser), [], []
    for observation in told:
        assert observation is not None
        at_once.append(fuser.step(observation))
        later += fuser.settled()
    later += fuser.finish()
    for found, wanted in ((causal, at_once), (settled, later)):
        assert [frame.index for frame in found] == list(range(7))
        for mine, fused in zip(found, wanted, strict=True):
            assert_same(mine, fused)
    assert any((a.world_from_cam - b.world_from_cam).abs().max() > 1e-4 for a, b in zip(causal, settled, strict=True))


def assert_same(found: FrameResult, fused: FusedFrame) -> None:
    """The stream's result holds the fuser's poses: world_from_body = world_from_cam @ cam_from_body."""
    close(found.world_from_cam, torch.from_numpy(fused.world_from_cam))
    spread = np.sqrt([np.trace(fused.covariance[:3, :3]) / 3, np.trace(fused.covariance[3:, 3:]) / 3])
    close(found.camera_sigma, torch.from_numpy(spread))
    assert {person.id for person in found.people} == set(fused.people)
    for person in found.people:
        close(found.world_from_cam @ person.cam_from_body, torch.from_numpy(fused.people[person.id].world_from_body))
        close(person.joints_cam[0], person.cam_from_body[:3, 3])  # joint 0 is the pelvis


def observe(stream: Stream, video: list[np.ndarray]) -> tuple[list[FrameResult], list[FrameObservation]]:
    frames, told = [], []
    for k, frame in enumerate(video):
        frames.append(stream.step(frame, k / 25, BOXES))
        assert stream.observation is not None
        told.append(stream.observation)
    return frames, told


def close(found: Tensor | np.ndarray, wanted: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(found).float(), wanted.float(), rtol=1e-4, atol=1e-4)


def test_a_window_shorter_than_the_longest_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="lag is 5"):
        StreamConfig(gaps=[1, 10], fuser=FuserConfig(lag=5))
    with pytest.raises(ValueError, match="camera is 'fixed'"):
        StreamConfig(camera="fixed")  # type: ignore[arg-type]


class Counting:
    """A student that counts its work."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.look_width = student.look_width
        self.encoded = self.looked = 0
        self.pairs: list[int] = []

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.student.network_size(size)

    def encode(self, images: Tensor) -> Tokens:
        self.encoded += len(images)
        return self.student.encode(images)

    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        self.looked += boxes.shape[1]
        return self.student.look(images, boxes)

    def pair(self, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        self.pairs.append(len(a.features))
        return self.student.pair(a, b, people)


def test_each_frame_is_encoded_once_and_paired_with_the_gaps(student: Student, video: list[np.ndarray]) -> None:
    counting = Counting(student)
    run(Stream(counting, SIZE, StreamConfig(gaps=[1, 3])), video)
    assert counting.encoded == 7
    assert counting.looked == 14  # two people
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


def test_memory_does_not_grow_over_a_thousand_frames(student: Student) -> None:
    """New people keep coming; once forgotten, only a bounded number is remembered."""
    small = Stream(AtOwnSize(student), (32, 32), StreamConfig(gaps=[1, 3]))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    resident = []
    for k in range(1000):
        small.step(image, k / 25, {k // 20: np.array([4.0, 4, 20, 30])})
        if k in (499, 999):
            gc.collect()
            resident.append(resident_mb())
    assert resident[1] - resident[0] < 8
    kept = small.arrays
    assert len(kept._past) == 3
    assert kept._worlds.fuser.window.states.nodes <= 2 * 13
    assert len(kept._people) == 12
    assert len(kept._average.betas) <= 900 // 20 + 2
    assert all(len(seconds) <= TIMES_KEPT for seconds in small.times.values())
    assert set(small.latency()) == {"prepare", "encode", "look", "pair", "fuse"}


def stand(body: BodyModel, frames: int = 8) -> tuple[Recorder, Tensor]:
    """Frames of someone standing upright, seen by a camera that is tilted and rolled; and the world's up in it."""
    up = torch.nn.functional.normalize(torch.tensor([0.2, -1.0, -0.3]), dim=0)
    x = torch.nn.functional.normalize(torch.linalg.cross(up, torch.tensor([0.0, 0, -1])), dim=0)
    root = make_transform(torch.stack((x, up, torch.linalg.cross(x, up)), dim=1), torch.tensor([0.3, 0, 4.0]))
    body_rot, betas = torch.eye(3).expand(23, 3, 3), torch.zeros(10)
    person = PersonResult(
        id=5, cam_from_body=root, body_rot=body_rot, betas=betas, joints_cam=body(betas, body_rot, root).joints,
        contact_prob=torch.full((6,), 0.5), depth_sigma=0.1,
        root_sigma=torch.zeros(2),
    )  # fmt: skip
    recorder = Recorder(np.eye(3, dtype=np.float32), SIZE, "anny")
    for k in range(frames):
        result = FrameResult(
            index=k, timestamp=k / 25, world_from_cam=torch.eye(4), camera_sigma=torch.zeros(2), static_prob=0.0,
            log_scale=0.0, log_scale_sigma=0.1, people=[person],
        )  # fmt: skip
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


def test_a_recorded_world_has_one_scale(body: BodyModel) -> None:
    """A scale that became known late is put right from the start: the person's depth is e^0.1 larger at first."""
    recorder, _ = stand(body, frames=0)
    rows = stand(body)[0]._people.read()
    for k in range(12):
        log_scale = 0.1 if k >= 6 else 0.0
        row = rows[0]
        root = torch.from_numpy(row["cam_from_body"].copy())
        root[:3, 3] *= np.exp(-log_scale)
        joints = torch.from_numpy(row["joints_cam"] + (root[:3, 3].numpy() - row["cam_from_body"][:3, 3]))
        seen = PersonResult(
            id=5, cam_from_body=root, body_rot=torch.from_numpy(row["body_rot"].copy()), betas=torch.zeros(10),
            joints_cam=joints, contact_prob=torch.full((6,), 0.5), depth_sigma=0.1, root_sigma=torch.zeros(2),
        )  # fmt: skip
        recorder.add(FrameResult(
            index=k, timestamp=k / 25, world_from_cam=torch.eye(4), camera_sigma=torch.zeros(2), static_prob=0.0,
            log_scale=log_scale, log_scale_sigma=0.01 if k >= 6 else 1.0, people=[seen],
        ), {5: 1.7})  # fmt: skip
    motion = recorder.result().motion
    np.testing.assert_allclose(motion.cam_from_body[:, 0, 2, 3], 4.0 * np.exp(-0.1), rtol=1e-3)
    np.testing.assert_allclose(motion.joints_cam[:, 0, 0], motion.cam_from_body[:, 0, :3, 3], atol=1e-4)


def test_passers_by_of_a_few_frames_are_left_out(body: BodyModel) -> None:
    recorder, _ = stand(body, frames=3)
    result = recorder.result(min_frames=5)
    assert len(result.motion.ids) == 0
    assert result.meta["world"] == "first_camera"
    assert len(result.cameras.timestamps) == 3


def test_the_cloud_keeps_one_point_a_cell_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.cloud.MAX_POINTS", 50)
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


def test_without_boxes_the_student_finds_and_follows_people_itself(student: Student, video: list[np.ndarray]) -> None:
    stream = Stream(
        student, SIZE, StreamConfig(gaps=[1], tracker=TokenTrackerConfig(enter_score=0.02, stay_score=0.01))
    )
    for k, frame in enumerate(video):
        result = stream.step(frame, k / 25)
        kept = stream.arrays._past[-1]
        with torch.no_grad():
            image = torch.from_numpy(prepare_image(frame, stream.network_size)[1])
            offered = student.detect(student.encode(image[None]))
        boxes, scores = best_candidates(
            offered.logit.flatten().numpy(), offered.boxes.reshape(-1, 4).numpy(), threshold=0.01
        )
        found = {tuple(np.round(box.tolist(), 3)) for box in boxes}
        assert {tuple(np.round(box.tolist(), 3)) for box in kept.boxes.values()} <= found
        assert {person.id for person in result.people} <= set(kept.boxes)
        assert len(kept.boxes) == len(boxes) or scores.min() < 0.02
    assert stream.times["people"]


def test_graphs_that_find_nobody_ask_for_boxes(student: Student, video: list[np.ndarray]) -> None:
    class Graphs:
        """A network with only the calls that exported graphs have."""

        look_width, network_size = student.look_width, student.network_size
        encode, look, pair = student.encode, student.look, student.pair

    stream = Stream(Graphs(), SIZE)
    with pytest.raises(FootfallError, match="give boxes"):
        stream.step(video[0], 0.0)
    stream = Stream(Graphs(), SIZE)
    assert stream.step(video[0], 0.0, BOXES).people


def test_a_body_from_elsewhere_takes_the_students_place(student: Student, video: list[np.ndarray]) -> None:
    given = GivenBody(
        body_rot=matrix_from_rotvec(0.2 * torch.randn(23, 3)), betas=torch.randn(10),
        cam_from_body=make_transform(torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.tensor([0.1, 0.2, 5.0])),
    )  # fmt: skip
    stream = Stream(student, SIZE, StreamConfig(gaps=[1]))
    result = stream.step(video[0], 0.0, BOXES, {7: given})
    by_id = {person.id: person for person in result.people}
    torch.testing.assert_close(by_id[7].body_rot, given.body_rot)
    torch.testing.assert_close(by_id[7].betas, given.betas)
    torch.testing.assert_close(by_id[7].cam_from_body, given.cam_from_body, atol=0.02, rtol=0)
    assert not torch.allclose(by_id[3].body_rot, given.body_rot)


def test_corners_are_measured_where_there_are_points_and_only_there(student: Student) -> None:
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    spots = np.asarray(Image.fromarray(rng.integers(0, 255, (24, 36), dtype=np.uint8)).resize((288, 192)))
    frames = [np.repeat(spots[40 : 40 + 128, 2 * k : 2 * k + 192, None], 3, -1) for k in range(12)]
    told = {}
    for corners in ("auto", "never"):
        stream = Stream(student, (192, 128), StreamConfig(corners=corners))
        for k, frame in enumerate(frames):
            stream.step(np.ascontiguousarray(frame), k / 25, {})
        assert stream.observation is not None
        told[corners] = stream.observation.corners
    assert len(told["never"].gaps) == 0
    assert set(told["auto"].gaps.tolist()) <= set(range(1, 11)) and len(told["auto"].gaps) > 0
    assert np.isfinite(told["auto"].log_var).all()
