"""Body models behind one protocol: `load_body_model("anny")`, `"smpl:FILE"`, `"smplx:FILE"`."""

from distill.body.model import BodyModel, BodyPoints
from distill.body.reader import load_body_model

__all__ = ["BodyModel", "BodyPoints", "load_body_model"]
