"""World-space errors of a student on held-out samples, streamed as a video would be: what training is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.body import BodyModel, load_body_model
from distill.geometry.transforms import from_quat_trans, transform_points
from distill.metrics import DegenerateError, w_mpjpe, wa_mpjpe
from distill.models.student import Student
from distill.on_device import OnDevice
from distill.shards.reader import ShardReader
from distill.shards.schema import Sample
from distill.stream import Stream, StreamConfig

METRICS = ("w_mpjpe_mm", "wa_mpjpe_mm")


def world_errors(
    student: Student, urls: list[str], *, samples: int, rank: int, world: int,
    wanted: Mapping[str, frozenset[str]] | None = None,
) -> Tensor:  # fmt: skip
    """Stream this process's share of the first `samples` samples; boxes and lens are the labels'.

    Args:
        student: in eval mode, on its device.
        urls: shards of held-out samples.
        rank, world: this process takes every `world`-th sample.
        wanted: shard -> clips to read of it; None for all.

    Returns:
        [3] float64 sums over people and frames: W-MPJPE mm, WA-MPJPE mm, number of frames.
    """
    body = load_body_model(student.config.body_model)
    reader = ShardReader(urls, seed=0, rank=0, world=1, shuffle=False, wanted=wanted)
    total = torch.zeros(3, dtype=torch.float64)
    for sample in islice(iter(reader), rank, samples, world):
        for truth, found in stream_sample(OnDevice(student), sample, body):
            try:
                errors = [metric(truth, found) for metric in (w_mpjpe, wa_mpjpe)]
            except DegenerateError:  # too few frames, or nobody moves: nothing to align
                continue
            total += torch.tensor([errors[0].sum(), errors[1].sum(), len(errors[0])], dtype=torch.float64)
    return total


def stream_sample(network: Any, sample: Sample, body: BodyModel) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """World joints of each person of a sample, labelled and streamed: [T, 24, 3] each, in their own worlds."""
    arrays = {name: torch.from_numpy(array) for name, array in sample.arrays.items()}
    world_from_cam = from_quat_trans(arrays["world_from_cam_quat"], arrays["world_from_cam_trans"])
    truth = transform_points(world_from_cam[:, None], arrays["joints_cam"])  # [T, P, 24, 3]
    present = arrays["present"].bool()
    size = (int(sample.meta["size"][0]), int(sample.meta["size"][1]))
    # A sample is one shot: the teacher cut its video already.
    stream = Stream(network, size, StreamConfig(cuts="never"), K=arrays["K"], body=body)
    found: dict[int, dict[int, Tensor]] = {}
    for frame, timestamp in enumerate(arrays["timestamps"].tolist()):
        seen = present[frame].nonzero().flatten().tolist()
        boxes = {person: sample.arrays["box_xyxy"][frame, person] for person in seen}
        result = stream.step(sample.image(frame), timestamp, boxes)
        for person in result.people:
            joints = transform_points(result.world_from_cam, person.joints_cam)
            found.setdefault(person.id, {})[frame] = joints
    for column, joints_of in found.items():
        yield truth[list(joints_of), column].double().numpy(), torch.stack(list(joints_of.values())).double().numpy()
