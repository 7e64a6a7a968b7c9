"""A clip's folder: one sub-folder per stage, and a record that says whether the stage still holds.

    clips/ID/
        clip.json            where the clip comes from
        STAGE/...            files of the stage (`stagefiles`)
        STAGE/record.json    written last: {stage, status, implementation, config_hash, commit, inputs,
                             weights, licence, outputs, seconds, summary}
        tries.json           what went wrong so far, if anything did (`teacher.execution.tries`)
        log.txt              what libraries and internal errors printed while the clip was worked on
        lock, lock.owner.json    held while a process works on the clip (`teacher.locks`)

A stage is skipped only if its record matches: same implementation and config, same inputs, and its own
files unchanged. An optional stage that could not run is recorded as "missing" with the reason.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from distill.errors import FootfallError
from distill.files import read_json, sha256_of, write_json
from distill.provenance import code_commit
from distill.secrets import scrub
from teacher import locks

CAMERA_HINTS: Final = ("auto", "static", "moving", "known")
"""What a manifest may say of a camera."""


@dataclass(kw_only=True)
class ClipSource:
    """Where a clip comes from; the licence chain of every label begins here."""

    id: str
    path: str
    """Video file."""
    sha256: str
    licence: str = "unknown"
    source: str = "local"
    """Who or what the video was got from (a URL, a collection's name)."""
    source_id: str = ""
    """Who may withdraw: the recording, person or channel as its collection names it; empty is this video alone."""
    consent: str = ""
    """Notes on the consent of the people filmed, as the manifest gives them."""
    start_s: float = 0.0
    end_s: float | None = None
    """The clip is [start_s, end_s) of the file; None is the end of the file."""
    fps: float | None = None
    """Overrides the container's timestamps if given."""
    intrinsics: dict[str, Any] | None = None
    """Known lens, pixels of the source video: fx, fy, cx, cy, optional distortion [k1, k2, p1, p2]."""
    world_from_cam: list[Any] | None = None
    """Known camera pose(s): one 4x4 for a fixed camera, or one per frame, metres."""
    camera: str = "auto"
    """What is known of the camera: one of `CAMERA_HINTS` (`teacher.hints`)."""
    people: int | None = None
    """How many people are to be labelled, if that is known."""


def decoded_part(source: ClipSource) -> ClipSource:
    """What decides the frames of a clip. Licence, notes and hints do not: they may change without decoding anew."""
    return replace(source, licence="", source="", source_id="", consent="", camera=CAMERA_HINTS[0], people=None)


@dataclass(kw_only=True)
class StageRecord:
    """What a stage did; see the module's docstring."""

    stage: str
    status: Literal["done", "missing", "failed"]
    implementation: str
    config_hash: str
    inputs: dict[str, str]
    """Stage name -> fingerprint of that stage's record."""
    outputs: dict[str, str] = field(default_factory=dict)
    """File (relative to the stage's folder) -> SHA-256."""
    commit: str = ""
    weights: dict[str, Any] = field(default_factory=dict)
    """Weights used: id -> {sha256, licence}."""
    licence: str = ""
    """Licence of the implementation."""
    seconds: float = 0.0
    reason: str = ""
    """Why it is missing or failed."""
    summary: dict[str, Any] = field(default_factory=dict)
    """JSON-able numbers for tables."""

    def fingerprint(self) -> str:
        """Changes exactly when the stage's files or their making changed."""
        import hashlib

        made = {k: v for k, v in asdict(self).items() if k not in ("seconds", "commit", "summary")}
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


class ClipFolder:
    """One clip's workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def id(self) -> str:
        """The clip's name."""
        return self.root.name

    def stage_dir(self, stage: str) -> Path:
        """Folder of a stage."""
        return self.root / stage

    @property
    def source(self) -> ClipSource:
        """`clip.json`."""
        return ClipSource(**read_json(self.root / "clip.json"))

    def write_source(self, source: ClipSource) -> None:
        """Write `clip.json`."""
        write_json(self.root / "clip.json", asdict(source))

    def record(self, stage: str) -> StageRecord | None:
        """The stage's record, or None if it never ended (or a power cut left a record that is none)."""
        path = self.stage_dir(stage) / "record.json"
        if not path.is_file():
            return None
        try:
            return StageRecord(**read_json(path))
        except (FootfallError, TypeError):
            return None

    def require(self, stage: str) -> Path:
        """Folder of a stage that is done.

        Raises:
            FootfallError: it is not.
        """
        record = self.record(stage)
        if record is None or record.status != "done":
            raise FootfallError(
                f"clip {self.id}: stage {stage}", got=record.status if record else "not run",
                expected="done", do="run footfall label on the same folder again",
            )  # fmt: skip
        return self.stage_dir(stage)

    def is_done(self, stage: str) -> bool:
        """Whether the stage is recorded as done (not "missing", not "failed")."""
        record = self.record(stage)
        return record is not None and record.status == "done"

    def is_current(self, stage: str) -> bool:
        """Whether a stage is done and every stage that it read is still the one that it read.

        False between a change of an early stage and the new run of a later one: such a label is stale.
        """
        record = self.record(stage)
        if record is None or record.status == "failed":
            return False
        for name, digest in record.inputs.items():
            read = self.record(name)
            if read is None or read.fingerprint() != digest or not (read.status == "missing" or self.is_current(name)):
                return False
        return record.status == "done"

    def inputs_of(self, needs: tuple[str, ...]) -> dict[str, str]:
        """Fingerprints of the records of the stages that a stage reads."""
        records = {stage: self.record(stage) for stage in needs}
        return {stage: record.fingerprint() for stage, record in records.items() if record is not None}

    def holds(self, stage: str, *, implementation: str, config_hash: str, needs: tuple[str, ...]) -> bool:
        """Whether the stage's record matches, so that it need not run again."""
        record = self.record(stage)
        if record is None or record.status == "failed":
            return False
        same = (record.implementation, record.config_hash, record.inputs) == (
            implementation, config_hash, self.inputs_of(needs),
        )  # fmt: skip
        folder = self.stage_dir(stage)
        return same and all(
            (folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in record.outputs.items()
        )

    def begin(self, stage: str) -> float:
        """Empty the stage's folder (its record first, so that a crash leaves no false claim)."""
        folder = self.stage_dir(stage)
        (folder / "record.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return time.perf_counter()

    def finish(self, record: StageRecord) -> None:
        """Hash the stage's files and write its record, last."""
        folder = self.stage_dir(record.stage)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "record.json")
        record.outputs = {str(p.relative_to(folder)): sha256_of(p) for p in files}
        record.commit = code_commit()
        write_json(folder / "record.json", asdict(record))

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Yield True while this process alone holds the clip, False if another one does; never stale (`locks`)."""
        with locks.hold(self.root) as mine:
            if mine:
                self._sweep()
            yield mine

    def owner(self) -> locks.Owner | None:
        """Who holds the clip, or held it last and died."""
        return locks.read_owner(self.root)

    def log(self, text: str) -> None:
        """Append to the clip's log, if the disk still takes it."""
        with contextlib.suppress(OSError), (self.root / "log.txt").open("a", encoding="utf-8") as handle:
            handle.write(scrub(text.rstrip()) + "\n")

    def _sweep(self) -> None:
        """Remove temporary files of a writer that was killed (those of stages go with the stage's folder)."""
        for name in ("clip", "shots"):
            for stale in self.root.glob(f".{name}-*.json"):
                stale.unlink(missing_ok=True)
