"""From shard samples to training batches: windows of a few frames, resized, augmented, collated.

Augmentation moves cameras, boxes and bodies with the pixels; `flip` is the one that is easy to get wrong and
has a test of its own. Randomness is a pure function of (seed, epoch, sample), never of a global state.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
import torch.utils.data
from PIL import Image
from torch import Tensor

from distill.geometry.cameras import resize_intrinsics
from distill.geometry.conventions import CONTACT_SITES, SMPL_JOINTS
from distill.geometry.rotations import matrix_from_quat
from distill.geometry.transforms import from_quat_trans
from distill.shards.reader import ShardReader, mixed
from distill.shards.schema import Sample

Window = dict[str, Any]


@dataclass(kw_only=True)
class DataConfig:
    """Reading and windows."""

    shards: str = ""
    """Folder, glob or URL of shards."""
    held_out_shards: str = ""
    """Shards for the evaluation in the loop; empty leaves it out."""
    gaps: list[int] = field(default_factory=lambda: [1, 3, 10])
    """Frame gaps between consecutive frames of a window, drawn at random."""
    window_frames: int = 3
    """Frames per window; two short gaps and the long one between them are trained together."""
    windows_per_sample: int = 4
    """Windows drawn from each sample per epoch."""
    mix: int = 256
    """Windows wait among this many others, so that a batch shows different clips."""
    batch_size: int = 8
    """Windows per step and process."""
    workers: int = 1
    """Reading processes per training process; 0 reads in the training process itself."""
    max_people: int = 4
    """People per window; those with the largest boxes."""
    flip: float = 0.5
    """Share of windows that are mirrored."""
    reverse: float = 0.25
    """Share of windows that run backwards in time."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        if not self.gaps or min(self.gaps) < 1 or self.window_frames < 2:
            raise ValueError("data: gaps of at least 1 and window_frames of at least 2 are expected")
        if min(self.batch_size, self.windows_per_sample, self.max_people, self.mix) < 1 or self.workers < 0:
            raise ValueError("data: batch_size, windows_per_sample, max_people, mix >= 1 and workers >= 0 are expected")


SWAP_JOINTS: Final = tuple(
    SMPL_JOINTS.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) for name in SMPL_JOINTS
)
"""Joint -> the joint it becomes in a mirror."""
SWAP_SITES: Final = tuple(
    CONTACT_SITES.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
    for name in CONTACT_SITES
)


def choose_frames(count: int, config: DataConfig, rng: random.Random) -> list[int]:
    """Frames of one window, in order of time; gaps that do not fit are shortened.

    Raises:
        ValueError: the sample is shorter than a window.
    """
    if count < config.window_frames:
        raise ValueError(f"a sample of {count} frames is shorter than a window of {config.window_frames}")
    gaps = [rng.choice(config.gaps) for _ in range(config.window_frames - 1)]
    while sum(gaps) > count - 1:
        largest = max(range(len(gaps)), key=gaps.__getitem__)
        gaps[largest] -= 1
    start = rng.randrange(count - sum(gaps))
    return [start + sum(gaps[:k]) for k in range(config.window_frames)]


def make_window(sample: Sample, frames: list[int], network_size: tuple[int, int], max_people: int) -> Window:
    """One window at network size (width, height); tensors as in `distill.task.Batch` without the batch axis."""
    arrays = sample.arrays
    pictures = [sample.image(k) for k in frames]
    size = (pictures[0].shape[1], pictures[0].shape[0])
    images = [np.asarray(Image.fromarray(p).resize(network_size, Image.Resampling.BICUBIC)) for p in pictures]
    people = _choose_people(sample, frames, max_people)

    def take(name: str) -> Tensor:
        """[V, P, ...] -> [P, V, ...]."""
        return torch.from_numpy(arrays[name][frames][:, people]).transpose(0, 1).contiguous()

    scale = torch.tensor([network_size[0] / size[0], network_size[1] / size[1]] * 2)
    K = resize_intrinsics(torch.from_numpy(arrays["K"]), size, network_size)
    world_from_cam = from_quat_trans(
        torch.from_numpy(arrays["world_from_cam_quat"][frames]),
        torch.from_numpy(arrays["world_from_cam_trans"][frames]),
    )
    valid = take("present")
    weight = take("frame_weight").masked_fill(~valid, torch.inf).amin(1)  # labels count where a person is seen
    return {
        "images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255,
        "K": K.expand(len(frames), 3, 3).clone(),
        "boxes": take("box_xyxy") * scale,
        "valid": valid,
        "cam_from_body": from_quat_trans(take("cam_from_body_quat"), take("cam_from_body_trans")),
        "body_rot": matrix_from_quat(take("body_quat")),
        "betas": torch.from_numpy(arrays["betas"][people]),
        "joints_cam": take("joints_cam"),
        "contact_prob": take("contact_prob"),
        "world_from_cam": world_from_cam,
        "weight": weight,
        "name": f"{sample.key}:{','.join(map(str, frames))}",
    }


def _choose_people(sample: Sample, frames: list[int], limit: int) -> list[int]:
    """People seen in any of the frames, largest first."""
    present = sample.arrays["present"][frames]
    boxes = sample.arrays["box_xyxy"][frames]
    area = (np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1) * present).sum(0)
    return [int(k) for k in np.argsort(-area, kind="stable") if area[k] > 0][:limit]


