"""Finding and following people with the real networks, on drawn and on real frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.errors import FootfallError
from distill.people.blazepose import (
    BlazePose,
    Pose,
    Region,
    affine_from_region,
    box_overlap,
    invert_affine,
    region_from_points,
    warp,
)
from distill.people.tracker import PeopleTracker, TrackerConfig, identity_map, on_person, same_person
from distill.people.weights import ALL_WEIGHTS, get_weights
from distill.synthetic import ClipSpec, SyntheticClip, make_clip, render_clip
from teacher.initialisers import people as stage
from teacher.initialisers.people import PeopleConfig
from teacher.stagefiles import Frames, People, read_image, write_image
from teacher.workspace import ClipFolder, StageRecord

Drawn = tuple[SyntheticClip, list[Any]]


@pytest.fixture(scope="module", autouse=True)
def _weights() -> None:
    try:
        for weight in ALL_WEIGHTS:
            get_weights(weight)
    except FootfallError as error:
        pytest.skip(f"needs the detector's weights: {error}")


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """A person walking, every pixel known."""
    clip = make_clip(ClipSpec(seed=4, frames=16, fps=20.0, supersample=1))
    return clip, list(render_clip(clip))


def true_pixels(clip: SyntheticClip) -> np.ndarray:
    """[T, P, 23, 2] pixels."""
    projected = clip.keypoints_cam() @ clip.truth.cameras.K.T
    return projected[..., :2] / projected[..., 2:]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def test_region_is_centred_and_upright() -> None:
    """A body that lies on its side, head to the right: the crop's up is the image's right."""
    region = region_from_points(np.array([100.0, 50.0]), np.array([140.0, 50.0]))
    assert region.side == pytest.approx(100.0)
    image_from_crop = affine_from_region(region, 256)
    np.testing.assert_allclose(image_from_crop @ [128, 128, 1], [100, 50], atol=1e-9)
    np.testing.assert_allclose(image_from_crop @ [128, 0, 1], [150, 50], atol=1e-9)
    back = invert_affine(image_from_crop)
    np.testing.assert_allclose(back @ [150, 50, 1], [128, 0], atol=1e-9)


def test_warp_keeps_pixel_centres() -> None:
    """Enlarging twice puts the edge between two pixels where the convention says: at the same coordinate."""
    image = np.zeros((4, 8), np.float32)
    image[:, 4:] = 1
    doubled = warp(image, np.array([[2.0, 0, 0], [0, 2.0, 0]]), (16, 8))
    np.testing.assert_allclose(doubled[4, :-1], [0] * 7 + [0.25, 0.75] + [1] * 6)  # the last one mixes with outside


def test_box_overlap_by_hand() -> None:
    unit = np.zeros(2), np.ones(2)
    assert box_overlap(*unit, np.array([0.5, 0.0]), np.array([1.5, 1.0])) == pytest.approx(1 / 3)
    assert box_overlap(*unit, np.array([2.0, 2.0]), np.array([3.0, 3.0])) == 0


def test_detector_finds_a_drawn_person_and_nobody_in_noise(drawn: Drawn) -> None:
    clip, pictures = drawn
    net = BlazePose()
    hips = true_pixels(clip)[0, 0, 11:13].mean(0)
    _, region = net.detect(pictures[0].rgb)[0]
    assert np.hypot(*(region.centre - hips)) < 0.15 * region.side
    noise = np.random.default_rng(0).integers(0, 255, (270, 480, 3), dtype=np.uint8)
    assert net.detect(noise) == []


def test_follows_a_drawn_person(drawn: Drawn) -> None:
    clip, pictures = drawn
    tracker, truth = PeopleTracker(), true_pixels(clip)
    height = float(np.ptp(truth[0, 0, :, 1]))
    distances, overlaps = [], []
    for index, picture in enumerate(pictures):
        people = tracker.step(picture.rgb)
        assert [person.id for person in people] == [0]
        pose = people[0].pose
        known = pose.keypoint_score > 0.5
        distances.append(np.linalg.norm(pose.keypoints_px - truth[index, 0], axis=-1)[known])
        overlaps.append(overlap(identity_map([(0, pose)], (480, 270)) == 1, picture.ids == 1))
    assert np.median(np.concatenate(distances)) < 0.025 * height
    assert np.mean(overlaps) > 0.85


def test_small_toes_are_unknown_and_landmarks_hip_centred(drawn: Drawn) -> None:
    pose = PeopleTracker().step(drawn[1][0].rgb)[0].pose
    assert pose.keypoint_score[[18, 21]].tolist() == [0, 0]
    assert np.abs(pose.keypoints_hip[11:13].mean(0)).max() < 0.05
    assert pose.keypoints_hip[:, 1].min() < -0.3  # the head is above the hips: camera y points down
    assert pose.keypoints_hip[[15, 16], 1].min() > 0.4


def test_two_drawn_people_keep_their_names_and_masks() -> None:
    clip = make_clip(ClipSpec(seed=7, frames=10, people=2, fps=20.0, supersample=1))
    tracker, truth, found = PeopleTracker(), true_pixels(clip), []
    for index, picture in enumerate(render_clip(clip)):
        people = tracker.step(picture.rgb)
        nearest = {}
        for person in people:
            distance = np.linalg.norm(person.pose.keypoints_px - truth[index], axis=-1)[:, :17].mean(1)
            nearest[person.id] = int(distance.argmin())
        assert sorted(nearest.values()) == [0, 1]
        found.append(nearest)
        owner = identity_map([(nearest[p.id], p.pose) for p in people], (480, 270))
        assert min(overlap(owner == k, picture.ids == k) for k in (1, 2)) > 0.8
    assert all(names == found[0] for names in found)


def test_memory_of_lost_people_is_bounded(drawn: Drawn) -> None:
    tracker = PeopleTracker(TrackerConfig(forget_after=5))
    tracker.step(drawn[1][0].rgb)
    blank = np.zeros_like(drawn[1][0].rgb)
    for _ in range(7):
        assert tracker.step(blank) == []
    assert tracker._tracks == []


def test_a_person_who_was_hidden_is_known_again(drawn: Drawn) -> None:
    pictures = [picture.rgb for picture in drawn[1]]
    tracker = PeopleTracker(TrackerConfig(search_every=2))
    blank = np.full_like(pictures[0], 90)
    ids = [
        [person.id for person in tracker.step(image)] for image in [*pictures[:4], blank, blank, blank, *pictures[7:12]]
    ]
    assert ids[3] == [0]
    assert ids[5] == []
    assert ids[-1] == [0]


def made_pose(left: float, *, logit: float = 5.0) -> Pose:
    """A pose whose keypoints stand in a column at `left` + 50 and whose mask fills its region."""
    points = np.stack((np.full(23, left + 50.0), np.linspace(10, 90, 23)), -1).astype(np.float32)
    region = Region(centre=np.array([left + 50.0, 50.0]), side=100.0, angle=0.0)
    return Pose(
        keypoints_px=points, keypoint_score=np.ones(23, np.float32), keypoints_hip=np.zeros((23, 3), np.float32),
        score=1.0, box_xyxy=np.array([left, 0, left + 100, 100], np.float32), next_region=region,
        mask_logit=np.full((256, 256), logit, np.float32), region=region,
    )  # fmt: skip


def test_pixels_that_two_masks_claim_go_to_the_nearer_skeleton() -> None:
    owner = identity_map([(0, made_pose(0)), (1, made_pose(60))], (160, 100))
    assert (owner[50, 2:78] == 1).all()
    assert (owner[50, 83:158] == 2).all()


def test_same_person_and_on_person() -> None:
    assert same_person(made_pose(0), made_pose(1))
    assert not same_person(made_pose(0), made_pose(40))
    inside = on_person(made_pose(0), np.array([[50.0, 50.0], [99.0, 1.0], [101.0, 50.0], [50.0, -1.0]]))
    assert inside.tolist() == [True, True, False, False]


def frames_folder(root: Path, images: list[np.ndarray]) -> ClipFolder:
    clip = ClipFolder(root / "clip")
    clip.begin("frames")
    for index, image in enumerate(images):
        write_image(Frames.image_path(clip.stage_dir("frames"), index), image)
    size = [images[0].shape[1], images[0].shape[0]]
    Frames(timestamps=np.arange(len(images)) / 20, size=size, source_size=size, unreadable=0).save(
        clip.stage_dir("frames")
    )
    clip.finish(StageRecord(stage="frames", status="done", implementation="test", config_hash="", inputs={}))
    return clip


def test_stage_writes_tracks_and_masks(drawn: Drawn, tmp_path: Path) -> None:
    clip = frames_folder(tmp_path, [picture.rgb for picture in drawn[1]])
    outcome = stage.run(clip, PeopleConfig(), lambda fraction, text: None)
    folder = clip.stage_dir("people")
    tracks = People.load(folder)
    assert tracks.visible.all() and tracks.visible.shape == (16, 1)
    assert tracks.keypoints_px.dtype == np.float32
    assert set(outcome.weights) == {"blazepose-detector", "blazepose-landmarks-full"}
    assert overlap(read_image(People.mask_path(folder, 9)) == 1, drawn[1][9].ids == 1) > 0.85


def test_a_clip_without_people_is_refused_in_plain_words(tmp_path: Path) -> None:
    wall = np.tile(np.linspace(60, 160, 320, dtype=np.uint8)[None, :, None], (180, 1, 3))
    clip = frames_folder(tmp_path, [wall] * 9)
    with pytest.raises(FootfallError, match="no person seen for 9 frames"):
        stage.run(clip, PeopleConfig(), lambda fraction, text: None)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="search_every"):
        TrackerConfig(search_every=0)
    with pytest.raises(ValueError, match="max_people"):
        PeopleConfig(max_people=0)


def test_masks_on_the_parkour_scene(shared_dir: Path) -> None:
    """A real vault filmed by hand, against the annotated masks of DAVIS (a reference run gave 0.926 over 100)."""
    tracker, overlaps = PeopleTracker(), []
    for path in sorted((shared_dir / "videos" / "02_davis_parkour_frames").glob("*.jpg"))[20:30]:
        image = np.asarray(Image.open(path))
        people = tracker.step(image)
        assert len(people) == 1
        annotated = shared_dir / "videos" / "02_davis_parkour_masks" / f"{path.stem}.png"
        truth = np.asarray(Image.open(annotated).convert("L")) > 0
        overlaps.append(overlap(identity_map([(0, people[0].pose)], image.shape[1::-1]) == 1, truth))
    assert np.mean(overlaps) > 0.85


def test_names_survive_a_crossing(shared_dir: Path) -> None:
    """Two men cross; the one behind is hidden for half a second and is known again."""
    from teacher.video import Decoder

    decoder = Decoder(shared_dir / "videos" / "04_videomimic_two_people_benches.mp4", fps=None, size=(640, 360))
    tracker, seen = PeopleTracker(), {}
    for index, image in decoder.frames(range(24, 72)):
        assert image is not None
        for person in tracker.step(image):
            seen.setdefault(person.id, []).append(index)
    long = {name: frames for name, frames in seen.items() if len(frames) >= 12}
    assert sorted(long) == [0, 1]
    assert all(min(frames) < 30 and max(frames) > 66 for frames in long.values())
