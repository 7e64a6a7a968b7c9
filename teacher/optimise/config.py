"""Settings of the joint optimisation: weights of the terms, the two stages, and what ties the unknowns."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class TermWeights:
    """Weight of each term in the objective (`terms` defines them; `objective` multiplies and adds).

    JOSH's released weights are 1 for L_3D, L_2D and L_c1, 0.1 for L_c2 and for smoothness, 100 for L_p. Ours
    differ: keypoints hold the bodies, so L_p need not; and L_2D is strong, because thousands of background
    observations know more of the cameras than any human term, which would otherwise bend them.
    """

    scene_3d: float = 1.0
    """L_3D, stage 1."""
    scene_2d: float = 30.0
    """L_2D, stage 2; pixels of an image whose longer side is 512."""
    contact_align: float = 0.3
    """L_c1, both stages; 0 also takes depth away from the first estimate of the scale."""
    contact_still: float = 1.0
    """L_c2, both stages; 0 also takes stillness away from that estimate."""
    ground_plane: float = 1.0
    """Stance feet on one unknown plane; used instead of L_c1 where the scene has no depth."""
    ground_up: float = 0.1
    """That plane's normal against the people's own up direction."""
    penetration: float = 0.5
    """Contact sites behind the surface of the scene, or below the plane."""
    flat_feet: float = 0.2
    """Heel and toes of a standing foot equally high above the surface."""
    people_apart: float = 20.0
    """People through each other: most pairs of joints are apart, and the mean is over all of them."""
    prior_root_rot: float = 1.0
    """L_p, orientation of the root."""
    prior_root_pos: float = 0.02
    """L_p, position of the root."""
    prior_pose: float = 0.3
    """L_p, rotations of the joints."""
    prior_shape: float = 0.2
    """L_p, shape."""
    stature: float = 0.02
    """Stature against that of the population."""
    smooth: float = 1.15
    """Acceleration of the joints."""
    keypoints_2d: float = 10.0
    """L_2dkp, reprojection of the body's keypoints."""
    camera_smooth: float = 0.2
    """Acceleration of the camera."""
    scale_tie: float = 1.0
    """One scale for all frames, with slow drift."""
    scale_prior: float = 0.1
    """Scale that the initialiser calls metric."""
    focal_prior: float = 0.02
    """Focal length of the initialiser."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ValueError(f"optimise.weights.{name}: got {value}, expected 0 or more")


@dataclass(kw_only=True)
class LearningRates:
    """Adam's step for each kind of unknown at the start of stage 1, in the unknown's own unit."""

    log_focal: float = 0.02
    """Natural logarithm of the focal length."""
    camera_rot: float = 0.002
    """Radians."""
    camera_pos: float = 0.01
    """Metres."""
    log_scale: float = 0.02
    """Natural logarithm of the clip's scale."""
    log_drift: float = 0.001
    """Natural logarithm of a frame's scale relative to the clip's."""
    root_rot: float = 0.01
    """Radians."""
    root_ray: float = 0.003
    """Tangent of the angle from the optical axis."""
    root_depth: float = 0.01
    """Natural logarithm of the depth."""
    pose: float = 0.01
    """Radians."""
    betas: float = 0.05
    """Standard deviations."""
    plane: float = 0.01
    """Metres and radians."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"optimise.rates.{name}: got {value}, expected more than 0")


@dataclass(kw_only=True)
class LevenbergConfig:
    """The second-order solver."""

    stage1_steps: int = 2
    """Most iterations of stage 1."""
    stage2_steps: int = 10
    """Most iterations of stage 2."""
    damping: float = 1e-5
    """Marquardt's damping at the start of a stage, relative to the diagonal of the normal equations."""
    first_width: float = 0.1
    """Width over which robust functions are rounded at 0 in the first iteration, in each residual's own unit."""
    last_width: float = 0.003
    """The same at the end."""
    search_every: int = 2
    """Iterations between two searches for the scene partners of contacts."""
    tolerance: float = 3e-4
    """A stage ends when an iteration lowers the objective by less than this share."""

    def __post_init__(self) -> None:
        for name in ("stage1_steps", "stage2_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimise.levenberg.{name}: got {getattr(self, name)}, expected 0 or more")
        for name in ("damping", "first_width", "last_width", "search_every", "tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimise.levenberg.{name}: got {getattr(self, name)}, expected more than 0")


@dataclass(kw_only=True)
class WindowConfig:
    """Windows of long videos; the joint solve of all frames begins at what they say together."""

    longest: int = 1200
    """Frames up to which a clip is solved without windows."""
    length: int = 120
    """Frames of a window."""
    overlap: int = 30
    """Frames that neighbouring windows share, at least."""
    steps: int = 4
    """Most iterations of stage 2 in a window."""

    def __post_init__(self) -> None:
        if not 0 < self.overlap < self.length / 2 or self.length > self.longest or self.steps < 1:
            raise ValueError(
                f"optimise.windows: got length {self.length}, overlap {self.overlap}, longest {self.longest}, steps "
                f"{self.steps}, expected 0 < overlap < length / 2, length up to longest, and at least one step"
            )


