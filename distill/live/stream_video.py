"""A stream as a generator: a video, a camera or a URL in, one typed result per frame out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator
from pathlib import Path

from distill.body import BodyModel, load_body_model
from distill.live.opening import open_source
from distill.live.pipeline import overlapped
from distill.live.shrink import Shrink
from distill.live.source import Source
from distill.live.stages import Passing, Stages
from distill.people.tracker import PeopleTracker
from distill.stream import FrameResult, Network, Stream, StreamConfig


def stream_video(
    network: Network, video: str | Path | Source, config: StreamConfig | None = None, *, settled: bool = False,
    long_side: int = 640, image_fps: float = 30.0, tracker: PeopleTracker | None = None, body: BodyModel | None = None,
) -> Generator[FrameResult]:  # fmt: skip
    """Results of a video's frames, in order, while later frames are already worked on.

    Leaving the loop early ends threads and source. Of a live source the newest frame is taken and older ones that
    nobody had time for are dropped: `FrameResult.timestamp` tells.

    Args:
        network: a student, or exported graphs.
        video: file, folder of numbered images, camera ("0"), URL, or an object with `Source`'s members.
        config: None takes the defaults.
        settled: each frame `config.fuser.lag` frames later, as improved by those; else as known at once.
        long_side: frames are reduced to this longer side, pixels; the results' `K` is of the reduced frames.
        image_fps: frame rate of a folder of images.
        tracker: finds people; None lets the network do so.
        body: body model of the network's parameters; None takes the free one.

    Yields:
        `FrameResult`: metres, radians, seconds; the world is the first camera (x right, y down, z forward).

    Raises:
        FootfallError: nothing there that can be read.
    """
    source = open_source(str(video), image_fps=image_fps) if isinstance(video, str | Path) else video
    settings = config or StreamConfig()
    pictures = source.frames()
    with contextlib.closing(source):
        first = next(pictures, None)
        if first is None:
            return
        shrink = Shrink((first.image.shape[1], first.image.shape[0]), long_side, settings)
        shape = body or load_body_model("anny")
        stream = Stream(network, shrink.size, settings, K=shrink.K, K_known=settings.knows_lens, body=shape)
        stages = Stages(stream, shrink, tracker, shape, scene_every=0, gaussians=None, log=None)
        depth = 1 if source.live else 2
        passing = overlapped(itertools.chain([first], pictures), stages.all(), depth=depth, newest=source.live)
        with contextlib.closing(passing):
            for frame in passing:
                yield from frame.settled if settled else _at_once(frame)
        if settled:
            yield from stream.finish()


def _at_once(frame: Passing) -> list[FrameResult]:
    return [] if frame.result is None else [frame.result]
