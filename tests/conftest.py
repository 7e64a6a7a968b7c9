"""What every test shares: tolerances by dtype, seeds, the body, the folder of shared material."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from distill.body import BodyModel

TOLERANCES: Final = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-9},  # closed forms: rounding only
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},  # a chain of 24 joints loses about two digits
    torch.float16: {"rtol": 1e-3, "atol": 1e-3},  # 11 bits
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-2},  # 8 bits
}
"""The one table of tolerances. A test that needs a looser one says why beside it."""

SHARED: Final = Path(__file__).resolve().parent.parent.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run where there is one, and say so where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries under test may use it)


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Facts, parity numbers and clips that lie beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which lies beside a developer's checkout only")
    return SHARED


@pytest.fixture(scope="session")
def body() -> BodyModel:
    """The free body."""
    from distill.body import load_body_model

    return load_body_model("anny")
