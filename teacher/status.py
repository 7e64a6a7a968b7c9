"""What a labelling folder holds: clips by stage, seconds, decision and why. `footfall status` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.errors import FootfallError
from distill.files import read_json
from teacher.workspace import ClipFolder

STAGE_NAMES = (
    "frames", "people", "student", "cameras", "depth", "bodies", "contacts", "joint", "quality", "gaussians",
    "pictures",
)  # fmt: skip


@dataclass(kw_only=True)
class ClipStatus:
    """One row of the table."""

    id: str
    stages: dict[str, str]
    """Stage -> "done", "missing", "failed" or "" (not run)."""
    seconds: dict[str, float]
    """Stage -> seconds it took."""
    decision: str
    """"accept", "weight", "reject", "failed" or "unfinished"."""
    why: str
    """Reasons, joined."""


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
    decision, why = "unfinished", ""
    failed = next((r for r in records.values() if r is not None and r.status == "failed"), None)
    if failed is not None:
        decision, why = "failed", f"{failed.stage}: {failed.reason}"
    elif stages["quality"] == "done":
        verdict = read_json(clip.stage_dir("quality") / "quality.json")
        decision, why = verdict["decision"], "; ".join(verdict["reasons"])
    seconds = {stage: record.seconds for stage, record in records.items() if record is not None}
    return ClipStatus(id=clip.id, stages=stages, seconds=seconds, decision=decision, why=why)


def print_status(rows: list[ClipStatus]) -> None:
    """The table, to standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(rows)} clips")
    for column in ("clip", "stages", "seconds", "decision", "why"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    marks = {"done": "+", "missing": "o", "failed": "x", "": "."}
    for row in rows:
        stages = "".join(marks[row.stages[stage]] for stage in STAGE_NAMES)
        table.add_row(row.id, stages, f"{sum(row.seconds.values()):.0f}", row.decision, row.why)
    console = Console()
    console.print(table)
    console.print("stages: " + ", ".join(STAGE_NAMES) + "   (+ done, o missing, x failed, . not run)")
