"""How sure the size of the solved world is, and what each witness says about it: written beside every result.

Metres come from people or from an initialiser that knows them. Contacts tie the scene to the bodies (depth: as L_c1,
stillness: as L_c2), and bodies are as large as people are. With r the ratio of scene and bodies, b the bodies' size,
both as logarithms,

    var(people) = var(r) + var(b),  var(b) = (stature_sd / stature_mean)^2 / people,

which no number of contacts lowers below var(b). A scale that the initialiser calls metric is independent of it and is
combined with it by inverse variance. Deviations grow by the root of chi^2 per degree of freedom if witnesses
disagree, as in the Review of Particle Physics (section "Unconstrained averaging"). Not in JOSH, which has no
uncertainty.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from teacher.optimise.config import OptimiseConfig
from teacher.optimise.objective import certainty
from teacher.optimise.problem import Problem
from teacher.optimise.scale import FLOOR_SD, Witness, depth_witness, still_witness
from teacher.optimise.solver import Solution

CONTACT_SD: Final = 0.02
"""No ratio of scene and bodies is surer than this, natural logarithm: soles and surfaces are a few centimetres off."""


def scale_report(problem: Problem, solution: Solution, config: OptimiseConfig) -> dict[str, Any]:
    """Metres per unit of the scene, standard deviation (natural logarithm) of the world's size, and the witnesses.

    `witnesses` holds, for each that could be heard, the `metres_per_unit` it asks for in the solved world and the `sd`
    of its logarithm. "stature" says how large the world were if all people had the population's mean height. `log_sd`
    is 0 if the cameras are known in metres.
    """
    solved = solution.evidence.unit * float(solution.after.scale)
    heard = _witnesses(solution, config)
    if problem.scale_known:
        log_sd = 0.0
    else:
        ratios = [heard[name] for name in ("depth", "still") if name in heard]
        log_sd = posterior_sd(ratios, heard["stature"], heard.get("metric"), tied=problem.has_scene)
    return {
        "metres_per_unit": solved,
        "log_sd": round(log_sd, 4),
        "first_estimate_from": solution.evidence.unit_from,
        "witnesses": {
            name: {"metres_per_unit": solved * float(np.exp(w.log_scale)), "sd": round(w.sd, 4)}
            for name, w in heard.items()
        },
    }


def posterior_sd(ratios: list[Witness], stature: Witness, metric: Witness | None, *, tied: bool) -> float:
    """Standard deviation of the log size of the world.

    Args:
        ratios: what contacts say about scene against bodies; their part of `FLOOR_SD` is the bodies' and is left out.
        stature: of the people. metric: of the initialiser, if it claims metres.
        tied: whether there is a scene, which no contact then ties to the bodies if `ratios` is empty.
    """
    own = [Witness(log_scale=w.log_scale, sd=max((w.sd**2 - FLOOR_SD**2), CONTACT_SD**2) ** 0.5) for w in ratios]
    if own:
        people = [Witness(log_scale=_mean(own), sd=(_sd(own) ** 2 + stature.sd**2) ** 0.5)]
    else:
        people = [] if tied else [stature]
    known = people + ([metric] if metric is not None else [])
    return _sd(known) if known else float(np.log(2))  # a guess from the pelvis is good to a factor of two


def _mean(witnesses: list[Witness]) -> float:
    information = np.array([w.sd**-2 for w in witnesses])
    return float((information * [w.log_scale for w in witnesses]).sum() / information.sum())


def _sd(witnesses: list[Witness]) -> float:
    """Of the mean by inverse variance, enlarged where the witnesses disagree."""
    mean = _mean(witnesses)
    chi2 = sum(((w.log_scale - mean) / w.sd) ** 2 for w in witnesses)
    alone = float(sum(w.sd**-2 for w in witnesses)) ** -0.5
    return alone * max(1.0, chi2 / max(len(witnesses) - 1, 1)) ** 0.5


def _witnesses(solution: Solution, config: OptimiseConfig) -> dict[str, Witness]:
    """What is said about the solved world: 0 is agreement with it."""
    state, e = solution.after, solution.evidence
    present = e.person_weight > 0
    weight = certainty(e.contact_prob) * present[..., None]
    found: dict[str, Witness | None] = {}
    if e.partners is not None:
        surface = state.depth_scale[:, None, None] * e.partners.depth
        found["depth"] = depth_witness(state.cam.sites[..., 2], surface, weight * e.partners.weight)
    if not e.camera_fixed:
        found["still"] = still_witness(state.cam.sites, state.rotation, state.centre, weight, e.dt)
    stature = e.body.model.stature(state.betas)[present.any(0)]
    found["stature"] = Witness(
        log_scale=float((config.stature_mean / stature).log().mean()),
        sd=config.stature_sd / config.stature_mean / len(stature) ** 0.5,
    )
    if e.unit_from == "metric":
        found["metric"] = Witness(log_scale=-float(state.scale.log()), sd=config.scale_sd)
    return {name: witness for name, witness in found.items() if witness is not None}
