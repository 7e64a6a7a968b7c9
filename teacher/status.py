"""What a labelling folder holds: clips by stage, seconds, decision and why. `footfall status` prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from distill.errors import FootfallError
from distill.files import read_json
from teacher.execution.tries import read_tries
from teacher.locks import is_held, read_owner
from teacher.workspace import ClipFolder

if TYPE_CHECKING:
    from rich.table import Table

STAGE_NAMES = (
    "frames", "people", "student", "cameras", "depth", "bodies", "contacts", "joint", "quality", "gaussians",
    "pictures",
)  # fmt: skip
DECISIONS: Final = ("accept", "weight", "reject", "failed", "set aside", "stale", "running", "unfinished")
SHOWN: Final = 200
"""Clips listed one by one; of a larger folder those that need a look come first and the rest is counted."""


@dataclass(kw_only=True)
class ClipStatus:
    """One row of the table."""

    id: str
    stages: dict[str, str]
    """Stage -> "done", "missing", "failed" or "" (not run)."""
    seconds: dict[str, float]
    """Stage -> seconds it took."""
    decision: str
    """One of `DECISIONS`. accept, weight, reject: quality's; failed: for a reason that lies in the clip; set aside: it
    cost its worker too often; stale: solved, but an earlier stage was made again since; running: a process holds it."""
    why: str
    """Reasons, joined."""
    tries: int
    """Times that it was begun, as far as something went wrong; 1 if nothing did, 0 if it was not begun."""


def read_status(out: Path) -> list[ClipStatus]:
    """Status of every clip of a labelling folder.

    Raises:
        FootfallError: not a labelling folder.
    """
    clips = out / "clips"
    if not clips.is_dir():
        raise FootfallError(
            f"folder {out}", got="no clips/ in it", expected="a folder made by footfall label", do="check the path"
        )
    return [clip_status(ClipFolder(root)) for root in sorted(clips.iterdir()) if (root / "clip.json").is_file()]


def clip_status(clip: ClipFolder) -> ClipStatus:
    """Status of one clip."""
    records = {stage: clip.record(stage) for stage in STAGE_NAMES}
    stages = {stage: record.status if record else "" for stage, record in records.items()}
    tries = read_tries(clip.root)
    failed = next((r for r in records.values() if r is not None and r.status == "failed"), None)
    decision, why = "unfinished", tries.lost[-1]["reason"] if tries.lost else ""
    if is_held(clip.root):
        decision, why = "running", str(clip.owner() or "")
    elif tries.verdict:
        decision, why = tries.verdict, tries.reason
    elif failed is not None:
        decision, why = "failed", f"{failed.stage}: {failed.reason}"
    elif stages["quality"] == "done" and not clip.is_current("quality"):
        decision, why = "stale", "an earlier stage was made again since; footfall label on the same folder goes on"
    elif stages["quality"] == "done":
        verdict = read_json(clip.stage_dir("quality") / "quality.json")
        decision, why = verdict["decision"], "; ".join(verdict["reasons"])
    seconds = {stage: record.seconds for stage, record in records.items() if record is not None}
    begun = any(stages.values()) or bool(tries.lost)
    count = len(tries.lost) + (0 if tries.verdict == "set aside" else 1) if begun else 0
    return ClipStatus(id=clip.id, stages=stages, seconds=seconds, decision=decision, why=why, tries=count)


def print_status(rows: Sequence[ClipStatus], out: Path | None = None) -> None:
    """The tables, to standard output: clips, stages, decisions; and who works on the folder `out` now."""
    from rich.console import Console

    console = Console()
    listed = sorted(rows, key=lambda row: row.decision in ("accept", "weight", "reject")) if len(rows) > SHOWN else rows
    console.print(_clip_table(listed[:SHOWN], len(rows)))
    console.print("stages: " + ", ".join(STAGE_NAMES) + "   (+ done, o missing, x failed, . not run)")
    console.print(_stage_table(rows))
    counts = Counter(row.decision for row in rows)
    console.print(", ".join(f"{counts[name]} {name}" for name in DECISIONS if counts[name]) or "no clips")
    aside = [row.id for row in rows if row.decision in ("failed", "set aside")]
    if aside:
        console.print(f"{len(aside)} without a label: see clips/ID/log.txt and tries.json; --retry failed tries again")
    if out is not None and is_held(out):
        console.print(f"now at work: {read_owner(out) or 'a run'}")


def _clip_table(rows: Sequence[ClipStatus], total: int) -> Table:
    from rich.table import Table

    title = f"{total} clips" if len(rows) == total else f"{len(rows)} of {total} clips, those without a decision first"
    table = Table(title=title)
    for column in ("clip", "stages", "seconds", "tries", "decision", "why"):
        table.add_column(column, justify="right" if column in ("seconds", "tries") else "left", overflow="fold")
    marks = {"done": "+", "missing": "o", "failed": "x", "": "."}
    for row in rows:
        stages = "".join(marks[row.stages[stage]] for stage in STAGE_NAMES)
        table.add_row(row.id, stages, f"{sum(row.seconds.values()):.0f}", str(row.tries), row.decision, row.why)
    return table


def _stage_table(rows: Sequence[ClipStatus]) -> Table:
    from rich.table import Table

    table = Table(title="stages")
    for column in ("stage", "done", "missing", "failed", "not run", "seconds", "seconds per clip"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in STAGE_NAMES:
        counts = Counter(row.stages[stage] for row in rows)
        took = [row.seconds[stage] for row in rows if stage in row.seconds]
        cells = [str(counts[state]) for state in ("done", "missing", "failed", "")]
        table.add_row(stage, *cells, f"{sum(took):.0f}", f"{sum(took) / len(took):.1f}" if took else "")
    return table
