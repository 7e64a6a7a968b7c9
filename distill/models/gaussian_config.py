"""Size of the student's Gaussian head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class GaussianConfig:
    """The Gaussian head: one Gaussian per cell of pixels for the scene, a few per vertex of the body for people."""

    stride: int = 2
    """One Gaussian of the scene for each stride x stride pixels of the network's image; must divide its patch."""
    scene_width: int = 32
    """Channels of the scene's part."""
    drop_share: float = 0.05
    """Share of an image's cells, the least confident ones, that become no Gaussians."""
    anchors: int = 0
    """Vertices of the body that Gaussians hang on, evenly spread; 0 takes all."""
    per_anchor: int = 3
    """Gaussians per vertex: the first stays within 3 cm of it, the others within 15 cm."""
    human_width: int = 256
    """Channels of the people's part."""

    def __post_init__(self) -> None:
        if min(self.stride, self.scene_width, self.per_anchor, self.human_width) < 1 or self.anchors < 0:
            raise ValueError(
                "gaussians: stride, widths and per_anchor of 1 or more and anchors of 0 or more are expected"
            )
        if not 0 <= self.drop_share < 1:
            raise ValueError(f"gaussians: drop_share is {self.drop_share}, expected 0 or more and below 1")
