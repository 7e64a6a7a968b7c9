"""Depth Anything 3 (arXiv 2511.10647) behind the backbone protocol: the permissively licensed pointmap backbone."""

from distill.models.da3.config import Da3Config
from distill.models.da3.files import load_da3
from distill.models.da3.model import Da3

__all__ = ["Da3", "Da3Config", "load_da3"]
