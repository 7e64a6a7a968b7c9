"""Contacts re-estimated as the world improves: labels are evidence of a chain of states, not facts.

A site touches or it does not, and stays so for a while. Each frame gives evidence, as log-odds: the label of the
contacts stage, the speed of the site in the solved world, and its distance from the scene's surface. The posterior of
the two-state chain (forward-backward, Rabiner 1989) ignores labels that flicker, drops those that motion and scene
contradict, and finds contacts that nobody labelled. Not in JOSH, whose labels are fixed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from teacher.stagefiles import Array

LASTS_S: Final = 0.35
"""Mean time that a foot stands, or flies, seconds."""
MEMORY_S: Final = 0.10
"""Errors of labels and of speeds in neighbouring frames are alike: so long, in seconds, they count as one."""
STILL_MPS: Final = 0.15
"""Standard deviation of the speed of a site that touches, m/s."""
FLYING_MPS: Final = 3.0
"""Speeds of a free foot are spread evenly up to about this, m/s."""
GAP_M: Final = 0.05
"""Standard deviation of the distance between a touching site and the reconstructed surface, metres."""
FREE_M: Final = 0.25
"""Distances of a free foot are spread evenly up to about this, metres."""
MOST: Final = 4.0
"""Largest log-odds that one piece of evidence gives."""


def reestimate(
    given: Tensor, dt: Tensor, *, speed: Tensor | None = None, gap: Tensor | None = None, seen: Tensor | None = None
) -> Tensor:
    """Contact probabilities [T, P, S] from labels and, if there is one, from a solved world.

    Args:
        given: [T, P, S] probabilities of the contacts stage. dt: [T - 1] seconds.
        speed: [T, P, S] m/s. gap: [T, P, S] metres from the surface. seen: [T, P, S] bool, where `gap` means something.
    """
    evidence = torch.logit(given, eps=0.05)
    if speed is not None:
        evidence = evidence + _evidence(speed, STILL_MPS, FLYING_MPS)
    step = torch.cat((dt[:1], dt))[:, None, None]
    evidence = evidence * (step / MEMORY_S).clamp(max=1)
    if gap is not None and seen is not None:
        evidence = evidence + torch.where(seen, _evidence(gap, GAP_M, FREE_M), 0.0) * (step / MEMORY_S).clamp(max=1)
    stay = 1 - 0.5 * (1 - np.exp(-2 * dt.double().cpu().numpy() / LASTS_S))
    posterior = _smooth(evidence.double().cpu().numpy(), stay)
    return torch.from_numpy(posterior).to(given)


def speeds(sites_world: Tensor, dt: Tensor) -> Tensor:
    """[T, P, S] m/s: the slower of the two neighbouring steps, since the ends of a stance touch too."""
    step = (sites_world[1:] - sites_world[:-1]).norm(dim=-1) / dt[:, None, None]
    return torch.minimum(torch.cat((step[:1], step)), torch.cat((step, step[-1:])))


def _evidence(value: Tensor, deviation: float, reach: float) -> Tensor:
    """log N(value; 0, deviation) / U(value; 0, reach), bounded."""
    at_rest = float(np.log(2 * reach / (deviation * np.sqrt(2 * np.pi))))
    return (at_rest - 0.5 * (value / deviation).square()).clamp(-MOST, MOST)


def _smooth(evidence: Array, stay: Array) -> Array:
    """Posterior probability of state 1: evidence [T, ...] as log-odds, stay [T - 1] probability to keep the state."""
    frames = len(evidence)
    forward, backward = evidence.copy(), np.zeros_like(evidence)
    for t in range(1, frames):
        forward[t] += _carried(forward[t - 1], stay[t - 1])
    for t in range(frames - 2, -1, -1):
        backward[t] = _carried(backward[t + 1] + evidence[t + 1], stay[t])
    return 1 / (1 + np.exp(-(forward + backward)))


def _carried(odds: Array, stay: float) -> Array:
    """Log-odds of the neighbouring frame's state."""
    touching = 1 / (1 + np.exp(-odds))
    there = stay * touching + (1 - stay) * (1 - touching)
    return np.log(there / (1 - there))
