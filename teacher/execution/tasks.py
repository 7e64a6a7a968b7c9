"""The unit of work and its outcome: plain JSON between driver and workers, wherever they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Lane = Literal["cpu", "gpu"]
"""Which kind of worker suits a task."""
Progress = Callable[[str, float, str], None]
"""Called with a clip's name, the fraction done and a short text."""


@dataclass(kw_only=True, frozen=True)
class Task:
    """Prepare one source (`source` given), or run some stages of one clip."""

    name: str
    """The clip's id."""
    out: str
    """The labelling folder, absolute."""
    stages: tuple[str, ...] = ()
    source: dict[str, Any] | None = None
    """A `ClipSource` whose shots are to be found and written as clips."""
    lane: Lane = "cpu"

    @property
    def root(self) -> Path:
        """The clip's folder."""
        return Path(self.out) / "clips" / self.name

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Task:
        """Read `to_json`."""
        values = json.loads(line)
        return cls(**{**values, "stages": tuple(values["stages"])})


@dataclass(kw_only=True)
class Ended:
    """What became of a task."""

    task: Task
    kind: Literal["done", "failed", "fault", "busy", "storage"]
    """done; failed: the reason lies in the clip, trying again is no use; fault: a worker vanished, was stopped at a
    limit or met an internal error; busy: another process holds the clip; storage: nothing can be written."""
    reason: str = ""
    clips: list[str] = field(default_factory=list)
    """Ids of the clips that a source was cut into."""
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Ended:
        """Read `to_json`."""
        values = json.loads(line)
        return cls(**{**values, "task": Task.from_json(json.dumps(values["task"]))})


class Executor(Protocol):
    """One way to run tasks. The scheduler gives it only what it has room for."""

    has_gpu: bool
    """Whether it has workers with a GPU; without, every stage runs on the "cpu" lane."""

    def room(self, lane: Lane) -> int:
        """How many more tasks may be submitted now."""

    def submit(self, task: Task) -> None:
        """Start a task, or queue it where it runs."""

    def wait(self) -> list[Ended]:
        """Wait shortly (up to about a second); tasks that ended since the last call."""

    def close(self) -> None:
        """Stop everything, also what still runs."""
