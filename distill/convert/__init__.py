"""Results in the formats of other programs: `convert(RESULT, ["glb", "bvh"], OUT)`."""

from distill.convert.config import ConvertConfig
from distill.convert.registry import FORMATS, convert

__all__ = ["FORMATS", "ConvertConfig", "convert"]
