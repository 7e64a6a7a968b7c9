"""The Gaussian head: what a frozen student adds to look at what it found. Optional part of a checkpoint."""

from __future__ import annotations

from torch import nn

from distill.body import BodyModel
from distill.models.gaussian_config import GaussianConfig
from distill.models.gaussian_human import HumanHead, Template, make_template
from distill.models.gaussian_scene import SceneHead


class GaussianHead(nn.Module):
    """`scene` for what stands still, `human` for people."""

    def __init__(self, config: GaussianConfig, feature_dim: int, token_dim: int, patch: int) -> None:
        """Channels of encoder and decoder tokens, and pixels per token, of the backbone below."""
        super().__init__()
        self.config = config
        self.scene = SceneHead(config, feature_dim + token_dim, patch)
        self.human = HumanHead(config, feature_dim)
        self._template: tuple[str, Template] | None = None

    def template(self, body: BodyModel) -> Template:
        """Where Gaussians start on `body`, on its device; made once."""
        if self._template is None or self._template[0] != body.name:
            self._template = (body.name, make_template(body, self.config))
        moved = self._template[1].to(body.v_template.device)
        self._template = (body.name, moved)
        return moved
