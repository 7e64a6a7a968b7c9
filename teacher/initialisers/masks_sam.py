"""People's masks by SAM 2 or SAM 3 video networks through `transformers`, prompted by the boxes of our tracks.

SAM follows each person from a box through the video with a memory of what it looked like (Ravi et al., "SAM 2",
arXiv 2408.00714). Each person is prompted at some of the frames where the track is surest, not only the first, and
what is found is kept only where the track says that the person is visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import FootfallError, require
from teacher.initialisers.pretrained import Pretrained, find_pretrained
from teacher.initialisers.registry import Report
from teacher.stagefiles import Frames, People, read_image, write_image
from teacher.workspace import ClipFolder

Array = NDArray[Any]
CLASSES: Final = {
    "sam2_video": ("Sam2VideoModel", "Sam2VideoProcessor"),
    "sam3_tracker_video": ("Sam3TrackerVideoModel", "Sam3TrackerVideoProcessor"),
    "sam3_video": ("Sam3TrackerVideoModel", "Sam3TrackerVideoProcessor"),
}
"""Architecture -> model and processor. SAM 3's files hold its tracker, which takes boxes, beside the detector."""


@dataclass(kw_only=True)
class MasksConfig:
    """Masks of people."""

    use: str = "landmarks"
    """landmarks (of the people initialiser itself) or sam."""
    model: str = "facebook/sam2.1-hiera-small"
    """Folder, or repository on the Hub, of a SAM 2 or SAM 3 video model; for use=sam."""
    revision: str = ""
    """Commit, tag or branch on the Hub; empty takes the newest."""
    prompts: int = 4
    """Boxes given for each person."""
    box_margin: float = 0.6
    """A mask is cut to the person's box grown by this share of its sides: a network that lost its person wanders."""

    def __post_init__(self) -> None:
        if self.use not in ("landmarks", "sam") or self.prompts < 1 or self.box_margin < 0:
            raise ValueError("people.masks: use of landmarks or sam, prompts >= 1 and box_margin >= 0 are expected")


def refine_masks(clip: ClipFolder, people: People, config: MasksConfig, report: Report) -> dict[str, Any]:
    """Replace the identity maps of the people stage; returns the weights for its record.

    A person whose mask comes out empty in a frame keeps the one from landmarks there.
    """
    source = find_pretrained(config.model, config.revision)
    images = clip.require("frames")
    count = len(people.visible)
    video = [read_image(Frames.image_path(images, index)) for index in range(count)]
    tracker = VideoMasks(source, video)
    followed: list[dict[int, Array]] = []
    for person in range(people.visible.shape[1]):
        report(person / people.visible.shape[1], f"masks by {source.model_type}, person {person}")
        frames = prompt_frames(people.visible[:, person], people.score[:, person], config.prompts)
        followed.append(tracker.follow({frame: people.box_xyxy[frame, person] for frame in frames}))
    folder = clip.stage_dir("people")
    for index in range(count):
        scores = np.full((len(followed), *video[0].shape[:2]), -np.inf, np.float32)
        for person, found in enumerate(followed):
            if people.visible[index, person] and index in found:
                logit = tracker.enlarge(found[index])
                scores[person] = inside_box(logit, people.box_xyxy[index, person], config.box_margin)
        path = People.mask_path(folder, index)
        write_image(path, merge(scores, read_image(path)))
    return source.record()


def prompt_frames(visible: Array, score: Array, count: int) -> list[int]:
    """The surest visible frame of each of `count` equal parts of a track [T]."""
    frames = np.flatnonzero(visible)
    parts = np.array_split(frames, min(count, max(len(frames), 1)))
    return [int(part[np.argmax(score[part])]) for part in parts if len(part)]


def inside_box(logit: Array, box: Array, margin: float) -> Array:
    """Scores [H, W], -inf outside a box [4] grown on each side by a share of its size."""
    width, height = (box[2] - box[0]) * margin, (box[3] - box[1]) * margin
    rows, columns = np.mgrid[: logit.shape[0], : logit.shape[1]] + 0.5
    within = (columns > box[0] - width) & (columns < box[2] + width)
    within &= (rows > box[1] - height) & (rows < box[3] + height)
    return np.where(within, logit, -np.inf).astype(np.float32)


def merge(scores: Array, before: Array) -> Array:
    """Identity map [H, W] from scores [P, H, W]: the highest above 0 wins; people without any pixel stay as before."""
    best = scores.argmax(0)
    ids = np.where(scores.max(0) > 0, best + 1, 0).astype(np.uint8)
    for person in range(len(scores)):
        if not (scores[person] > 0).any():
            ids[(before == person + 1) & (ids == 0)] = person + 1
    return ids


class VideoMasks:
    """A network with a video before it."""

    def __init__(self, source: Pretrained, video: list[Array]) -> None:
        """`video`: uint8 [H, W, 3] images.

        Raises:
            FootfallError: not a SAM 2 or SAM 3 video model.
        """
        import torch

        if source.model_type not in CLASSES:
            raise FootfallError(
                f"mask model {source.name}", got=f"model_type {source.model_type}", expected=f"one of {list(CLASSES)}",
                do="take facebook/sam2.1-hiera-small or facebook/sam3 (accept its licence on its page first)",
            )  # fmt: skip
        transformers = require("transformers", extra="neural")
        model, processor = (getattr(transformers, name) for name in CLASSES[source.model_type])
        self._torch, self._size = torch, video[0].shape[:2]
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._processor = processor.from_pretrained(source.folder, local_files_only=True)
        self._model = model.from_pretrained(source.folder, local_files_only=True, use_safetensors=True)
        self._model = self._model.to(self._device).eval()
        # Frames stay in main memory: a thousand of them at 1024 x 1024 do not fit beside the network.
        self._session = self._processor.init_video_session(
            video=video, inference_device=self._device, video_storage_device="cpu"
        )

    def follow(self, boxes: dict[int, Array]) -> dict[int, Array]:
        """One person through the whole video: boxes {frame: [4] (x0, y0, x1, y1), pixels} -> {frame: small logits}.

        People are followed one after the other, as the network wants a prompt for everybody in its first frame.
        """
        torch = self._torch
        found: dict[int, Array] = {}
        if not boxes:
            return found
        self._session.reset_inference_session()
        with torch.inference_mode():
            for frame, box in sorted(boxes.items()):
                self._processor.add_inputs_to_inference_session(
                    inference_session=self._session, frame_idx=frame, obj_ids=1,
                    input_boxes=[[[float(value) for value in box]]],
                )  # fmt: skip
                self._model(inference_session=self._session, frame_idx=frame)
            for backwards in (False, True):
                for output in self._model.propagate_in_video_iterator(
                    self._session, start_frame_idx=min(boxes), reverse=backwards
                ):
                    found[output.frame_idx] = output.pred_masks[0, 0].half().cpu().numpy()
        return found

    def enlarge(self, logits: Array) -> Array:
        """Small logits -> [H, W] of the video."""
        torch = self._torch
        small = torch.from_numpy(logits).float()[None, None]
        return torch.nn.functional.interpolate(small, size=self._size, mode="bilinear", align_corners=False)[
            0, 0
        ].numpy()
