"""Networks and bodies of PyTorch behind the arrays of `distill.runner.stream`; features stay tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.body import BodyModel
from distill.fuser import FEET
from distill.models.backbones import Tokens
from distill.models.prediction import PairPrediction, Prompts
from distill.runner.network import PairQuestion
from distill.stream_types import Finder, Network

Array = NDArray[Any]
_GIVEN = [field.name for field in fields(PairPrediction) if field.name not in ("points_a", "conf_a")]


class TorchNetwork:
    """A student, or its graphs of any format; see `ArrayNetwork`. One that is no `Finder` needs to be given boxes."""

    def __init__(self, network: Network, size: tuple[int, int], *, compiled: bool = False) -> None:
        """`network` at images of (width, height); `compiled` by `torch.compile`, when each part is first called."""
        wrap: Callable[[Any], Any] = torch.compile if compiled else lambda function: function
        self.size, self.look_width = size, network.look_width
        self._encode, self._look, self._pair = wrap(network.encode), wrap(network.look), wrap(network.pair)
        self.finds_people = isinstance(network, Finder)
        self.has_points = isinstance(network, Finder) and network.has_points
        if isinstance(network, Finder):
            self._detect, self._identify = wrap(network.detect), wrap(network.identify)
            self._points = wrap(network.points)

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


class TorchBody:
    """A body model; see `Posed`."""

    def __init__(self, body: BodyModel) -> None:
        self.body = body

    @torch.inference_mode()
    def pose(self, betas: Array, body_rot: Array) -> tuple[Array, Array]:
        """See `Posed.pose`."""
        shape, rotations = (torch.from_numpy(values).float() for values in (betas, body_rot))
        here = torch.eye(4).expand(len(shape), 4, 4)
        feet = self.body.sites(shape, rotations, here)[:, :FEET]
        return self.body(shape, rotations, here).joints.numpy(), feet.numpy()
