"""The training loop with the Gaussian head as what is trained, on top of a student that stays as it is."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from distill.data import Windows
from distill.errors import FootfallError
from distill.feature_cache import FeatureCache
from distill.gaussian_task import GaussianTask
from distill.models.gaussian_config import GaussianConfig
from distill.models.gaussian_head import GaussianHead
from distill.models.student import Student
from distill.shards.sources import ShardSet
from distill.trainer import Trainer


def add_gaussian_head(student: Student, config: GaussianConfig) -> Student:
    """A student with a fresh Gaussian head, unless it has one; in place.

    Raises:
        FootfallError: a backbone without points, or whose patch the stride does not divide.
    """
    if not student.has_points:
        raise FootfallError(
            f"a Gaussian head on {student.config.backbone}", got="a backbone without points",
            expected="one that predicts points", do="train it on a student of another backbone (docs/backbones.md)",
        )  # fmt: skip
    if student.gaussians is None:
        module = student.backbone.module
        student.config = replace(student.config, gaussians=config)
        student.gaussians = GaussianHead(config, module.feature_dim, module.token_dim, module.patch_size)
    return student


class GaussianTrainer(Trainer):
    """Build it, then call `train`. `pretrained/` of the run is the student with its new head."""

    def _make_student(self) -> Student:
        """The student of `init_from`; everything but its Gaussian head is frozen.

        Raises:
            FootfallError: no `init_from`.
        """
        if not self.config.init_from:
            raise FootfallError(
                "init_from", got="nothing", expected="a trained student: a Gaussian head looks at what it found",
                do="give init_from=RUN/pretrained, a shipped name or a Hub id",
            )  # fmt: skip
        student = add_gaussian_head(Student.from_pretrained(self.config.init_from), self.config.gaussians.head)
        student.requires_grad_(False)
        assert student.gaussians is not None
        student.gaussians.requires_grad_(True)
        return student

    def _make_task(self) -> nn.Module:
        return GaussianTask(self.student, self.config.gaussians)

    def _announce(self) -> None:
        super()._announce()
        count = sum(p.numel() for p in self.student.parameters() if p.requires_grad)
        self._say(
            f"of these {count / 1e6:.2f} M, the Gaussian head, are trained; the rest of the student is frozen too"
        )

    def _windows(self, shards: ShardSet, *, training: bool) -> Windows:
        """Windows with masks and depth of every pixel, not of every token."""
        windows = super()._windows(shards, training=training)
        windows.patch = 1
        return windows

    def _cache(self) -> FeatureCache | None:
        """The cache keeps thinned points; here each one becomes a Gaussian.

        Raises:
            FootfallError: a cache is asked for, or windows of two frames, which leave no target.
        """
        data = self.config.data
        if data.feature_cache or data.window_frames < 3:
            raise FootfallError(
                "data", got=f"feature_cache={data.feature_cache!r}, window_frames={data.window_frames}",
                expected="no cache, and windows of 3 frames or more: two are sources, another is the target",
                do="leave data.feature_cache empty and set data.window_frames=3",
            )  # fmt: skip
        return None

    def _world_errors(self) -> dict[str, float]:
        """None: the frozen student's are what they were."""
        return {}
