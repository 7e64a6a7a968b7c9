"""The student: a frozen backbone and trained heads that turn two frames into people, cameras and motion."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distill.models.backbones import Backbone, FrozenBackbone, Pair, Tokens, load_backbone
from distill.models.body_head import BodyHead
from distill.models.closeup import Closeup, look_at_both
from distill.models.detection_head import Candidates, DetectionHead
from distill.models.gaussian_config import GaussianConfig
from distill.models.gaussian_head import GaussianHead
from distill.models.identity_head import IdentityHead
from distill.models.prediction import PairPrediction, Prompts
from distill.models.trajectory_head import TrajectoryHead
from distill.models.trunk import HeadConfig, Trunk

if TYPE_CHECKING:  # a stream imports the student
    from distill.live import Source
    from distill.stream import FrameResult, StreamConfig


@dataclass(kw_only=True)
class StudentConfig:
    """What a student is made of."""

    backbone: str = "tiny"
    """Registered name, "timm:NAME", Hub id or folder (`backbones.load_backbone`)."""
    backbone_revision: str | None = None
    """Commit on the Hub; None takes the registry's."""
    body_model: str = "anny"
    """Body model whose parameters are predicted (`distill.body.load_body_model`)."""
    num_betas: int = 10
    """Shape parameters of that body model."""
    head: HeadConfig = field(default_factory=HeadConfig)
    gaussians: GaussianConfig | None = None
    """The Gaussian head (docs/gaussian_head.md); none in a student that was not trained to draw."""

    def __post_init__(self) -> None:
        if self.num_betas < 1:
            raise ValueError(f"num_betas is {self.num_betas}, expected 1 or more")


