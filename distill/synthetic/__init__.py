"""Synthetic worlds: people on planted feet, a moving camera and a textured scene, all exactly known.

spec = ClipSpec(seed=1, people=2, camera="walk")
clip = make_clip(spec)    # truth and scene, no pixels: 0.02 s
write_clip(folder, spec)  # video, truth, depth, masks, keypoints
"""

from __future__ import annotations

from distill.synthetic.clips import is_complete, make_stage, render_clip, write_clip, write_collection
from distill.synthetic.collections import collection
from distill.synthetic.spec import ClipSpec
from distill.synthetic.world import SyntheticClip, make_clip

__all__ = [
    "ClipSpec",
    "SyntheticClip",
    "collection",
    "is_complete",
    "make_clip",
    "make_stage",
    "render_clip",
    "write_clip",
    "write_collection",
]
