"""Settings of MASt3R-SfM as a choice of the cameras slot."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Mast3rSfmConfig:
    """Keyframes, network and alignment."""

    backbone: str = "mast3r"
    """Registered backbone, folder, or repository on the Hub; it must predict points and descriptors."""
    revision: str = ""
    """Commit, tag or branch on the Hub; empty takes the pinned one."""
    keyframe_step: int = 5
    """Frames between keyframes."""
    max_keyframes: int = 40
    """At most this many; they are then further apart."""
    window: int = 10
    """Each keyframe is paired with this many after it."""
    tree: str = "ward"
    """ward (clusters of images that match) or matches (the spanning tree with the most matches)."""
    steps: list[int] = field(default_factory=lambda: [300, 300])
    """Steps of the two stages of the alignment."""
    least_confidence: float = 1e-3
    """Matches of less confidence are dropped; people's pixels have none."""
    max_error_px: float = 3.0
    """Points that fall further from where they were seen are dropped, pixels of the network's image."""

    def __post_init__(self) -> None:
        if self.keyframe_step < 1 or self.max_keyframes < 3 or self.window < 1:
            raise ValueError("mast3r: keyframe_step and window of at least 1 and max_keyframes >= 3 are expected")
        if self.tree not in ("ward", "matches") or len(self.steps) != 2:
            raise ValueError("mast3r: tree of ward or matches, and two numbers of steps, are expected")
