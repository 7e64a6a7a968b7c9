"""Frames as clients send them: small enough before anything is decoded."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from distill.errors import FootfallError
from teacher.serve.config import ServeConfig

KINDS: Final = ("JPEG", "PNG")
SMALLEST: Final = 32
"""Pixels of a side."""


def decode_frame(data: bytes, config: ServeConfig) -> NDArray[Any]:
    """A JPEG or PNG of bounded size, upright: [H, W, 3] uint8 RGB.

    Raises:
        FootfallError: anything else.
    """
    if len(data) > config.max_frame_mb * 1e6:
        raise _bad(f"{len(data) / 1e6:.1f} MB", f"at most {config.max_frame_mb:g} MB")
    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as image:
            width, height = image.size
            if width * height > config.max_pixels or min(width, height) < SMALLEST:
                raise _bad(f"{width}x{height}", f"sides of {SMALLEST} or more, at most {config.max_pixels} pixels")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FootfallError:
        raise
    except Image.DecompressionBombError as error:
        raise _bad("far too many pixels", f"at most {config.max_pixels}") from error
    except Exception as error:  # decoders of images raise whatever they like
        raise _bad("bytes that are no picture", "a JPEG or PNG") from error


def _bad(got: str, expected: str) -> FootfallError:
    return FootfallError("frame", got=got, expected=expected, do="send another picture")
