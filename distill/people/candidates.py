"""Of all that a detection head offers, the people of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.people.token_tracker import overlaps

Array = NDArray[Any]


def best_candidates(
    logit: Array, boxes: Array, *, threshold: float = 0.4, overlap: float = 0.5, most: int = 16
) -> tuple[Array, Array]:  # fmt: skip
    """Boxes [N, 4] and scores [N] in [0, 1] of at most `most` people of one frame, best first.

    A candidate that overlaps a better one by more than `overlap` is the same person.

    Args:
        logit: [K] log odds that there is somebody.
        boxes: [K, 4] corners, pixels.
        threshold: least score, exclusive.
        overlap: intersection over union.
        most: people.
    """
    scores = 1 / (1 + np.exp(-logit))
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if len(kept) == most or scores[index] <= threshold:
            break
        if not kept or (overlaps(boxes[index : index + 1], boxes[kept]) <= overlap).all():
            kept.append(int(index))
    return boxes[kept], scores[kept]
