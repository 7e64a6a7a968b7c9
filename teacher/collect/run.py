"""Collecting from end to end; what has been surveyed is kept, so that a stopped run goes on."""

from __future__ import annotations

import json
import multiprocessing as mp
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from distill.config import config_hash
from distill.errors import FootfallError
from distill.files import read_json, write_json, write_text
from teacher.collect.config import CollectConfig
from teacher.collect.duplicates import find_repeats
from teacher.collect.estimate import estimate
from teacher.collect.report import Row, describe, describe_labelling, print_table, write_report
from teacher.collect.segments import Segment, choose
from teacher.collect.shots import probe
from teacher.collect.sources import Video, find_sources
from teacher.collect.survey import VideoSurvey, survey_video


@dataclass(kw_only=True)
class Collected:
    """What came of it."""

    manifest: Path | None
    """None with `estimate_only`, or where nothing is worth labelling."""
    rows: list[Row]
    """Every segment, kept or not."""
    failed: dict[str, str]
    """Video -> why it could not be read."""


def collect(config: CollectConfig) -> Collected:
    """Survey videos and write `manifest.jsonl`, `report.html` and `contact_sheet.jpg` into `config.out`.

    Raises:
        FootfallError: nothing to work on, or a list or setting is wrong; nothing was surveyed then.
    """
    if not config.videos:
        raise FootfallError("videos", got="nothing", expected="a folder of downloaded videos", do="say videos=FOLDER")
    out = Path(config.out)
    sources = find_sources(Path(config.videos), Path(config.ids) if config.ids else None)
    failed: dict[str, str] = {}
    seconds = {video.id: _seconds(video, failed) for video in sources.videos}
    lines = describe(estimate(sum(seconds.values()) / 3600, config.estimate), sources)
    print("\n".join(lines), flush=True)
    videos = [video for video in sources.videos if video.id not in failed]
    if config.estimate_only:
        return Collected(manifest=None, rows=[], failed=failed)
    surveys: list[tuple[Video, VideoSurvey]] = []
    for video, result in track(_survey_all(videos, out, config), "surveying", total=len(videos)):
        if isinstance(result, str):
            failed[video.id] = result
        else:
            surveys.append((video, result))
    rows = _rows(surveys, config)
    manifest = _write_manifest(out / "manifest.jsonl", rows, config)
    kept = [row.segment for row in rows if row.segment.kept]
    hours = sum(segment.end_s - segment.start_s for segment in kept) / 3600
    cost = describe_labelling(estimate(hours, config.estimate))
    lines.append(f"kept: {len(kept)} segments, {3600 * hours:.0f} s; labelling them: {cost}")
    print_table(rows)
    print(lines[-1])
    write_report(out, rows, lines, failed)
    return Collected(manifest=manifest, rows=rows, failed=failed)


def _seconds(video: Video, failed: dict[str, str]) -> float:
    try:
        return probe(video.path).seconds
    except FootfallError as error:
        failed[video.id] = str(error)
        return 0.0


def _survey_all(videos: list[Video], out: Path, config: CollectConfig) -> Iterator[tuple[Video, VideoSurvey | str]]:
    """Each video's survey, or why there is none."""
    jobs = [(video.path, out / "survey" / f"{video.id}.json", _key(video, config), config) for video in videos]
    if config.workers == 1 or len(videos) < 2:
        yield from zip(videos, map(_survey_one, jobs), strict=True)
        return
    context = mp.get_context("spawn")  # decoders do not survive a fork
    with ProcessPoolExecutor(min(config.workers, len(videos)), context) as pool:
        yield from zip(videos, pool.map(_survey_one, jobs), strict=True)


def _key(video: Video, config: CollectConfig) -> str:
    """Changes when the survey has to be made anew."""
    return f"{video.sha256} {config_hash(config.shots)} {config_hash(config.survey)}"


def _survey_one(job: tuple[Path, Path, str, CollectConfig]) -> VideoSurvey | str:
    path, stored, key, config = job
    if stored.is_file():
        before = read_json(stored)
        if before["key"] == key:
            return VideoSurvey.from_json(before["survey"])
    try:
        survey = survey_video(path, config)
    except FootfallError as error:
        return str(error)
    write_json(stored, {"key": key, "survey": survey.to_json()})
    return survey


def _rows(surveys: list[tuple[Video, VideoSurvey]], config: CollectConfig) -> list[Row]:
    """Every segment; repeats of shots of larger videos say of which."""
    shots = [(video, survey, shot) for video, survey in surveys for shot in survey.shots]
    order = sorted(
        range(len(shots)),
        key=lambda k: (-shots[k][1].size[0] * shots[k][1].size[1], shots[k][2].start_s - shots[k][2].end_s, k),
    )
    repeats = find_repeats([[look.hash for look in shots[k][2].looks] for k in order], config.duplicates)
    original = {k: order[r] for k, r in zip(order, repeats, strict=True) if r is not None}
    rows = []
    for k, (video, _, shot) in enumerate(shots):
        segments = choose(shot, config.segments)
        if k in original:
            other, _, first = shots[original[k]]
            why = f"repeats {other.id} at {first.start_s:.1f} s"
            segments = [Segment(start_s=shot.start_s, end_s=shot.end_s, verdict=why, people=segments[0].people)]
        rows += [Row(video=video, segment=segment) for segment in segments]
    return rows


def _write_manifest(path: Path, rows: list[Row], config: CollectConfig) -> Path | None:
    """One line per kept segment; None and no file if there is none."""
    lines: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for row in (row for row in rows if row.segment.kept):
        video, segment = row.video, row.segment
        line = {
            "id": f"{video.id}-{counts[video.id]:04d}", "path": str(video.path.resolve()), "sha256": video.sha256,
            "start_s": segment.start_s, "end_s": segment.end_s, "people": max(1, segment.people),
            "licence": config.licence, "source": config.source, "source_id": video.id,
        }  # fmt: skip
        if segment.camera == "still":
            line["camera"] = "static"
        lines.append({**line, **video.row})
        counts[video.id] += 1
    if not lines:
        path.unlink(missing_ok=True)
        return None
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path
