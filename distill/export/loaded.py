"""An exported folder, opened: the interface of `Student` on graphs. Neither configs nor training code are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from distill.errors import FootfallError
from distill.export.files import SUFFIXES, open_graph
from distill.export.parts import PAIR_OUTPUTS, Run, pair_inputs
from distill.files import read_json
from distill.models.backbones import Tokens
from distill.models.closeup import look_at_both
from distill.models.detection_head import Candidates
from distill.models.prediction import PairPrediction, Prompts
from distill.runner.network import EXPORT_FORMAT


@dataclass(kw_only=True)
class ExportedStudent:
    """An exported folder, with the interface of `Student` that a stream uses."""

    size: tuple[int, int]
    """Width and height of the images that it takes."""
    grid: tuple[int, int]
    body_model: str
    num_betas: int
    look_width: int
    has_points: bool
    graphs: dict[str, Run]
    """By name; see `export_student`."""

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The one size that it was exported for."""
        return self.size

    def encode(self, images: Tensor) -> Tokens:
        """Images [1, 3, H, W] in [0, 1] -> features."""
        return Tokens(features=self.graphs["encoder"](images), grid=self.grid, size=self.size, images=images)

    def look(self, images: Tensor, boxes: Tensor) -> Tensor:
        """See `Student.look`: images [1, 3, H, W], boxes [1, P, 4]."""
        return self.graphs["look"](images, boxes)

    def detect(self, tokens: Tokens) -> Candidates:
        """See `Student.detect`, for one frame."""
        logit, boxes = self.graphs["detect"](tokens.features)
        return Candidates(logit=logit, boxes=boxes)

    def identify(self, tokens: Tokens, boxes: Tensor) -> Tensor:
        """See `Student.identify`, for one frame; nobody's vectors have no channels."""
        if not boxes.shape[1]:  # graphs take one person or more
            return boxes.new_zeros(1, 0, 0)
        return self.graphs["identify"](tokens.features, boxes)

    def points(self, a: Tokens, b: Tokens) -> tuple[Tensor, Tensor]:
        """See `Student.points`, for one pair of frames."""
        return self.graphs["points"](a.features, b.features)

    def pair(self, a: Tokens, b: Tokens, people: Prompts, *, points: bool = False) -> PairPrediction:
        """See `Student.pair`; points of one pair at a time.

        Raises:
            FootfallError: without the time between the frames, or with masks, which the graphs do not take.
        """
        if people.seconds is None or people.masks is not None:
            raise FootfallError(
                "prompts for exported graphs", got="no seconds" if people.seconds is None else "masks",
                expected="seconds between the frames, and boxes alone",
                do="give seconds, or take the checkpoint itself",
            )  # fmt: skip
        if people.looks is None:
            people = replace(people, looks=look_at_both(self.look, a, b, people.boxes))
        outputs = self.graphs["pair"](a.features, b.features, *pair_inputs(people))
        prediction = PairPrediction(**dict(zip(PAIR_OUTPUTS, outputs, strict=True)))
        if points and self.has_points:
            prediction.points_a, prediction.conf_a = self.points(a, b)
        return prediction


def load_exported(folder: Path) -> ExportedStudent:
    """Open an exported folder.

    Raises:
        FootfallError: incomplete, or of another format.
    """
    record = read_json(folder / "export.json")
    if record.get("format") != EXPORT_FORMAT:
        raise FootfallError(
            str(folder / "export.json"), got=f"format {record.get('format')!r}", expected=EXPORT_FORMAT,
            do="export the checkpoint again",
        )  # fmt: skip
    suffix = SUFFIXES[record["file_format"]]
    return ExportedStudent(
        size=(record["size"][0], record["size"][1]),
        grid=(record["grid"][0], record["grid"][1]),
        body_model=record["body_model"],
        num_betas=record["num_betas"],
        look_width=record["look_width"],
        has_points="points" in record["graphs"],
        graphs={name: open_graph(folder / f"{name}{suffix}") for name in record["graphs"]},
    )
