"""`benchmarks/lpips_weights.py`: arrays out of a pickle of which nothing is executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.lpips_weights import stored_arrays, torch_states
from distill.metrics.lpips import ALEXNET, BACKBONE, HEADS, load_lpips


def params() -> dict[str, Any]:
    """As the package keeps them: kernels [height, width, in, out]."""
    draw = np.random.default_rng(3)

    def array(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    layers = {
        f"Conv_{number}": {"kernel": array(*shape[2:], shape[1], shape[0]), "bias": array(shape[0])}
        for number, (shape, _) in enumerate(ALEXNET.values())
    }
    heads = {
        f"NetLinLayer_{number}": {"Conv_0": {"kernel": array(1, 1, shape[0], 1)}}
        for number, (shape, _) in enumerate(ALEXNET.values())
    }
    return {"AlexNet_0": layers, **heads}


def test_arrays_become_states_that_the_metric_reads(tmp_path: Path) -> None:
    given = params()
    backbone, heads = torch_states(stored_arrays(pickle.dumps(given, protocol=3)))
    kernel = given["AlexNet_0"]["Conv_1"]["kernel"]
    assert backbone["features.3.weight"][7, 5, 2, 1] == kernel[2, 1, 5, 7]
    assert torch.equal(backbone["features.10.bias"], torch.from_numpy(given["AlexNet_0"]["Conv_4"]["bias"]))
    assert heads["lin4.model.1.weight"].flatten()[9] == given["NetLinLayer_4"]["Conv_0"]["kernel"][0, 0, 9, 0]
    torch.save(backbone, tmp_path / BACKBONE)
    torch.save(heads, tmp_path / HEADS)
    picture = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)
    assert load_lpips(tmp_path)(picture, picture) == 0.0


def test_nothing_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    assert stored_arrays(pickle.dumps({"AlexNet_0": Trap()}, protocol=3)) == {}
    assert not (tmp_path / "executed").exists()
    with pytest.raises(KeyError):
        torch_states({})