def augment(window: Window, config: DataConfig, rng: random.Random) -> Window:
    """Mirror, turn time around, change colours; the labels go with it."""
    if rng.random() < config.flip:
        window = flip(window)
    if rng.random() < config.reverse:
        window = reverse_time(window)
    if config.colour > 0:
        window = {**window, "images": _colour(window["images"], config.colour, rng)}
    return window


def flip(window: Window) -> Window:
    """The window as seen in a mirror: image x -> width - x, camera and world x -> -x, left <-> right."""
    width = window["images"].shape[-1]
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    mirror4 = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    K = window["K"].clone()
    K[..., 0, 2] = width - K[..., 0, 2]
    boxes = window["boxes"]
    body_joints = [joint - 1 for joint in SWAP_JOINTS[1:]]
    return {
        **window,
        "images": window["images"].flip(-1),
        "K": K,
        "boxes": torch.stack((width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]), dim=-1),
        # Mirrored camera, mirrored body: both sides of every transform and rotation are conjugated.
        "cam_from_body": mirror4 @ window["cam_from_body"] @ mirror4,
        "world_from_cam": mirror4 @ window["world_from_cam"] @ mirror4,
        "body_rot": mirror @ window["body_rot"][..., body_joints, :, :] @ mirror,
        "joints_cam": window["joints_cam"][..., list(SWAP_JOINTS), :] * torch.tensor([-1.0, 1.0, 1.0]),
        "contact_prob": window["contact_prob"][..., list(SWAP_SITES)],
    }


def reverse_time(window: Window) -> Window:
    """The frames in the opposite order."""
    by_frame, by_person = ("images", "K", "world_from_cam"), ("boxes", "valid", "cam_from_body", "body_rot")
    turned = {name: window[name].flip(0) for name in by_frame}
    turned |= {name: window[name].flip(1) for name in (*by_person, "joints_cam", "contact_prob")}
    return {**window, **turned}


def _colour(images: Tensor, strength: float, rng: random.Random) -> Tensor:
    """One change of brightness, contrast and saturation for the whole window."""
    brightness, contrast, saturation = (1 + strength * rng.uniform(-1, 1) for _ in range(3))
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    images = images.mean() + contrast * (images - images.mean())
    return (brightness * images).clamp(0, 1)


class Windows(torch.utils.data.IterableDataset[Window]):
    """Windows of the samples of a reader; augmented when `training`.

    Left out are windows without a person or with a camera that was filled in rather than measured, and, counted
    as damaged, what is left of a sample whose pictures cannot be decoded or that is shorter than a window.
    """

    def __init__(
        self, reader: ShardReader, config: DataConfig, network_size: Any, *, seed: int, training: bool
    ) -> None:
        """`network_size`: function from image size to network size (`Student.network_size`)."""
        super().__init__()
        self.reader, self.config, self.network_size = reader, config, network_size
        self.seed, self.training = seed, training

    def __iter__(self) -> Iterator[Window]:
        epoch = self.reader.epoch if self.training else 0
        numbers = range(self.config.windows_per_sample)
        draws: Iterator[tuple[Sample, int]] = ((sample, number) for sample in self.reader for number in numbers)
        if self.training:  # else all windows of a batch would show the same clip
            draws = mixed(draws, random.Random(f"{self.seed}/{epoch}/windows"), self.config.mix)
        damaged: set[str] = set()
        for sample, number in draws:
            if sample.key in damaged:
                continue
            try:
                window = self._window(sample, random.Random(f"{self.seed}/{epoch}/{sample.key}/{number}"))
            except (OSError, ValueError) as error:
                damaged.add(sample.key)
                self.reader.skip(error)
            else:
                if window is not None:
                    yield window

    def _window(self, sample: Sample, rng: random.Random) -> Window | None:
        frames = choose_frames(len(sample.arrays["timestamps"]), self.config, rng)
        if not sample.arrays["camera_valid"][frames].all() or not sample.arrays["present"][frames].any():
            return None
        network_size = self.network_size((int(sample.meta["size"][0]), int(sample.meta["size"][1])))
        window = make_window(sample, frames, network_size, self.config.max_people)
        return augment(window, self.config, rng) if self.training else window


PERSON_FIELDS: Final = (
    "boxes", "valid", "cam_from_body", "body_rot", "betas", "joints_cam", "contact_prob", "weight",
)  # fmt: skip


def collate(windows: list[Window]) -> dict[str, Any]:
    """Stack windows; people are padded to the largest number, with valid False and weight 0."""
    people = max(len(window["boxes"]) for window in windows)
    batch: dict[str, Any] = {"name": [window["name"] for window in windows]}
    for key in windows[0]:
        if key == "name":
            continue
        rows = [window[key] for window in windows]
        if key in PERSON_FIELDS:
            rows = [_pad(row, people, key) for row in rows]
        batch[key] = torch.stack(rows)
    return batch


def _pad(rows: Tensor, people: int, key: str) -> Tensor:
    missing = people - len(rows)
    if missing == 0:
        return rows
    filler = rows.new_zeros((missing, *rows.shape[1:]))
    if key in ("cam_from_body", "body_rot"):  # padding must stay finite through every loss
        filler = torch.eye(rows.shape[-1], dtype=rows.dtype).expand(filler.shape).clone()
    if key == "cam_from_body":
        filler[..., 2, 3] = 3.0
    if key == "joints_cam":
        filler[..., 2] = 3.0
    if key == "boxes":
        filler[..., 2:] = 16.0
    return torch.cat((rows, filler))


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors of a batch."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
