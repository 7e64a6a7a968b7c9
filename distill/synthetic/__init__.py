"""Synthetic worlds: people on planted feet, a moving camera and a textured scene, all exactly known.

spec = ClipSpec(seed=1, people=2, camera="walk")
clip = make_clip(spec)          # truth, scene; no pixels
write_clip(folder, spec)        # video, truth, depth, masks, keypoints
"""

from __future__ import annotations

from distill.synthetic.spec import ClipSpec
from distill.synthetic.world import SyntheticClip, make_clip

__all__ = ["ClipSpec", "SyntheticClip", "make_clip"]
