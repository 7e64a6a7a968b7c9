"""Reading files that somebody else made: sizes are known before memory is taken, and nothing in them is run.

Arrays in .npz and .npy state their shape in a header, before the numbers; numpy takes memory for that shape first and
finds out afterwards that the numbers are missing. So the header is read alone, and believed only if the file holds as
much. JSON and YAML can nest so deep, and YAML refer to itself so often, that a small file becomes a large object.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_ARRAY_BYTES: Final = 8 << 30
"""No file of arrays unpacks to more than this; a larger one is refused before memory is taken."""
MAX_JSON_BYTES: Final = 256 << 20
"""A JSON file is refused above this size, before it is read."""
MAX_YAML_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 100
"""Containers inside one another."""
MAX_PIXELS: Final = 100_000_000
"""A picture is refused above this size (16k is 133 million), which its header tells before anything is decoded."""
MAX_PICTURE_BYTES: Final = 512 << 20
"""The same for its file."""
_INTERPOLATION: Final = re.compile(r"\$\{")


def parse_json(text: str | bytes) -> Any:
    """JSON, or `ValueError`: also where it nests too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("containers nested too deep") from error


def read_json_file(path: Path) -> Any:
    """A JSON file, or `ValueError`, `OSError`."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{size} bytes, more than {MAX_JSON_BYTES}")
    return parse_json(path.read_text(encoding="utf-8"))


def read_npz(source: Path | IO[bytes], keys: tuple[str, ...] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz, without pickle.

    Args:
        source: file, or a stream that can be sought. keys: which to read, where they are there; None for all.

    Raises:
        ValueError: larger than `MAX_ARRAY_BYTES`, or a header that claims more than its member holds. Damaged bytes
            raise what zipfile, zlib and numpy please.
    """
    with zipfile.ZipFile(source) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = [info for name, info in members.items() if keys is None or name in keys]
        size = sum(info.file_size for info in chosen)
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"{size} bytes unpacked, more than {MAX_ARRAY_BYTES}")
        for info in chosen:
            with archive.open(info) as stream:
                check_header(stream, info.file_size)
    if not isinstance(source, Path):
        source.seek(0)
    with np.load(source, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files if keys is None or name in keys}


def read_npy(data: bytes) -> NDArray[Any]:
    """The array of an .npy, without pickle; raises as `read_npz`."""
    check_header(io.BytesIO(data), len(data))
    return np.load(io.BytesIO(data), allow_pickle=False)


def check_header(stream: IO[bytes], size: int) -> None:
    """Raise `ValueError` if the header of an .npy of `size` bytes claims more numbers than there are."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"a header of shape {shape} and type {dtype} in {size} bytes")


def open_picture(source: Path | IO[bytes]) -> Image.Image:
    """A JPEG or PNG whose header is read and whose pixels are not decoded yet; close it, or use it in `with`.

    Args:
        source: a file, or a stream in memory.

    Raises:
        ValueError: more than `MAX_PIXELS`, or no such picture.
        OSError: unreadable. Decoding a damaged one raises OSError, ValueError, SyntaxError or EOFError.
    """
    if isinstance(source, Path):  # Pillow asks a file for as many bytes as a chunk claims, which takes that memory
        if source.stat().st_size > MAX_PICTURE_BYTES:
            raise ValueError(f"a picture of more than {MAX_PICTURE_BYTES} bytes")
        source = io.BytesIO(source.read_bytes())
    try:
        image = Image.open(source, formats=("JPEG", "PNG"))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"a picture of {image.width} x {image.height} pixels")
    return image


def check_yaml(path: Path) -> None:
    """Refuse a YAML file that would become more than it looks.

    Aliases are refused (nine lines of them unfold to a billion entries), and so is `${...}`, by which OmegaConf would
    put environment variables, such as keys, into a config that is saved and published.

    Raises:
        ValueError: too large, too deep, or with aliases, interpolations or tags of objects.
        OSError, yaml.YAMLError, UnicodeDecodeError: unreadable.
    """
    import yaml  # not above: `distill.runner` reads no YAML and does without

    size = path.stat().st_size
    if size > MAX_YAML_BYTES:
        raise ValueError(f"{size} bytes, more than {MAX_YAML_BYTES}")
    text = path.read_text(encoding="utf-8")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"an alias (*{event.anchor})")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} containers inside one another")
    except RecursionError as error:
        raise ValueError("containers nested too deep") from error
    check_plain(text)


def check_plain(text: str) -> None:
    """Raise `ValueError` if a setting would be looked up elsewhere, in the environment for instance."""
    if _INTERPOLATION.search(text):
        raise ValueError("${...}, which would be looked up elsewhere; write the value itself")