@dataclass(kw_only=True)
class OptimiseConfig:
    """The joint optimisation of one clip."""

    solver: Literal["second_order", "adam"] = "second_order"
    """second_order: Levenberg-Marquardt with the block structure of the problem; adam: the reference."""
    levenberg: LevenbergConfig = field(default_factory=LevenbergConfig)
    """The second-order solver."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    """Long videos from moving cameras, by the second-order solver."""
    frozen: list[str] = field(default_factory=list)
    """Blocks of unknowns (`variables.BLOCKS`) that keep their initial values, for experiments."""
    device: str = "cpu"
    """Where the second-order solver works, as torch names devices: cpu, cuda, cuda:1."""
    threads: int = 1
    """Processor threads of one clip's solve. Several help the second-order solver on an idle machine only; clips
    beside each other (`jobs`) use the cores better."""

    body_file: str = ""
    """Licensed file of the body model, needed if the bodies are not of the free one."""
    stage1_steps: int = 100
    """Adam steps of stage 1: L_3D and the human terms, focal length fixed (JOSH: 500)."""
    stage2_steps: int = 300
    """Adam steps of stage 2: L_2D and the human terms, focal length free (JOSH: 200)."""
    stage2_rate: float = 1.0
    """Learning rates of stage 2 relative to those of stage 1."""
    weights: TermWeights = field(default_factory=TermWeights)
    """Weight of each term."""
    rates: LearningRates = field(default_factory=LearningRates)
    """Step of each kind of unknown."""
    search_every: int = 40
    """Steps between two searches for the scene partners of contacts."""
    neighbours: int = 24
    """Scene pixels that one local surface is fitted to."""
    search_radius: float = 0.25
    """How far a partner may lie from its contact in the image, in heights of the person's box."""
    depth_ratio: float = 1.1
    """Depth test: largest ratio between the nearest scene pixel's depth and that of the local surface."""
    foot_slope_deg: float = 35.0
    """Steepest surface that a foot can stand on, degrees against the up direction of the bodies."""
    drift_sd: float = 0.03
    """Standard deviation of a frame's scale about the clip's, natural logarithm."""
    drift_step_sd: float = 0.003
    """Standard deviation of the change of scale between neighbouring frames, natural logarithm."""
    focal_sd: float = 0.15
    """Standard deviation of the initialiser's focal length, natural logarithm."""
    scale_sd: float = 0.10
    """Standard deviation of a scale that the initialiser calls metric, natural logarithm."""
    stature_mean: float = 1.69
    """Mean height of the population, metres."""
    stature_sd: float = 0.10
    """Standard deviation of the height, metres."""
    track_gaps: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    """Frame gaps at which two observations of a point form a correspondence."""
    pairs_per_frame: int = 80
    """Correspondences kept for the solve, drawn evenly over the clip, for each of its frames."""
    bridge_s: float = 1.0
    """Longest time that a person may be out of sight between two sightings and is bridged, seconds; 0: never."""
    held_out: float = 0.1
    """Part of the scene points that the solve never sees, for the quality stage."""
    trace_every: int = 20
    """Steps between two entries of the convergence trace."""
    divergence: float = 3.0
    """A stage that ends this many times above its first loss has diverged."""
    max_scene_points: int = 60_000
    """Points of the result's scene."""
    seed: int = 0
    """Seed of the draws: held-out points, correspondences, scene points."""

    def __post_init__(self) -> None:
        checks = {
            "device": (self.device, re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is not None, "cpu, cuda or cuda:N"),
            "threads": (self.threads, self.threads >= 1, "at least 1"),
            "stage1_steps": (self.stage1_steps, self.stage1_steps >= 0, "0 or more"),
            "stage2_steps": (self.stage2_steps, self.stage2_steps >= 0, "0 or more"),
            "stage2_rate": (self.stage2_rate, 0 < self.stage2_rate <= 10, "more than 0"),
            "search_every": (self.search_every, self.search_every >= 1, "at least 1"),
            "neighbours": (self.neighbours, self.neighbours >= 4, "at least 4"),
            "search_radius": (self.search_radius, self.search_radius > 0, "more than 0"),
            "depth_ratio": (self.depth_ratio, self.depth_ratio > 1, "more than 1"),
            "foot_slope_deg": (self.foot_slope_deg, 0 < self.foot_slope_deg <= 90, "more than 0, at most 90"),
            "drift_sd": (self.drift_sd, self.drift_sd > 0, "more than 0"),
            "drift_step_sd": (self.drift_step_sd, self.drift_step_sd > 0, "more than 0"),
            "focal_sd": (self.focal_sd, self.focal_sd > 0, "more than 0"),
            "scale_sd": (self.scale_sd, self.scale_sd > 0, "more than 0"),
            "stature_mean": (self.stature_mean, 0.5 < self.stature_mean < 2.5, "metres between 0.5 and 2.5"),
            "stature_sd": (self.stature_sd, self.stature_sd > 0, "more than 0"),
            "track_gaps": (self.track_gaps, bool(self.track_gaps) and min(self.track_gaps) >= 1, "gaps of 1 or more"),
            "pairs_per_frame": (self.pairs_per_frame, self.pairs_per_frame >= 1, "at least 1"),
            "bridge_s": (self.bridge_s, self.bridge_s >= 0, "0 or more"),
            "held_out": (self.held_out, 0 <= self.held_out < 1, "at least 0 and less than 1"),
            "trace_every": (self.trace_every, self.trace_every >= 1, "at least 1"),
            "divergence": (self.divergence, self.divergence > 1, "more than 1"),
            "max_scene_points": (self.max_scene_points, self.max_scene_points >= 0, "0 or more"),
        }
        for name, (got, good, expected) in checks.items():
            if not good:
                raise ValueError(f"optimise.{name}: got {got}, expected {expected}")
