"""Rendering of 3D Gaussians: see docs/render.md."""

from distill.render.gaussians import Gaussians
from distill.render.rendering import Rendering, render

__all__ = ["Gaussians", "Rendering", "render"]
