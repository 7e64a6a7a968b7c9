"""Settings of `footfall view`."""

from __future__ import annotations

from dataclasses import dataclass

from distill.errors import FootfallError


@dataclass(kw_only=True)
class ViewConfig:
    """`footfall view`."""

    host: str = "127.0.0.1"
    """Address that the page is served on; the default is reached from this machine only, or through ssh -L."""
    port: int = 8080
    """Port; where it is taken the next free one, which is printed."""
    video: str = ""
    """Video whose frames the camera shows; empty takes what lies beside each result: video.mp4, or the video
    of a labelled clip."""
    body: str = ""
    """smpl:FILE or smplx:FILE, needed when a result's bodies are of that licensed model."""
    apart: float = 0.0
    """Metres between results that stand side by side; 0 lays them over one another. Can be moved in the page."""
    points: int = 200_000
    """Points and Gaussians per result that are sent to the browser at most, drawn evenly from all."""
    contact_threshold: float = 0.5
    """Probability from which a contact site is marked."""

    def __post_init__(self) -> None:
        checks = (
            ("port", self.port, 0 < self.port < 65536, "1 to 65535"),
            ("apart", self.apart, 0 <= self.apart <= 100, "0 to 100 metres"),
            ("points", self.points, self.points >= 1, "1 or more"),
            ("contact_threshold", self.contact_threshold, 0 < self.contact_threshold <= 1, "above 0, at most 1"),
        )
        for name, got, good, expected in checks:
            if not good:
                raise FootfallError(name, got=got, expected=expected, do="see docs/configuration.md")
