"""Whole batches from windows, read by other processes; what is wrong with the data arrives as what it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
import torch.utils.data

from distill.data import Window, collate
from distill.errors import FootfallError

_ERROR: Final = "error"


class Batches(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Collated batches, each of windows of one size; what is left at the end and fills no batch is dropped."""

    def __init__(self, windows: Iterable[Window], batch_size: int) -> None:
        super().__init__()
        self.windows, self.batch_size = windows, batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        held: defaultdict[tuple[int, ...], list[Window]] = defaultdict(list)
        try:
            for window in self.windows:
                size = tuple(window["images"].shape[-2:])  # clips may be upright or wide
                held[size].append(window)
                if len(held[size]) == self.batch_size:
                    yield collate(held.pop(size))
        except FootfallError as error:  # a DataLoader would turn it into a RuntimeError with a traceback for a message
            yield {
                _ERROR: {
                    "what": error.what, "got": str(error.got), "expected": str(error.expected), "do": error.do,
                }
            }  # fmt: skip


def load_batches(
    windows: Iterable[Window], *, batch_size: int, workers: int, pin_memory: bool = False
) -> Iterator[dict[str, Any]]:
    """Batches of one epoch, read by `workers` processes (0: by this one).

    Raises:
        FootfallError: the data cannot be used at all; damaged samples are left out.
    """
    loader = torch.utils.data.DataLoader(
        Batches(windows, batch_size), batch_size=None, collate_fn=_as_it_is, num_workers=workers, pin_memory=pin_memory,
        generator=torch.Generator(),  # a loader would otherwise draw from the state that a resume restores
    )  # fmt: skip
    for batch in loader:
        if _ERROR in batch:
            raise FootfallError(**batch[_ERROR])
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch
