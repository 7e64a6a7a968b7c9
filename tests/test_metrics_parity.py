"""`distill.metrics` against what the peers' own functions gave (shared/parity/metrics; docs/metrics.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.metrics import DegenerateError
from tests.metrics_parity import compute

PARITY = Path(__file__).resolve().parent.parent.parent / "shared" / "parity" / "metrics"
SMALL = Path(__file__).parent / "data" / "metrics_parity.npz"
"""A few cases copied from there, so that definitions are held without it too."""


def _entries(json_path: Path) -> list[dict[str, Any]]:
    return json.loads(json_path.read_text())["entries"] if json_path.is_file() else []


def _inputs(entry: dict[str, Any], stored: Any) -> dict[str, Any]:
    """The entry's inputs by short name; floats as float64, as the data demands."""
    names = [name for name in stored.files if name.startswith(f"{entry['case']}/in/")]
    found = {name.rsplit("/", 1)[1]: stored[name] for name in names}
    found = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in found.items()}
    if entry["metric"].endswith("_nan_masked"):
        found["mask"] = found["mask_without_nan"]
    masked = any(name.endswith(("/mask", "*")) for name in entry["inputs"])
    if not masked and "josh_" not in entry["repo"]:
        found.pop("mask", None)
    return found


def check(entry: dict[str, Any], stored: Any, of_human3r: dict[str, float]) -> None:
    """Assert that ours is the entry's value, or that we refuse where the peer has none."""
    inputs, expected = _inputs(entry, stored), entry["value"]
    if entry.get("compare") is False:  # rounding decides in the peer; ours must be a number or a refusal
        try:
            value = compute(entry["metric"], entry["repo"], inputs)
        except DegenerateError:
            return
        assert np.isfinite(value).all()
        return
    if entry.get("raises") or expected == "nan" or (expected == "inf" and "rte" in entry["metric"]):
        with pytest.raises(DegenerateError):
            compute(entry["metric"], entry["repo"], inputs)
        return
    value = np.asarray(compute(entry["metric"], entry["repo"], inputs), dtype=np.float64)
    rtol = entry.get("rtol", 1e-8)
    if entry.get("peer_bug"):  # we give what Human3R, which mended it, gives
        np.testing.assert_allclose(value.mean(), of_human3r[entry["case"]], rtol=rtol, atol=1e-9)
        return
    np.testing.assert_allclose(value.mean(), float(expected), rtol=rtol, atol=1e-9)
    if "array" in entry:
        np.testing.assert_allclose(value, stored[entry["array"]], rtol=rtol, atol=1e-9)


def _human3r(entries: list[dict[str, Any]]) -> dict[str, float]:
    return {e["case"]: e["value"] for e in entries if (e["repo"], e["metric"]) == ("human3r", "pa_mpjpe")}


def check_case(case: str, entries: list[dict[str, Any]], stored: Any) -> None:
    """Check every entry of a case and name all that are wrong, not only the first."""
    wrong = {}
    for entry in (e for e in entries if e["case"] == case):
        try:
            check(entry, stored, _human3r(entries))
        except (Exception, pytest.fail.Exception) as error:
            wrong[entry["id"]] = " ".join(str(error).split())[:200]
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.fixture(scope="module")
def parity(shared_dir: Path) -> Any:
    return np.load(PARITY / "parity_dev.npz", allow_pickle=False)


ENTRIES = _entries(PARITY / "parity_dev.json")
SMALL_ENTRIES = _entries(SMALL.with_suffix(".json"))


@pytest.mark.parametrize("case", sorted({e["case"] for e in ENTRIES} - {"aggregate"}) or ["(absent)"])
def test_every_entry_of_a_case(case: str, parity: Any) -> None:
    check_case(case, ENTRIES, parity)


def test_sequences_are_averaged_over_frames_not_over_clips(parity: Any) -> None:
    for entry in (e for e in ENTRIES if e["case"] == "aggregate"):
        values = []
        for case in ("emdb_like_250", "all_valid_250"):
            inputs = _inputs({**entry, "case": case, "inputs": [f"{case}/in/mask"]}, parity)
            values.append(compute(entry["metric"], entry["repo"], inputs))
        np.testing.assert_allclose(np.concatenate(values).mean(), entry["value"], rtol=1e-8)


@pytest.mark.parametrize("case", sorted({e["case"] for e in SMALL_ENTRIES}))
def test_cases_copied_into_the_repository(case: str) -> None:
    with np.load(SMALL, allow_pickle=False) as stored:
        check_case(case, SMALL_ENTRIES, stored)
