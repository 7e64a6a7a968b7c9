"""The training loop with JOSH3R in place of our student: same data, same checkpoints, same resume."""

from __future__ import annotations

from torch import nn

from distill.errors import FootfallError
from distill.feature_cache import FeatureCache
from distill.josh3r_task import Josh3rTask, make_josh3r
from distill.models.josh3r_student import Josh3rStudent
from distill.trainer import Trainer


class Josh3rTrainer(Trainer):
    """Build it, then call `train`. `pretrained/` of the run is what `load_josh3r` and `footfall run` read."""

    def _make_student(self) -> Josh3rStudent:
        return make_josh3r(self.config.josh3r)

    def _make_task(self) -> nn.Module:
        return Josh3rTask(self.student, self.config.josh3r)

    def _cache(self) -> FeatureCache | None:
        """The cache keeps features of whole frames; JOSH3R sees zoomed ones.

        Raises:
            FootfallError: a cache is asked for.
        """
        if self.config.data.feature_cache:
            raise FootfallError(
                "data.feature_cache", got=self.config.data.feature_cache, expected="none with model=josh3r",
                do="leave it empty",
            )  # fmt: skip
        return None

    def _world_errors(self) -> dict[str, float]:
        """None: JOSH3R needs bodies from outside to place a camera, so it has no stream of its own."""
        return {}

    def _write_card(self) -> None:
        """None: the Hub's card is about our students."""
