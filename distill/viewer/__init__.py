"""Results in the browser: `open_viewer([RESULT, ...])` serves a page with a time slider and layers."""

from distill.viewer.config import ViewConfig
from distill.viewer.page import Viewer, open_viewer

__all__ = ["ViewConfig", "Viewer", "open_viewer"]
