"""The configuration of a training run. `train_student.py` reads it from YAML and `key=value`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.data import DataConfig
from distill.gaussian_task import GaussianTrainConfig
from distill.josh3r_task import Josh3rTrainConfig
from distill.models.student import StudentConfig
from distill.task import LossConfig


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and a cosine to `final_lr`."""

    lr: float = 4e-4
    """Peak learning rate."""
    final_lr: float = 4e-6
    """Learning rate of the last step."""
    warmup_steps: int = 200
    """Steps from 0 to `lr`."""
    weight_decay: float = 0.02
    """On weight matrices only."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    accumulate: int = 1
    """Batches per optimiser step."""
    ema: float = 0.998
    """Decay of the running average that is saved as the student; early steps use a faster one."""

    def __post_init__(self) -> None:
        if not 0 < self.final_lr <= self.lr or self.clip_norm <= 0 or not 0 <= self.ema < 1:
            raise ValueError("optim: 0 < final_lr <= lr, clip_norm > 0 and 0 <= ema < 1 are expected")
        if self.accumulate < 1 or self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("optim: accumulate >= 1, warmup_steps >= 0 and weight_decay >= 0 are expected")


@dataclass(kw_only=True)
class TrainConfig:
    """One training run."""

    name: str = "student"
    """The run's folder is `out/name`."""
    out: str = "runs"
    """Folder of runs."""
    steps: int = 20000
    """Optimiser steps."""
    seed: int = 0
    """Of weights, order and augmentation."""
    log_every: int = 20
    """Steps between lines of the log."""
    evaluate_every: int = 1000
    """Steps between evaluations on `data.held_out_shards`."""
    evaluate_batches: int = 50
    """Batches per evaluation and process."""
    evaluate_clips: int = 4
    """Held-out samples that are streamed at each evaluation for errors in the world; 0 leaves them out."""
    save_every: int = 1000
    """Steps between checkpoints."""
    resume: bool = False
    """Go on from the run's last checkpoint, or start if there is none; also `--resume`."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Where else the log goes, through accelerate."""
    init_from: str = ""
    """Checkpoint (Hub id or folder) whose heads are the start; empty starts from fresh weights."""
    model: Literal["footfall", "josh3r", "gaussians"] = "footfall"
    """What is trained: our student (`student`, `loss`, `init_from`), JOSH3R (`josh3r` alone), or the Gaussian head
    (`gaussians`) on the student of `init_from`, which stays as it is."""
    data: DataConfig = field(default_factory=DataConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    josh3r: Josh3rTrainConfig = field(default_factory=Josh3rTrainConfig)
    gaussians: GaussianTrainConfig = field(default_factory=GaussianTrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if min(self.steps, self.log_every, self.evaluate_every, self.evaluate_batches, self.save_every) < 1:
            raise ValueError("steps, evaluate_batches and all *_every must be at least 1")
        if self.evaluate_clips < 0:
            raise ValueError(f"evaluate_clips is {self.evaluate_clips}, expected 0 or more")
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name: got {self.name!r}, expected a plain folder name")
