"""What went wrong with a clip so far: `clips/ID/tries.json`, written by the driver when something did.

A clip with a verdict is left alone by later runs, until `--retry failed` or another config for its stages.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill.errors import FootfallError
from distill.files import read_json, write_json
from teacher.execution.tasks import Ended

Verdict = Literal["", "failed", "set aside"]


@dataclass(kw_only=True)
class Tries:
    """`tries.json`."""

    verdict: Verdict = ""
    """failed: for a reason that lies in the clip; set aside: it cost its workers too often; "": neither (yet)."""
    reason: str = ""
    """Of the verdict."""
    config: str = ""
    """`work_hash` under which the verdict was given."""
    lost: list[dict[str, Any]] = field(default_factory=list)
    """Tries that were lost: {at, seconds, reason}."""


def read_tries(root: Path) -> Tries:
    """The clip's record of tries; an empty one if nothing ever went wrong."""
    path = root / "tries.json"
    try:
        return Tries(**read_json(path)) if path.is_file() else Tries()
    except (FootfallError, TypeError):
        return Tries()


def note(root: Path, ended: Ended, *, cap: int, config: str) -> Tries:
    """Write down a try that was lost ("fault") or a clip that failed; the verdict follows from the cap."""
    tries = read_tries(root)
    if tries.verdict:  # an older one, of another config or asked to be tried again
        tries = Tries()
    if ended.kind == "fault":
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        tries.lost.append({"at": now, "seconds": round(ended.seconds, 1), "reason": ended.reason})
    if ended.kind == "failed" or len(tries.lost) >= cap:
        tries.verdict = "failed" if ended.kind == "failed" else "set aside"
        tries.reason, tries.config = ended.reason, config
        if tries.verdict == "set aside":
            tries.reason = f"set aside after {len(tries.lost)} tries, the last of which ended so: {ended.reason}"
    write_json(root / "tries.json", asdict(tries))
    return tries


def forgive(root: Path) -> None:
    """Forget what went wrong, so that the clip is tried as if for the first time."""
    (root / "tries.json").unlink(missing_ok=True)
