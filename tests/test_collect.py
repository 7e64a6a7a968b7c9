"""From downloaded videos to a manifest: files, shots, repeats, camera motion, segments, costs, and all together."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill.errors import FootfallError
from distill.people.heads import HEAD_WEIGHTS
from distill.people.weights import get_weights
from distill.synthetic import ClipSpec, make_clip, render_clip
from teacher.collect import run as collecting
from teacher.collect.config import CollectConfig, DuplicatesConfig, EstimateConfig, SegmentsConfig, ShotsConfig
from teacher.collect.duplicates import find_repeats, picture_hash
from teacher.collect.estimate import LABEL_SECONDS, SURVEY_SECONDS, estimate, label_speed
from teacher.collect.segments import choose
from teacher.collect.shots import find_shots, probe
from teacher.collect.sources import find_sources
from teacher.collect.survey import Look, Shot, background_motion
from teacher.manifest import fingerprint, read_inputs
from tests.target_support import load_recipe

pytest.importorskip("scenedetect")
pytest.importorskip("imagehash")
imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
Array = NDArray[Any]


def landscape(seed: int, width: int = 320, height: int = 180) -> Array:
    """A smooth random picture [H, W, 3] uint8, as unlike another as two places are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(0, 256, (45, 80, 3), dtype=np.uint8))
    both = [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), float) for image in (coarse, fine)]
    return np.clip(0.75 * both[0] + 0.25 * both[1], 0, 255).astype(np.uint8)


def write_video(path: Path, images: list[Array], fps: float = 20) -> Path:
    height, width = images[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, macro_block_size=2, quality=None, output_params=["-crf", "20"],
        ffmpeg_log_level="error",
    )  # fmt: skip
    writer.send(None)
    for image in images:
        writer.send(np.ascontiguousarray(image))
    writer.close()
    return path


# ---- files


