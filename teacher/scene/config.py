"""Settings of the photometric stage: what is drawn, how long each phase takes, and what holds the geometry in place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

PHASES = ("warm_up", "separate", "joint")


@dataclass(kw_only=True)
class PhotoWeights:
    """Weight of each term (`terms` defines them, `objective` multiplies and adds). 0 leaves a term out."""

    l1: float = 1.0
    """Absolute difference of colours."""
    ssim: float = 0.2
    """1 - structural similarity."""
    lpips: float = 0.1
    """Perceptual distance, where its weights are present; the stage's summary says whether they were."""
    silhouette: float = 0.3
    """Person channel against mask; in the joint phase lowered by what stands in front."""
    depth_2d: float = 0.1
    """Expected depth of the scene against the prior, natural logarithm."""
    depth_3d: float = 0.5
    """Visible centres of people against points of the prior, metres; moves the root alone."""
    offsets: float = 50.0
    """Squared offsets of a person's Gaussians from the skin, square metres."""
    far_offsets: float = 10.0
    """Offsets beyond `terms.FREE_OFFSET_M`, metres."""
    laplacian: float = 0.05
    """Differences of offset (as part of 1 cm) and of colour between neighbours on the skin."""
    skinning: float = 10.0
    """Squared change of the skinning weights."""
    anisotropy: float = 0.01
    """Gaussians longer than `terms.LONGEST` times their width, and larger than their neighbours' distance."""
    dynamics: float = 0.02
    """Squared weights of the last layer of the field in time."""
    smooth: float = 0.05
    """Accelerations of joints and of their turns, each over its usual size."""
    camera_smooth: float = 0.001
    """The same of the camera."""
    contact: float = 0.01
    """Touching sites: they stand still, and stay at the height that the geometric stage gave them."""
    keypoints: float = 0.02
    """Reprojection of the keypoints, over 2 % of the person's height in the image."""
    prior: float = 0.01
    """Squared corrections of cameras and bodies, over the uncertainty of the geometric stage."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ValueError(f"gaussians.weights.{name}: got {value}, expected 0 or more")


@dataclass(kw_only=True)
class PhotoRates:
    """Step of Adam for each kind of unknown at the start of a phase, in the unknown's own unit.

    Those of cameras and bodies are for the polish: alignment makes the large moves.
    """

    camera_rot: float = 0.0001
    """Radians, about a point at the scene's middle depth."""
    camera_pos: float = 0.0003
    """Metres."""
    root_rot: float = 0.0005
    """Radians."""
    root_pos: float = 0.0003
    """Metres."""
    pose: float = 0.0005
    """Radians."""
    scene_means: float = 0.002
    """Times the scene's middle depth, metres; a tenth of it at the end of a phase."""
    person_offsets: float = 0.0005
    """Metres; a tenth of it while poses move freely (separate phase)."""
    log_scales: float = 0.01
    """Natural logarithm."""
    quats: float = 0.005
    """Quaternion's entries."""
    opacities: float = 0.05
    """Logit."""
    colors: float = 0.02
    """Of the colour, 0 to 1."""
    skinning: float = 0.001
    """Weight, 0 to 1."""
    field: float = 0.002
    """Weights of the field in time."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"gaussians.rates.{name}: got {value}, expected more than 0")


@dataclass(kw_only=True)
class PriorConfig:
    """How far the geometric result may be off (standard deviations of the corrections), and avatars with it."""

    camera_rot_deg: float = 0.3
    """Rotation of a camera, degrees."""
    camera_pos_m: float = 0.02
    """Place of its centre, metres."""
    root_rot_deg: float = 5.0
    """Orientation of a body, degrees."""
    root_pos_m: float = 0.03
    """Pelvis across the line of sight, metres."""
    root_depth_m: float = 0.08
    """Pelvis along it, metres."""
    pose_deg: float = 8.0
    """Rotation of a joint, degrees."""
    arm_deg: float = 30.0
    """The same of shoulders and elbows: keypoints hardly show how far an arm swings along the line of sight."""
    alike: float = 0.08
    """Side of a patch in which an avatar's errors are alike, part of the picture's longer side; less where the shape of
    the body is known well."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"gaussians.prior.{name}: got {value}, expected more than 0")


