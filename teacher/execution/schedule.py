"""Keeping an executor busy: sources become clips, clips become tasks, lost tries are tried again.

Only as many clips are open at once as there is room for, so a collection of any length takes the memory of a few
clips. Which task runs where is left to the executor (for a cluster: to Ray).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from teacher.execution.tasks import Ended, Executor, Lane, Task
from teacher.execution.tries import Tries, forgive, note, read_tries
from teacher.progress import Progress
from teacher.storage import storage_error
from teacher.workspace import ClipFolder, ClipSource

BUSY_S: Final = 90.0
"""A clip that another process holds is asked for again for this long: an owner that was killed is soon gone."""
AGAIN_S: Final = 2.0
"""Seconds between two such questions."""
LANES: Final[tuple[Lane, ...]] = ("gpu", "cpu")


@dataclass(kw_only=True)
class Rules:
    """What the pipeline decides for the scheduler."""

    parts: list[tuple[tuple[str, ...], Lane]]
    """The stages of every clip, cut where the kind of worker changes."""
    cap: int
    """Tries of a clip."""
    config: str
    """Hash of what decides a clip's outcome; a verdict under another one is void."""
    keeps: Callable[[Tries], bool]
    """Whether an older verdict stands, so that the clip is left alone."""


@dataclass(kw_only=True)
class Labelled:
    """What a schedule did."""

    clips: list[str] = field(default_factory=list)
    """Clips in the order of their sources."""
    failed: dict[str, str] = field(default_factory=dict)
    """Clip -> the reason why it has no label."""
    kept: list[str] = field(default_factory=list)
    """Clips among `failed` that were left alone because of an older verdict."""


class Schedule:
    """One run over a collection."""

    def __init__(self, executor: Executor, rules: Rules, progress: Progress) -> None:
        self.executor, self.rules, self.progress = executor, rules, progress
        self.ready: dict[Lane, deque[Task]] = {"gpu": deque(), "cpu": deque()}
        self.later: list[tuple[float, Task]] = []
        """Tasks of clips that another process held, and when to ask again."""
        self.first_busy: dict[str, float] = {}
        self.running = 0
        self.done = Labelled()
        self._order: dict[str, tuple[int, int]] = {}
        self._opened = 0

    def run(self, sources: Iterator[Task]) -> Labelled:
        """Work through the sources.

        Raises:
            FootfallError: nothing can be written any more, or no worker can be started.
        """
        exhausted = False
        while True:
            exhausted = self._fill(sources, exhausted)
            if self.running:
                for ended in self.executor.wait():
                    self.running -= 1
                    self._take(ended)
            elif self.later:
                time.sleep(0.2)
            elif exhausted and not any(self.ready.values()):
                break
        self.done.clips.sort(key=lambda clip: self._order[clip])
        return self.done

    def _fill(self, sources: Iterator[Task], exhausted: bool) -> bool:
        """Submit what there is room for, opening sources only when nothing else is ready; True at their end."""
        now = time.monotonic()
        for due, task in [entry for entry in self.later if entry[0] <= now]:
            self.later.remove((due, task))
            self.ready[task.lane].append(task)
        for lane in LANES:
            while self.executor.room(lane) > 0:
                if lane == "cpu" and not self.ready["cpu"] and not exhausted and not self._held_up():
                    source = next(sources, None)
                    exhausted = source is None
                    if source is not None:
                        self._open(source)
                    continue
                if not self.ready[lane]:
                    break
                self.executor.submit(self.ready[lane].popleft())
                self.running += 1
        return exhausted

    def _open(self, source: Task) -> None:
        self._order[source.name] = (self._opened, 0)
        self._opened += 1
        if not self._left_alone(source):
            self.ready["cpu"].append(source)

    def _held_up(self) -> bool:
        """Whether enough clips wait for a GPU, so that no more should be decoded for it."""
        return len(self.ready["gpu"]) > 2 * (self.executor.room("cpu") + self.running)

    def _left_alone(self, task: Task) -> bool:
        """Whether an older verdict on the clip stands; it is counted then."""
        tries = read_tries(task.root)
        if not self.rules.keeps(tries):
            return False
        self.done.clips.append(task.name)
        self.done.failed[task.name] = tries.reason
        self.done.kept.append(task.name)
        self.progress.update(task.name, 1.0, tries.verdict)
        return True

    def _take(self, ended: Ended) -> None:
        """Draw the consequences of a task's end."""
        task = ended.task
        if ended.kind == "storage":
            raise storage_error(task.root.parent.parent, ended.reason)
        if ended.kind == "busy":
            self._ask_again(ended)
        elif ended.kind == "done" and task.source is not None:
            self._open_clips(task, ended.clips)
        elif ended.kind == "done":
            self._go_on(task)
        else:
            self._lost(ended)

    def _open_clips(self, source: Task, clips: list[str]) -> None:
        self.progress.total += len(clips) - 1
        stages, lane = self.rules.parts[0]
        for number, clip in enumerate(clips):
            self._order[clip] = (self._order[source.name][0], number)
            task = replace(source, name=clip, source=None, stages=stages, lane=lane)
            if clip == source.name or not self._left_alone(task):
                self.ready[lane].append(task)

    def _go_on(self, task: Task) -> None:
        """The next part of a clip, or its end."""
        number = next(k for k, (stages, _) in enumerate(self.rules.parts) if stages == task.stages) + 1
        if number < len(self.rules.parts):
            stages, lane = self.rules.parts[number]
            self.ready[lane].append(replace(task, stages=stages, lane=lane))
        else:
            self._end(task, "")

    def _lost(self, ended: Ended) -> None:
        """A try was lost or the clip failed: again at the end of the queue, or never."""
        task = ended.task
        if task.source is not None and not (task.root / "clip.json").is_file():
            ClipFolder(task.root).write_source(ClipSource(**task.source))  # so that `footfall status` lists it
        tries = note(task.root, ended, cap=self.rules.cap, config=self.rules.config)
        if tries.verdict:
            self._end(task, tries.reason)
            return
        self.progress.message(f"clip {task.name}, try {len(tries.lost)} of {self.rules.cap}: {ended.reason}")
        self.ready[task.lane].append(task)

    def _ask_again(self, ended: Ended) -> None:
        now = time.monotonic()
        if now - self.first_busy.setdefault(ended.task.name, now) > BUSY_S:
            self._end(ended.task, ended.reason)
        else:
            self.later.append((now + AGAIN_S, ended.task))

    def _end(self, task: Task, reason: str) -> None:
        self.done.clips.append(task.name)
        self.progress.update(task.name, 1.0, "failed" if reason else "done")
        if reason:
            self.done.failed[task.name] = reason
            self.progress.message(f"clip {task.name} failed: {reason}")
        elif read_tries(task.root).verdict:  # of another config, or before it was asked to be tried again
            forgive(task.root)
