"""What a stream of arrays asks of a network, and an exported folder as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError
from distill.files import read_json
from distill.runner.session import open_session

Array = NDArray[Any]
EXPORT_FORMAT: Final = "footfall-export/4"


@dataclass(kw_only=True)
class PairQuestion:
    """Prompts of G pairs of one frame, as `distill.models.prediction.Prompts`, float32 and bool."""

    K: Array
    """[G, 2, 3, 3]."""
    K_known: Array
    """[G]."""
    seconds: Array
    """[G]."""
    boxes: Array
    """[G, P, 2, 4]."""
    valid: Array
    """[G, P, 2]."""
    looks: Array
    """[G, P, 2, width]."""


class ArrayNetwork(Protocol):
    """A student that takes and gives arrays, for one frame at a time. Features are whatever `encode` returns."""

    size: tuple[int, int]
    """Width and height of the images that it takes."""
    look_width: int
    finds_people: bool
    """Whether there is `detect` and `identify`."""
    has_points: bool
    """Whether there is `points`."""

    def encode(self, image: Array) -> Any:
        """Image [3, H, W] float32 in [0, 1] -> features."""
        ...

    def detect(self, features: Any) -> tuple[Array, Array]:
        """Candidate people: logits [N] and boxes [N, 4]."""
        ...

    def identify(self, features: Any, boxes: Array) -> Array:
        """Who is in boxes [P, 4]: unit vectors [P, D]."""
        ...

    def look(self, image: Array, boxes: Array) -> Array:
        """A closer look at boxes [P, 4] of an image: [P, width]."""
        ...

    def pair(self, past: list[Any], now: Any, question: PairQuestion) -> dict[str, Array]:
        """The fields of `PairPrediction` for G earlier frames, each with the current one."""
        ...

    def points(self, now: Any, other: Any) -> tuple[Array, Array]:
        """Points [H, W, 3] of the current frame in its camera, unscaled, and their confidence [H, W]."""
        ...


class OnnxNetwork:
    """See `ArrayNetwork`."""

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        """Open the graphs of `footfall export --format onnx`; one call takes `threads` threads.

        Raises:
            FootfallError: incomplete, of another format, or no ONNX.
        """
        record = read_record(folder)
        self.size: tuple[int, int] = (record["size"][0], record["size"][1])
        self.look_width: int = record["look_width"]
        self.finds_people: bool = "detect" in record["graphs"]
        self.has_points: bool = "points" in record["graphs"]
        self.body_model: str = record["body_model"]
        self._pair_outputs: list[str] = record["pair_outputs"]
        self._graphs = {name: open_session(folder / f"{name}.onnx", threads=threads) for name in record["graphs"]}

    def encode(self, image: Array) -> Array:
        """Features [1, N, C] of an image."""
        return self._run("encoder", images=image[None])[0]

    def detect(self, features: Array) -> tuple[Array, Array]:
        """See `ArrayNetwork.detect`."""
        logit, boxes = self._run("detect", features=features)
        return logit.reshape(-1), boxes.reshape(-1, 4)

    def identify(self, features: Array, boxes: Array) -> Array:
        """See `ArrayNetwork.identify`."""
        return self._run("identify", features=features, boxes=boxes[None])[0][0]

    def look(self, image: Array, boxes: Array) -> Array:
        """See `ArrayNetwork.look`."""
        return self._run("look", images=image[None], boxes=boxes[None])[0][0]

    def pair(self, past: list[Array], now: Array, question: PairQuestion) -> dict[str, Array]:
        """See `ArrayNetwork.pair`."""
        a, b = np.concatenate(past), np.repeat(now, len(past), axis=0)
        found = self._run("pair", features_a=a, features_b=b, **vars(question))
        return dict(zip(self._pair_outputs, found, strict=True))

    def points(self, now: Array, other: Array) -> tuple[Array, Array]:
        """See `ArrayNetwork.points`."""
        points, confidence = self._run("points", features_a=now, features_b=other)
        return points[0], confidence[0]

    def _run(self, graph: str, **inputs: Array) -> list[Array]:
        return self._graphs[graph].run(None, inputs)


def read_record(folder: Path) -> dict[str, Any]:
    """`export.json` of a folder of ONNX graphs.

    Raises:
        FootfallError: missing, of another format, or of other graphs than ONNX.
    """
    record = read_json(folder / "export.json")
    found = (record.get("format"), record.get("file_format")) if isinstance(record, dict) else None
    if found != (EXPORT_FORMAT, "onnx"):
        raise FootfallError(
            str(folder / "export.json"), got=found, expected=f"{EXPORT_FORMAT} with onnx graphs",
            do="run: footfall export CHECKPOINT --format onnx",
        )  # fmt: skip
    return record