def test_a_list_finds_its_files_and_says_what_is_missing_or_other(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, content in (("abc.mp4", b"1"), ("A walk [xyz].webm", b"2"), ("same.mov", b"1"), ("bad.mp4", b"3")):
        (videos / name).write_bytes(content)
    ids = tmp_path / "ids.jsonl"
    rows = [{"id": "abc", "licence": "CC0", "sha256": fingerprint(videos / "abc.mp4")}, {"id": "xyz", "url": "https://x/1"},
            {"id": "same"}, {"id": "gone"}, {"id": "bad", "sha256": "0" * 64}]  # fmt: skip
    ids.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = find_sources(videos, ids)
    assert [(video.id, video.path.name, video.row) for video in found.videos] == [
        ("abc", "abc.mp4", {"licence": "CC0"}),
        ("xyz", "A walk [xyz].webm", {"url": "https://x/1"}),
    ]
    assert (found.missing, found.wrong, found.copies) == (["gone"], ["bad"], {"same": "abc"})
    plain = tmp_path / "ids.txt"
    plain.write_text("# ours\nxyz\n")
    assert [video.id for video in find_sources(videos, plain).videos] == ["xyz"]
    assert len(find_sources(videos, None).videos) == 3  # and one copy


@pytest.mark.parametrize("text", ['{"id": 3}', '{"name": "a"}', '{"id": "a", "shell": "rm"}', "[]", "{"])
def test_malformed_lists_name_their_row(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    ids = tmp_path / "ids.jsonl"
    ids.write_text('{"id": "a"}\n' + text + "\n")
    with pytest.raises(FootfallError, match="row 2"):
        find_sources(tmp_path, ids)


# ---- shots, repeats


def test_a_cut_is_found_where_it_is(tmp_path: Path) -> None:
    # Pictures that slide by a pixel a frame, another one from 2 s on.
    images = [np.roll(landscape(0), k, 1) for k in range(40)] + [np.roll(landscape(1), k, 1) for k in range(50)]
    path = write_video(tmp_path / "v.mp4", images)
    stream = probe(path)
    assert (stream.seconds, stream.width, stream.height) == (pytest.approx(4.5), 320, 180)
    shots = find_shots(path, ShotsConfig(), stream.seconds)
    np.testing.assert_allclose(shots, [(0, 2.0), (2.0, 4.5)], atol=0.051)
    (tmp_path / "broken.mp4").write_bytes(path.read_bytes()[:300])
    with pytest.raises(FootfallError, match=r"broken\.mp4"):
        probe(tmp_path / "broken.mp4")


def test_repeats_survive_scaling_compression_and_excerpts() -> None:
    def again(image: Array) -> Image.Image:
        buffer = io.BytesIO()
        Image.fromarray(image).resize((200, 112)).save(buffer, "JPEG", quality=40)
        return Image.open(buffer)

    first = [landscape(k) for k in range(10)]
    bags = [
        [picture_hash(Image.fromarray(image)) for image in first],
        [picture_hash(Image.fromarray(landscape(100 + k))) for k in range(10)],
        [picture_hash(again(image)) for image in first[3:8]],  # an excerpt, smaller and compressed
        [picture_hash(Image.fromarray(image)) for image in (*first[:4], *map(landscape, range(200, 206)))],  # 4 of 10
        [""] * 5,  # a black screen is nobody's copy
    ]
    assert find_repeats(bags, DuplicatesConfig()) == [None, None, 0, None, None]
    assert picture_hash(Image.new("RGB", (64, 64), (9, 9, 9))) == ""


# ---- camera motion, segments


def test_motion_and_parallax_of_known_shifts() -> None:
    wide = np.asarray(Image.fromarray(landscape(5, 500, 260)).convert("L"))
    before = wide[20:220, 50:370]
    moved = background_motion(before, wide[20:220, 59:379], [])
    assert moved is not None
    assert moved[0] == pytest.approx(9, abs=0.3) and moved[1] < 0.3  # a shift is a homography
    layered = wide[20:220, 59:379].copy()
    layered[100:] = wide[120:220, 53:373]  # the lower half moves by 3 px only: two depths
    parallax = background_motion(before, layered, [])
    assert parallax is not None and parallax[1] > 1.0
    assert background_motion(np.full((100, 100), 7, np.uint8), np.full((100, 100), 7, np.uint8), []) is None


def shot(counts: list[int], *, motion: float = 0.05, parallax: float = 0.01, height: float = 0.5) -> Shot:
    """Looks twice a second with so many people each."""
    looks = [
        Look(time_s=0.5 * k, people=[[0.1, 0.2, 0.3, 0.2 + height]] * n, motion=motion, parallax=parallax)
        for k, n in enumerate(counts)
    ]
    return Shot(start_s=0.0, end_s=0.5 * len(counts), looks=looks)


def test_segments_are_where_people_are() -> None:
    # 3 s of nobody, 5 s of people with one look missed, 2 s of nobody.
    (segment,) = choose(shot([0] * 6 + [1, 2, 2, 0, 2, 2, 2, 1, 2, 2] + [0] * 4), SegmentsConfig())
    assert segment.kept and segment.camera == "travelling"
    assert (segment.start_s, segment.end_s, segment.people) == (3.0, 8.0, 2)
    parts = choose(shot([1] * 100), SegmentsConfig(max_s=20))
    np.testing.assert_allclose([(p.start_s, p.end_s) for p in parts], [(0, 16.667), (16.667, 33.333), (33.333, 50)])


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (shot([0] * 20), "no people"),
        (shot([1] * 4 + [0] * 16), "people for less than 3 s"),
        (shot([1] * 20, height=0.1), "no people"),
        (shot([9] * 20), "no people"),
        (shot([1] * 20, motion=0.001), "the camera stands still"),
    ],
)
def test_what_is_not_worth_labelling_says_why(made: Shot, verdict: str) -> None:
    assert [segment.verdict for segment in choose(made, SegmentsConfig())] == [verdict]


