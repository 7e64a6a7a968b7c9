"""How many metres the scene's unit is worth: what each witness says, and how sure it is.

Two witnesses rest on contacts. Each gives the logarithm of the scale with a standard deviation:

* depth (as L_c1): a touching site is as far away as what it touches. The median over contacts of
  log(z_site / d_scene); its deviation is the spread of these over the root of the independent contacts.
* stillness (as L_c2): while a foot stands, its way in the camera undoes the camera's own way. With a = c_u - c_t
  of the camera's centre and b of the foot (turned into the world), s minimises sum |s a + b| robustly.

They are combined by inverse variance if they agree, otherwise the surer one is taken. Neither needs the other: a
camera that only turns knows nothing of stillness, a scene without depth near the feet nothing of depth.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

CONTACTS_PER_FACT = 10
"""Neighbouring frames repeat one another: this many contacts count as one independent one."""
FLOOR_SD = 0.05
"""No witness is surer than this, natural logarithm: bodies are not."""
USELESS_SD = 0.7
"""A witness less sure than a factor of two says nothing."""
DISAGREEMENT = 3.0
"""Witnesses farther apart than this many standard deviations are not averaged."""
STANCE_S = 0.2
"""Seconds over which a standing foot is followed."""


@dataclass(kw_only=True, frozen=True)
class Witness:
    """One opinion."""

    log_scale: float
    """Natural logarithm of metres per unit."""
    sd: float
    """Its standard deviation."""


def depth_witness(site_depth: Tensor, scene_depth: Tensor, weight: Tensor) -> Witness | None:
    """Scale from depths of touching sites and of what they touch; None if fewer than three have weight.

    Args:
        site_depth: [...] metres. scene_depth: [...] units. weight: [...] not negative.
    """
    chosen = weight > 0
    if int(chosen.sum()) < 3:
        return None
    ratio = (site_depth[chosen].clamp(min=0.05) / scene_depth[chosen]).log()
    centre = weighted_quantile(ratio, weight[chosen])
    return _witness(float(centre), spread(ratio, centre, weight[chosen]), int(chosen.sum()))


def still_witness(sites_cam: Tensor, rotation: Tensor, centre: Tensor, weight: Tensor, dt: Tensor) -> Witness | None:
    """Scale from feet that stand while the camera travels; None if too little is known.

    Args:
        sites_cam: [T, P, 6, 3] metres. rotation: [T, 3, 3] and centre: [T, 3] world from camera, the centres in
            units. weight: [T, P, 6] of contact. dt: [T - 1] seconds.
    """
    gap = max(1, round(STANCE_S / float(dt.median())))
    if len(sites_cam) <= gap:
        return None
    turned = sites_cam @ rotation.transpose(-1, -2)[:, None]
    foot = turned[gap:] - turned[:-gap]
    # A stance touches all the way: the least weight between its ends counts.
    both = weight.unfold(0, gap + 1, 1).amin(-1)
    chosen = both > 0
    if int(chosen.sum()) < 3:
        return None
    b, w = foot[chosen], both[chosen]
    a = (centre[gap:] - centre[:-gap])[:, None, None].expand_as(foot)[chosen]
    scale = a.new_zeros(())
    robust = w
    residual = b.norm(dim=-1)
    for _ in range(20):
        scale = -(robust[:, None] * a * b).sum() / (robust * a.square().sum(-1)).sum().clamp(min=1e-12)
        residual = (scale * a + b).norm(dim=-1)
        robust = w / residual.clamp(min=1e-3)  # least sum of distances, by reweighting
    if scale <= 0:
        return None
    travel = (w * a.square().sum(-1)).sum().sqrt() * scale
    facts = max(float(w.sum()) / CONTACTS_PER_FACT, 1.0)
    noise = float((w * residual.square()).sum().sqrt() / travel.clamp(min=1e-9)) / facts**0.5
    return _limited(float(scale.log()), noise)


def combine(witnesses: dict[str, Witness | None]) -> tuple[Witness | None, str]:
    """One opinion, and the names of the witnesses behind it joined by "+" ("" if there is none)."""
    known = {name: witness for name, witness in witnesses.items() if witness is not None}
    if not known:
        return None, ""
    surest = min(known, key=lambda name: known[name].sd)
    agreeing = {
        name: w
        for name, w in known.items()
        if abs(w.log_scale - known[surest].log_scale) <= DISAGREEMENT * (w.sd**2 + known[surest].sd ** 2) ** 0.5
    }
    information = {name: w.sd**-2 for name, w in agreeing.items()}
    total = sum(information.values())
    mean = sum(information[name] * w.log_scale for name, w in agreeing.items()) / total
    return Witness(log_scale=mean, sd=total**-0.5), "+".join(sorted(agreeing))


def weighted_quantile(values: Tensor, weights: Tensor, share: float = 0.5) -> Tensor:
    """The value below which `share` of the weight lies; values [N], weights [N] not negative."""
    order = values.argsort()
    below = weights[order].cumsum(0) / weights.sum()
    return values[order][min(int((below < share).sum()), len(values) - 1)]


def spread(values: Tensor, centre: Tensor, weights: Tensor) -> float:
    """Robust standard deviation: the distance from `centre` within which 68 % of the weight lies.

    Not 1.48 times the median distance, which is 0 where half of the values agree and the others do not.
    """
    return float(weighted_quantile((values - centre).abs(), weights, 0.683))


def _witness(log_scale: float, deviation: float, count: int) -> Witness | None:
    return _limited(log_scale, deviation / max(count / CONTACTS_PER_FACT, 1.0) ** 0.5)


def _limited(log_scale: float, sd: float) -> Witness | None:
    sd = (sd**2 + FLOOR_SD**2) ** 0.5
    return Witness(log_scale=log_scale, sd=sd) if sd < USELESS_SD else None
