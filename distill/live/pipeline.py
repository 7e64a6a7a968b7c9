"""Work on several items at a time: each stage in a thread of its own, with short queues between.

Networks and codecs let other threads run while they compute, so that a frame is encoded while the one before is paired,
the one before that is fused, and the next one is decoded. Order is kept; at most `depth` items wait before each stage.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Stage = Callable[[Any], Any]
WAIT_S = 0.1
"""How often a thread that waits looks whether all is over."""


@dataclass
class _Failed:
    error: BaseException


_END = object()


class _Link:
    """A queue that gives up when all is over; with `newest` it holds one item and never lets the giver wait."""

    def __init__(self, depth: int, over: threading.Event, *, newest: bool = False) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(1 if newest else depth)
        self._over, self._newest = over, newest

    def put(self, item: Any) -> None:
        while not self._over.is_set():
            try:
                self._queue.put(item, timeout=0 if self._newest else WAIT_S)
                return
            except queue.Full:
                if self._newest and item is not _END and not isinstance(item, _Failed):
                    self._drop()
                elif self._newest:
                    self._over.wait(WAIT_S / 10)  # the last frame is still wanted before the end

    def _drop(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._queue.get_nowait()

    def get(self) -> Any:
        while not self._over.is_set():
            try:
                return self._queue.get(timeout=WAIT_S)
            except queue.Empty:
                continue
        return _END


def overlapped(
    items: Iterable[Any], stages: Sequence[Stage], *, depth: int = 2, newest: bool = False
) -> Generator[Any]:  # fmt: skip
    """Items after all stages, in order, while later ones are already on their way.

    Args:
        items: read by a thread of its own.
        stages: functions of one item; each is called for all items in order, by one thread.
        depth: items that may wait before a stage.
        newest: where the first stage is too slow, an item that waits is replaced by the next one: for live input.

    Raises:
        BaseException: what a stage, or `items`, raised; all other stages stop then.
    """
    over = threading.Event()
    links = [_Link(depth, over, newest=newest and k == 0) for k in range(len(stages) + 1)]
    threads = [threading.Thread(target=_feed, args=(items, links[0], over), name="frames", daemon=True)]
    for stage, before, after in zip(stages, links, links[1:], strict=False):
        name = getattr(stage, "__name__", "stage")
        threads.append(threading.Thread(target=_work, args=(stage, before, after), name=name, daemon=True))
    for thread in threads:
        thread.start()
    try:
        while (item := links[-1].get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        over.set()
        for thread in threads[1:]:
            thread.join()


def _feed(items: Iterable[Any], after: _Link, over: threading.Event) -> None:
    try:
        for item in items:
            if over.is_set():
                return
            after.put(item)
    except BaseException as error:  # it is raised where somebody can see it
        after.put(_Failed(error))
    after.put(_END)


def _work(stage: Stage, before: _Link, after: _Link) -> None:
    while (item := before.get()) is not _END:
        if not isinstance(item, _Failed):
            try:
                item = stage(item)
            except BaseException as error:
                item = _Failed(error)
        after.put(item)
        if isinstance(item, _Failed):
            break
    after.put(_END)