def test_still_cameras_are_kept_if_any_will_do() -> None:
    (segment,) = choose(shot([1] * 20, motion=0.001), SegmentsConfig(camera="any"))
    assert segment.kept and segment.camera == "still"
    (turning,) = choose(shot([1] * 20, parallax=0.001), SegmentsConfig())
    assert turning.camera == "turning"


# ---- costs


def test_costs_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without benchmarks/results
    cost = estimate(10, EstimateConfig(core_price=0.1, gpu_price=3.0, cores_per_gpu=8))
    assert cost.label_cost == pytest.approx(10 * LABEL_SECONDS / 3600 * 0.1)
    assert cost.survey_cost == pytest.approx(10 * SURVEY_SECONDS / 3600 * 0.1)
    row = tmp_path / "row.json"
    row.write_text(json.dumps({"name": "label", "totals": {"processor_seconds_per_video_hour": 7200}}))
    told = estimate(10, EstimateConfig(gpu_price=3.0, cores_per_gpu=8, label_row=str(row)))
    assert (told.label_hours, told.gpu_hours, told.gpu_cost) == (20, 2.5, 7.5)
    row.write_text("{}")
    with pytest.raises(FootfallError, match="processor_seconds_per_video_hour"):
        estimate(10, EstimateConfig(label_row=str(row)))


def test_the_benchmark_in_the_repository_is_read() -> None:
    seconds, basis = label_speed("")
    assert 1000 < seconds < 1e6 and (basis.startswith("benchmarks") or seconds == LABEL_SECONDS)


# ---- all of it


def test_videos_become_a_manifest_that_labelling_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for weight in HEAD_WEIGHTS:
            get_weights(weight)
    except FootfallError as error:
        pytest.skip(f"needs the detectors' weights: {error}")
    videos = tmp_path / "videos"
    videos.mkdir()
    clip = make_clip(ClipSpec(seed=4, frames=40, fps=10.0, supersample=1, camera="walk"))
    people = [picture.rgb for picture in render_clip(clip)]
    height, width = people[0].shape[:2]
    empty = [np.roll(landscape(3, width, height), k, 1) for k in range(20)]
    write_video(videos / "walk.mp4", [*people, *empty], fps=10)
    small = [np.asarray(Image.fromarray(image).resize((width // 2, height // 2 // 2 * 2))) for image in people]
    write_video(videos / "reupload.mp4", small, fps=10)
    shutil.copy(videos / "walk.mp4", videos / "zcopy.mp4")
    (videos / "broken.mp4").write_bytes(b"no video")
    settings = [f"videos={videos}", f"out={tmp_path / 'out'}", "licence=CC0-1.0", "segments.min_s=2"]
    recipe = load_recipe("web_video")
    assert recipe.main([*settings, "estimate_only=true"]) == 0
    assert not (tmp_path / "out").exists()
    assert recipe.main(settings) == 0
    (segment,) = read_inputs([tmp_path / "out" / "manifest.jsonl"])
    assert segment.id == "walk-0000" and segment.path == str((videos / "walk.mp4").resolve())
    assert segment.start_s < 0.6 and segment.end_s == pytest.approx(4.0, abs=0.6)
    assert (segment.licence, segment.people, segment.camera) == ("CC0-1.0", 1, "auto")
    report = (tmp_path / "out" / "report.html").read_text()
    assert "repeats walk" in report and "no people" in report and "broken" in report
    with Image.open(tmp_path / "out" / "contact_sheet.jpg") as image:
        assert image.size[0] > 320
    before = (tmp_path / "out" / "manifest.jsonl").read_text()
    monkeypatch.setattr(collecting, "survey_video", lambda *_: pytest.fail("surveyed again"))
    assert recipe.main(settings) == 0
    assert (tmp_path / "out" / "manifest.jsonl").read_text() == before


def test_settings_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("web_video")
    assert recipe.main(["out=x"]) == 2
    assert "videos=FOLDER" in capsys.readouterr().err
    assert recipe.main([f"videos={tmp_path / 'none'}"]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="moving or any"):
        CollectConfig(videos="x", segments=SegmentsConfig(camera="static"))
