"""Settings of collecting: which videos, what is worth labelling, and at which prices."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.people.tracker import TrackerConfig


@dataclass(kw_only=True)
class ShotsConfig:
    """Cutting at shots, by PySceneDetect's adaptive detector."""

    threshold: float = 3.0
    """A cut changes the picture this many times as much as its neighbours do."""
    least_change: float = 15.0
    """Least change of hue, saturation and lightness at a cut, mean of 0 to 255."""
    min_s: float = 1.0
    """Shorter shots are joined to their neighbours, seconds."""

    def __post_init__(self) -> None:
        if self.threshold <= 0 or self.least_change <= 0 or self.min_s <= 0:
            raise ValueError("shots: threshold, least_change and min_s above 0 are expected")


@dataclass(kw_only=True)
class SurveyConfig:
    """Looking at a shot, a few times a second."""

    fps: float = 2.0
    """Frames looked at, per second."""
    long_side: int = 640
    """Their longer side, pixels."""
    tracker: TrackerConfig = field(default_factory=lambda: TrackerConfig(search_every=1))
    """Finding people."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.fps <= 30 or self.long_side < 64:
            raise ValueError("survey: fps in [0.1, 30] and long_side of 64 or more are expected")


@dataclass(kw_only=True)
class DuplicatesConfig:
    """What counts as the same shot again."""

    bits: int = 8
    """Perceptual hashes (64 bits) that differ in at most this many are of the same picture."""
    share: float = 0.7
    """A shot is a repeat if this share of its pictures is in an earlier one."""

    def __post_init__(self) -> None:
        if not 0 <= self.bits < 32 or not 0 < self.share <= 1:
            raise ValueError("duplicates: bits in [0, 32) and share in (0, 1] are expected")


@dataclass(kw_only=True)
class SegmentsConfig:
    """What is worth labelling."""

    camera: str = "moving"
    """"moving" leaves out cameras that stand still; "any" keeps them, with the hint camera=static."""
    min_s: float = 3.0
    """Shortest segment, seconds."""
    max_s: float = 20.0
    """Longer ones are cut into equal parts."""
    min_height: float = 0.2
    """Least height of the tallest person, as a share of the picture's."""
    max_people: int = 8
    """Frames with more people count as crowds, and as nobody."""
    still: float = 0.015
    """A camera stands still if the background moves less than this share of the longer side per second."""
    parallax: float = 0.004
    """It travels if a homography leaves more than this share per second; else it turns."""

    def __post_init__(self) -> None:
        if self.camera not in ("moving", "any") or not 0 < self.min_s <= self.max_s:
            raise ValueError("segments: camera=moving or any, and 0 < min_s <= max_s, are expected")
        if not 0 < self.min_height < 1 or self.max_people < 1 or self.still <= 0 or self.parallax <= 0:
            raise ValueError("segments: min_height in (0, 1), max_people, still and parallax above 0 are expected")


@dataclass(kw_only=True)
class EstimateConfig:
    """What time costs."""

    core_price: float = 0.04
    """Of an hour of one core, in any currency."""
    gpu_price: float = 2.0
    """Of an hour of a GPU with its cores, in the same currency."""
    cores_per_gpu: int = 16
    """Cores that are rented with a GPU."""
    label_row: str = ""
    """Result file of `footfall bench label`; empty: that in benchmarks/results, else docs/benchmark.md's number."""

    def __post_init__(self) -> None:
        if min(self.core_price, self.gpu_price) < 0 or self.cores_per_gpu < 1:
            raise ValueError("estimate: prices of 0 or more and cores_per_gpu of at least 1 are expected")


@dataclass(kw_only=True)
class CollectConfig:
    """`datasets/web_video/prepare_web_video.py`."""

    videos: str = ""
    """Folder of the downloaded videos, which has to be named; folders of numbered images in it count too."""
    ids: str = ""
    """List of videos: .txt (an id a line), or .csv or .jsonl with columns id, url, sha256, licence, source, source_id,
    consent. Empty: everything in `videos`."""
    out: str = "data/web_video"
    """Folder for the manifest, the report and what has been surveyed so far."""
    licence: str = "unknown"
    """Of videos whose row says none."""
    source: str = "local"
    """Of videos whose row says none."""
    workers: int = 1
    """Videos surveyed at the same time, each in its own process."""
    estimate_only: bool = False
    """Stop after saying what there is and what it will cost."""
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    survey: SurveyConfig = field(default_factory=SurveyConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    estimate: EstimateConfig = field(default_factory=EstimateConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers: got {self.workers}, expected at least 1")