class Student(nn.Module):
    """`encode` each frame once, then `pair` any two of them.

    The frozen backbone is not part of `parameters()` or `state_dict()`: checkpoints hold the heads, and the
    backbone's id, revision and hash.
    """

    def __init__(self, config: StudentConfig, backbone: Backbone | None = None) -> None:
        """Build heads with fresh weights on a backbone, loaded by the config unless given."""
        super().__init__()
        self.config = config
        self.backbone = FrozenBackbone(backbone or load_backbone(config.backbone, config.backbone_revision))
        module = self.backbone.module
        self.trunk = Trunk(config.head, module.feature_dim + module.token_dim, module.feature_dim)
        self.closeup = Closeup(config.head.closeup_pixels, config.head.width)
        self.trajectory = TrajectoryHead(config.head.width)
        self.body = BodyHead(config.head.width, config.num_betas)
        self.detection = DetectionHead(module.feature_dim, config.head.width)
        self.identity = IdentityHead(module.feature_dim, config.head.identity_channels)
        self.gaussians: GaussianHead | None = None
        if config.gaussians is not None:
            self.gaussians = GaussianHead(config.gaussians, module.feature_dim, module.token_dim, module.patch_size)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to which images of (width, height) should be resized, intrinsics and boxes with them."""
        return self.backbone.module.preprocessing.network_size(size)

    def encode(self, images: Tensor) -> Tokens:
        """Images [B, 3, H, W] in [0, 1] at network size -> features to keep for any number of pairs."""
        return self.backbone.encode(images)

    def look(self, images: Tensor, boxes: Tensor, valid: Tensor | None = None) -> Tensor:
        """A closer look at boxes [B, P, 4] of images [B, 3, H, W]: [B, P, width], for `Prompts.looks`.

        Without `valid` [B, P] all are looked at; with it, only those, and the others' rows are 0.
        """
        return self.closeup(images, boxes, valid)

    def detect(self, tokens: Tokens) -> Candidates:
        """People found in B frames, one candidate per token (`people.candidates.best_candidates` chooses)."""
        return self.detection(tokens)

    def identify(self, tokens: Tokens, boxes: Tensor) -> Tensor:
        """Unit vectors [B, P, identity_channels] of who is in boxes [B, P, 4], alike for one person in all frames."""
        return self.identity(tokens, boxes)

    @property
    def look_width(self) -> int:
        """Channels of `look`."""
        return self.config.head.width

    @property
    def has_points(self) -> bool:
        """Whether the backbone predicts points."""
        return self.backbone.module.has_points

    def stream(
        self, video: str | Path | Source, config: StreamConfig | None = None, *, settled: bool = False
    ) -> Generator[FrameResult]:
        """Results of a video, a camera ("0") or a URL, frame by frame, where the student is (it is put in eval mode).

        Args:
            video: as for `distill.live.stream_video`, which has more settings.
            config: None takes the defaults.
            settled: each frame a few frames later, as improved by those; else as known at once.

        Yields:
            `distill.stream.FrameResult`: metres, radians, seconds; the world is the first camera.

        Raises:
            FootfallError: nothing there that can be read.
        """
        from distill.body import load_body_model
        from distill.live.stream_video import stream_video
        from distill.on_device import OnDevice

        self.eval()
        network = self if next(self.parameters()).device.type == "cpu" else OnDevice(self)
        return stream_video(network, video, config, settled=settled, body=load_body_model(self.config.body_model))

    def points(self, a: Tokens, b: Tokens) -> tuple[Tensor, Tensor]:
        """The backbone's points [B, H, W, 3] of frames a in their cameras, unscaled, and their confidence [B, H, W].

        Args:
            a: features of the frames whose points are wanted. b: of others that help.
        """
        pair = self.backbone.decode(a, b)
        assert pair.points_a is not None and pair.conf_a is not None
        return pair.points_a, pair.conf_a

    def pair(self, a: Tokens, b: Tokens, people: Prompts, *, points: bool = False) -> PairPrediction:
        """People and camera of B ordered pairs of frames.

        Args:
            a: features of the first frames.
            b: features of the second frames, the same number.
            people: boxes, validity and intrinsics in both.
            points: also give the backbone's points of view a, if it has any (they cost time).
        """
        return self.answer(self.backbone.decode(a, b, points=points), a, b, people)

    def answer(self, decoded: Pair, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """`pair` from what the backbone has decoded (or a cache has kept) already.

        Raises:
            FootfallError: neither looks in `people` nor images in the tokens.
        """
        if people.looks is None:
            people = replace(people, looks=look_at_both(self.look, a, b, people.boxes))
        prediction = self.heads(decoded.tokens_a[-1], decoded.tokens_b[-1], a, b, people)
        prediction.points_a, prediction.conf_a = decoded.points_a, decoded.conf_a
        return prediction

    def heads(self, last_a: Tensor, last_b: Tensor, a: Tokens, b: Tokens, people: Prompts) -> PairPrediction:
        """The trained part: last decoder tokens [B, N, D] of both views and their features -> prediction."""
        dtype = self.trunk.view.dtype
        views = [torch.cat((last, frame.features), dim=-1).to(dtype) for last, frame in ((last_a, a), (last_b, b))]
        scene, person = self.trunk((views[0], views[1]), (a, b), people)
        motion = self.trajectory(scene, person, people)
        body_rot, betas = self.body(person, people.valid)
        return PairPrediction(
            cam_from_body_a=motion.cam_from_body[:, :, 0],
            cam_from_body_b=motion.cam_from_body[:, :, 1],
            body_rot_a=body_rot[:, :, 0],
            body_rot_b=body_rot[:, :, 1],
            betas=betas,
            cam_a_from_cam_b=motion.cam_a_from_cam_b,
            body_a_from_body_b=motion.body_a_from_body_b,
            contact_logit_a=motion.contact_logit[:, :, 0],
            contact_logit_b=motion.contact_logit[:, :, 1],
            log_scene_scale=motion.log_scene_scale,
            camera_log_var=motion.camera_log_var,
            body_log_var=motion.body_log_var,
            root_log_var_a=motion.root_log_var[:, :, 0],
            root_log_var_b=motion.root_log_var[:, :, 1],
        )

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `config.json`, `model.safetensors` (heads only) and a card; see `pretrained`."""
        from distill.models.pretrained import save_student

        save_student(self, Path(folder))

    @classmethod
    def from_pretrained(cls, id_or_folder: str | Path, revision: str | None = None) -> Student:
        """Load from a folder or the Hub, in eval mode; see `pretrained`.

        Raises:
            FootfallError: not found, another format, weights or a backbone that do not fit.
        """
        from distill.models.pretrained import load_student

        return load_student(id_or_folder, revision)
