"""One client's stream: pictures in, plain numbers out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, Final

from numpy.typing import NDArray
from torch import Tensor

from distill.body import BodyModel
from distill.errors import FootfallError
from distill.live.shrink import Shrink
from distill.people.tracker import PeopleTracker
from distill.stream import FrameResult, Network, Stream
from teacher.serve.config import ServeConfig

DIGITS: Final = 5
SETTINGS: Final = ("timestamp", "focal_px", "camera")
MAX_TEXT: Final = 1000
"""Characters of a message of settings."""


class Session:
    """A stream that begins with the first frame."""

    def __init__(self, network: Network, body: BodyModel, config: ServeConfig, *, landmarks: bool) -> None:
        """`landmarks`: people are found by the landmark tracker and not by the network."""
        self.network, self.body, self.config = network, body, config
        self._stream_config = config.stream
        self._tracker = PeopleTracker() if landmarks else None
        self._stream: Stream | None = None
        self._shrink: Shrink | None = None
        self._timestamp: float | None = None

    def tell(self, text: str) -> None:
        """A message of settings: `timestamp` of the next frame (s); before the first, `focal_px` and `camera`.

        Raises:
            FootfallError: not such a message.
        """
        values = _read_settings(text)
        if "timestamp" in values:
            self._timestamp = float(values.pop("timestamp"))
        if not values:
            return
        if self._stream is not None:
            raise _bad(sorted(values), "timestamp alone, once frames have come")
        try:
            self._stream_config = replace(self._stream_config, **values)
        except ValueError as error:
            raise _bad(str(error), "settings as in docs/stream.md") from error

    def step(self, image: NDArray[Any], arrived: float) -> dict[str, Any]:
        """The next frame: [H, W, 3] uint8, which came `arrived` seconds after the first.

        Raises:
            FootfallError: of another shape than the first one.
        """
        if self._shrink is None or self._stream is None:
            self._shrink = Shrink((image.shape[1], image.shape[0]), self.config.long_side, self._stream_config)
            self._stream = Stream(
                self.network, self._shrink.size, self._stream_config, K=self._shrink.K, body=self.body,
                K_known=self._stream_config.knows_lens,
            )  # fmt: skip
        if not self._shrink.fits(image):
            raise _bad(f"{image.shape[1]}x{image.shape[0]}", "the shape of the first frame")
        small = self._shrink(image)
        timestamp, self._timestamp = arrived if self._timestamp is None else self._timestamp, None
        frame = self._stream.encode(small, timestamp)
        boxes = None
        if self._tracker is not None:
            if frame.broken:
                self._tracker.interrupt()
            boxes = {person.id: person.pose.box_xyxy for person in self._tracker.step(small)}
        return as_numbers(self._stream.fuse(self._stream.predict(frame, boxes)), self._stream.K)


def as_numbers(frame: FrameResult, K: Tensor) -> dict[str, Any]:
    """A frame for JSON: metres, seconds, radians; matrices as rows (docs/stream.md lists the fields)."""
    return {
        "index": frame.index, "timestamp": frame.timestamp, "K": _rounded(K),
        "world_from_cam": _rounded(frame.world_from_cam), "camera_sigma": _rounded(frame.camera_sigma),
        "static_prob": round(frame.static_prob, DIGITS), "log_scale": round(frame.log_scale, DIGITS),
        "broken": frame.broken,
        "people": [
            {
                "id": person.id, "cam_from_body": _rounded(person.cam_from_body),
                "joints_cam": _rounded(person.joints_cam), "body_rot": _rounded(person.body_rot),
                "betas": _rounded(person.betas), "contact_prob": _rounded(person.contact_prob),
                "depth_sigma": round(person.depth_sigma, DIGITS), "root_sigma": _rounded(person.root_sigma),
            }
            for person in frame.people
        ],
    }  # fmt: skip


def _rounded(values: Tensor) -> Any:
    return values.double().numpy().round(DIGITS).tolist()


def _read_settings(text: str) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise _bad(f"{len(text)} characters", f"at most {MAX_TEXT}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad("no JSON", "an object of settings") from error
    if not isinstance(values, dict) or not values or not set(values) <= set(SETTINGS):
        raise _bad("another message", f"an object with any of {', '.join(SETTINGS)}")
    for name in ("timestamp", "focal_px"):
        value = values.get(name, 0)
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
        if not good or not math.isfinite(value):
            raise _bad(f"{name} that is no number", "seconds or pixels")
    return values


def _bad(got: object, expected: str) -> FootfallError:
    return FootfallError("message", got=got, expected=expected, do="see docs/stream.md")
