"""Under which licence a student's weights may be given on: what its backbone, its data and its labels allow.

This is bookkeeping, not legal advice: a chain whose every link is known and permissive gives Apache-2.0, this
project's own; a known link of another kind gives "other", with the links listed; an unknown link gives none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

PERMISSIVE: Final = frozenset(
    ["apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "unlicense"]
)
"""Licences under which a derived file may be given on for any purpose (naming the source where they ask for it)."""
OURS: Final = "apache-2.0"


def licence_chain(backbone: str, data: Mapping[str, Any] | None) -> list[str]:
    """All licences with a part in the weights: of the backbone, of the clips, of the networks behind the labels.

    Args:
        backbone: licence of the frozen weights.
        data: `training_record.data_facts`, or None.
    """
    links = [backbone]
    if data is not None:
        links += [*data["licences"], *(network["licence"] for network in data["networks"].values())]
    return sorted(set(links))


def card_licence(links: Iterable[str]) -> dict[str, str]:
    """The card's licence fields; empty if a link of the chain is unknown, so that a person has to decide."""
    plain = [normal(link) for link in links]
    if any(link in ("", "unknown") for link in plain):
        return {}
    if all(link in PERMISSIVE for link in plain):
        return {"license": OURS}
    return {"license": "other", "license_name": "terms-of-backbone-and-data", "license_link": "README.md"}


def normal(licence: str) -> str:
    """Lower case, without a remark in brackets: "BSD-3-Clause (Pose2Sim)" -> "bsd-3-clause"."""
    return re.sub(r"\s*\([^)]*\)\s*$", "", licence).strip().lower()