@dataclass(kw_only=True)
class GateConfig:
    """Where the geometric result is kept instead: changes for the worse that are still taken."""

    psnr_gain_db: float = 0.0
    """Least gain in PSNR on frames that the Gaussians were not fitted to: of whole frames, and of people in them."""
    reprojection: float = 1.03
    """Most growth of the reprojection errors of keypoints and background, as a factor."""
    detector: float = 0.02
    """Usual error of the keypoints themselves, part of the person's height in the image (`motion.KEYPOINT_SHARE`): up
    to this distance from them a body may go to fit its picture."""
    foot_sliding: float = 1.05
    """Most growth of the sliding of touching feet, as a factor."""
    jitter: float = 1.05
    """Most growth of the joints' jitter, as a factor."""

    def __post_init__(self) -> None:
        for name in ("reprojection", "foot_sliding", "jitter"):
            if getattr(self, name) < 1:
                raise ValueError(f"gaussians.gate.{name}: got {getattr(self, name)}, expected 1 or more")


@dataclass(kw_only=True)
class GaussiansConfig:
    """The photometric stage of one clip."""

    enabled: Literal["never", "auto", "always"] = "never"
    """never: it costs minutes a clip; auto: where there is a CUDA device; always: also without, at the small sizes
    below if none are given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    body_file: str = ""
    """Licensed file of the body model, needed if the bodies are not of the free one."""
    lpips_folder: str = ""
    """Folder with the weights of LPIPS (docs/metrics.md); empty: the term is left out, and the summary says so."""
    long_side: int = 0
    """Longer side of the images that are compared, pixels; 0: 960 on CUDA, 360 on CPU."""
    frames: int = 0
    """Most frames that are optimised, even over the clip (corrections between them are interpolated); 0: all. With half
    the frames the jitter between them stays."""
    scene_count: int = 0
    """Most Gaussians of the scene; 0: 200 000 on CUDA, 3 000 on CPU."""
    person_count: int = 0
    """Gaussians of a person; 0: 13 000 on CUDA, 1 500 on CPU."""
    visits: list[int] = field(default_factory=list)
    """How often each frame is drawn in warm-up, separate and joint phase; none: [6, 40, 24] on CUDA, [1, 2, 1] on
    CPU."""
    levels: list[int] = field(default_factory=lambda: [4, 2])
    """Factors by which images are made smaller in warm-up and separate phase, coarse to fine; the joint phase takes
    the last."""
    align_steps: int = 6
    """Most Gauss-Newton steps of cameras and of bodies on pictures, all frames at once (`chain`), at each level before
    the warm-up and again before the joint phase; 0: none."""
    held_out_every: int = 5
    """Every n-th frame (2, 2 + n, ...) never reaches the Gaussians: PSNR there decides. 0: none."""
    densify: float = 0.0
    """Share of the scene's Gaussians that may be split after the warm-up and within the joint phase."""
    weights: PhotoWeights = field(default_factory=PhotoWeights)
    """Weight of each term."""
    rates: PhotoRates = field(default_factory=PhotoRates)
    """Step of each kind of unknown."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """Uncertainty of what is refined."""
    gate: GateConfig = field(default_factory=GateConfig)
    """When the geometric result is kept."""
    save_every: int = 50
    """Steps between two savings of the state, from which a killed run goes on."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        checks = {
            "long_side": (self.long_side, self.long_side == 0 or self.long_side >= 64, "0, or 64 or more"),
            "frames": (self.frames, self.frames == 0 or self.frames >= 3, "0, or 3 or more"),
            "scene_count": (self.scene_count, self.scene_count == 0 or self.scene_count >= 16, "0, or 16 or more"),
            "person_count": (self.person_count, self.person_count == 0 or self.person_count >= 50, "0, or 50 or more"),
            "visits": (
                self.visits, not self.visits or (len(self.visits) == 3 and min(self.visits) >= 0),
                "three numbers, 0 or more, or none",
            ),
            "align_steps": (self.align_steps, self.align_steps >= 0, "0 or more"),
            "levels": (self.levels, bool(self.levels) and min(self.levels) >= 1, "factors of 1 or more"),
            "held_out_every": (
                self.held_out_every, self.held_out_every == 0 or self.held_out_every >= 3, "0, or 3 or more"
            ),
            "densify": (self.densify, 0 <= self.densify <= 1, "0 to 1"),
            "save_every": (self.save_every, self.save_every >= 1, "at least 1"),
        }  # fmt: skip
        for name, (got, good, expected) in checks.items():
            if not good:
                raise ValueError(f"gaussians.{name}: got {got}, expected {expected}")
