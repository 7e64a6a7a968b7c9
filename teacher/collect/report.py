"""The survey for human eyes: a table, and a page with one picture per shot, heads blurred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from distill.files import atomic_path
from distill.people.heads import HeadsConfig, blur_faces
from distill.pictures.overlay import sheet
from distill.pictures.page import Page
from distill.video import Decoder
from teacher.collect.estimate import Estimate
from teacher.collect.segments import Segment
from teacher.collect.sources import Sources, Video

TILE: Final = (320, 200)
"""Width and height of a picture of the sheet, with its caption, pixels."""
MOST_TILES: Final = 60
GREEN: Final = (52, 168, 83)
RED: Final = (200, 60, 60)
HEADER: Final = ("video", "from s", "to s", "people", "camera", "motion %/s", "verdict")


@dataclass(kw_only=True)
class Row:
    """A segment of a video."""

    video: Video
    segment: Segment

    def cells(self) -> tuple[str, ...]:
        """As `HEADER`."""
        s = self.segment
        motion = "" if s.motion is None else f"{100 * s.motion:.1f}"
        return (self.video.id, f"{s.start_s:.1f}", f"{s.end_s:.1f}", str(s.people), s.camera, motion, s.verdict)


def print_table(rows: Sequence[Row]) -> None:
    """What became of every shot."""
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*row.cells(), style=None if row.segment.kept else "dim")
    Console().print(table)


def describe(cost: Estimate, sources: Sources) -> list[str]:
    """What there is and what it will cost, a line each."""
    lines = [
        f"{len(sources.videos)} videos, {cost.video_hours:.2f} hours",
        f"survey: about {cost.survey_hours:.2f} core hours, {cost.survey_cost:.2f}",
        f"labelling, if all of it were kept: {describe_labelling(cost)} (speed: {cost.basis})",
    ]
    if sources.copies:
        lines.append(f"exact copies left out: {', '.join(f'{a} of {b}' for a, b in sources.copies.items())}")
    if sources.missing:
        lines.append(f"not downloaded: {', '.join(sources.missing[:20])} ({len(sources.missing)})")
    if sources.wrong:
        lines.append(f"with another hash than listed, left out: {', '.join(sources.wrong[:20])} ({len(sources.wrong)})")
    return lines


def describe_labelling(cost: Estimate) -> str:
    """Hours and money, on cores and on GPUs."""
    return (
        f"about {cost.label_hours:.2f} core hours, {cost.label_cost:.2f}; "
        f"or {cost.gpu_hours:.2f} GPU hours, {cost.gpu_cost:.2f}"
    )


def write_report(out: Path, rows: Sequence[Row], lines: Sequence[str], failed: dict[str, str]) -> None:
    """Write `contact_sheet.jpg` and `report.html`."""
    page = Page("Videos surveyed")
    for line in lines:
        page.text(line)
    shown = [row for row in rows if row.segment.kept] + [row for row in rows if not row.segment.kept]
    tiles = [_tile(row) for row in shown[:MOST_TILES]]
    if tiles:
        with atomic_path(out / "contact_sheet.jpg") as temporary:
            sheet(tiles, columns=4).save(temporary, quality=88)
        caption = f"{len(tiles)} of {len(rows)} segments, kept ones first (green); heads are blurred"
        page.picture(out / "contact_sheet.jpg", caption, base=out)
    page.table(HEADER, [row.cells() for row in rows])
    if failed:
        page.table(("video that could not be read", "why"), list(failed.items()))
    page.write(out / "report.html")


def _tile(row: Row) -> Image.Image:
    """The middle frame of a segment, captioned."""
    canvas = Image.new("RGB", TILE, GREEN if row.segment.kept else RED)
    decoder = Decoder(row.video.path, fps=None)
    middle = (row.segment.start_s + row.segment.end_s) / 2
    index = int(np.clip(np.searchsorted(decoder.timestamps, middle), 0, len(decoder) - 1))
    frame = next(iter(decoder.frames(range(index, index + 1))))[1]
    if frame is not None:
        image = Image.fromarray(frame)
        image.thumbnail((640, 640))
        (clear,) = blur_faces([np.asarray(image)], HeadsConfig())
        image = Image.fromarray(clear)
        image.thumbnail((TILE[0] - 8, TILE[1] - 28))
        canvas.paste(image, ((TILE[0] - image.width) // 2, 4))
    video, start, end, people, camera, _, verdict = row.cells()
    text = f"{video[:24]} {start}-{end} s, {people} p., {camera}\n{verdict[:52]}"
    ImageDraw.Draw(canvas).multiline_text((4, TILE[1] - 24), text, fill=(255, 255, 255), spacing=0)
    return canvas
