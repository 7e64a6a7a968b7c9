"""The same results as a recording for Rerun's viewer (`distill.convert.rrd` has the entities)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.convert.config import ConvertConfig
from distill.convert.rrd import Shown, write_recording
from distill.convert.source import Source
from distill.errors import FootfallError
from distill.viewer.clip import place_beside, short_names
from distill.viewer.config import ViewConfig
from distill.viewer.frames import Frames, find_video


def record(results: Sequence[Path], file: Path | None, config: ViewConfig) -> Path:
    """Write results into one recording, with the video's pictures where there is a video.

    Args:
        results: folders of results; further ones stand where their cameras agree with the first's, moved `apart`.
        file: to write, a former one is replaced; None: beside the first result, with its name.
        config: of it `video`, `body` and `apart` count.

    Returns:
        The file.

    Raises:
        FootfallError: no result, one that cannot be read, a missing video or body file, a name that does not end in
            .rrd, or rerun-sdk is not installed.
    """
    if not results:
        raise FootfallError("footfall view", got="no result", expected="one or more", do="name their folders")
    first = results[0].resolve()
    path = first.with_name(f"{first.name}.rrd") if file is None else file
    if path.suffix != ".rrd":
        raise FootfallError(f"--rerun {path}", got="another name", expected="a file that ends in .rrd", do="rename it")
    sources = [Source(folder, ConvertConfig(body=config.body)) for folder in results]
    shown = []
    for number, (name, source) in enumerate(zip(short_names(list(results)), sources, strict=True)):
        page_from_world = place_beside(sources[0], source).copy()
        page_from_world[0, 3] += number * config.apart
        frames = Frames(find_video(config.video, source.folder), source.result.cameras.size)
        shown.append(Shown(name=name, source=source, page_from_world=page_from_world, picture=frames.at))
    write_recording(path, shown)
    return path
