"""A student of PyTorch, or its graphs of any format, behind the arrays of `distill.runner.stream`: for comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.models.backbones import Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.runner.network import PairQuestion
from distill.stream_types import Finder

Array = NDArray[Any]
_GIVEN = [field.name for field in fields(PairPrediction) if field.name not in ("points_a", "conf_a")]


class TorchNetwork:
    """See `ArrayNetwork`."""

    def __init__(self, student: Finder, size: tuple[int, int], *, compiled: bool = False) -> None:
        """`student` at images of (width, height); `compiled` by `torch.compile`, when each part is first called."""
        wrap: Callable[[Any], Any] = torch.compile if compiled else lambda function: function
        self.size, self.look_width, self.has_points = size, student.look_width, student.has_points
        self._encode, self._detect, self._identify = (
            wrap(part) for part in (student.encode, student.detect, student.identify)
        )
        self._look, self._pair, self._points = (wrap(part) for part in (student.look, student.pair, student.points))

    @torch.inference_mode()
    def encode(self, image: Array) -> Tokens:
        """See `ArrayNetwork.encode`."""
        return replace(self._encode(torch.from_numpy(image)[None]), images=None)

    @torch.inference_mode()
    def detect(self, features: Tokens) -> tuple[Array, Array]:
        """See `ArrayNetwork.detect`."""
        found = self._detect(features)
        return found.logit.numpy().reshape(-1), found.boxes.numpy().reshape(-1, 4)

    @torch.inference_mode()
    def identify(self, features: Tokens, boxes: Array) -> Array:
        """See `ArrayNetwork.identify`."""
        return self._identify(features, torch.from_numpy(boxes)[None])[0].numpy()

    @torch.inference_mode()
    def look(self, image: Array, boxes: Array) -> Array:
        """See `ArrayNetwork.look`."""
        return self._look(torch.from_numpy(image)[None], torch.from_numpy(boxes)[None])[0].numpy()

    @torch.inference_mode()
    def pair(self, past: list[Tokens], now: Tokens, question: PairQuestion) -> dict[str, Array]:
        """See `ArrayNetwork.pair`."""
        a = replace(now, features=torch.cat([tokens.features for tokens in past]))
        b = replace(now, features=now.features.expand(len(past), -1, -1))
        people = Prompts(**{name: torch.from_numpy(np.array(value)) for name, value in vars(question).items()})
        found = self._pair(a, b, people)
        return {name: getattr(found, name).numpy() for name in _GIVEN}

    @torch.inference_mode()
    def points(self, now: Tokens, other: Tokens) -> tuple[Array, Array]:
        """See `ArrayNetwork.points`."""
        points, confidence = self._points(now, other)
        return points[0].numpy(), confidence[0].numpy()
