"""What is run: a case is a way to make initial values wrong and a way to solve. Tables are lists of cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Final

from teacher.benchmark.fast import Fast
from teacher.optimise.config import OptimiseConfig, TermWeights

BODY_BLOCKS: Final = ("root_rot", "root_ray", "root_depth", "pose", "betas")
"""The unknowns of the bodies."""
CONTACT_TERMS: Final = ("contact_align", "contact_still", "penetration", "ground_plane", "ground_up")
"""Terms that contact with the scene gives rise to."""
JOSH_TERMS: Final = (
    "scene_3d", "scene_2d", "contact_align", "contact_still", "keypoints_2d", "smooth", "prior_root_rot",
    "prior_root_pos", "prior_pose", "prior_shape",
)  # fmt: skip
"""The terms of JOSH's paper."""
JOSH_WEIGHTS: Final = {
    "scene_3d": 1.0, "scene_2d": 1.0, "contact_align": 1.0, "contact_still": 0.1, "smooth": 0.1,
    "prior_root_rot": 100.0, "prior_root_pos": 100.0, "prior_pose": 100.0, "prior_shape": 100.0,
}  # fmt: skip
"""Terms and weights of JOSH's released code."""


@dataclass(kw_only=True, frozen=True)
class Case:
    """One row of a table."""

    name: str
    """In file names and JSON."""
    about: str
    """In the Markdown table."""
    errors: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Degradation` that replace those of the track."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `OptimiseConfig` that differ, dotted ("weights.smooth")."""
    fast: Fast = ""
    """Movement on top of the clip's own."""
    strain: int | None = None
    """Draw of `strained_errors` instead of the usual errors."""


def changed(config: OptimiseConfig, changes: Mapping[str, Any]) -> OptimiseConfig:
    """The config with some dotted fields replaced; the parts that validate themselves do so again."""
    result: Any = config
    for name, value in changes.items():
        result = _replaced(result, name.split("."), value)
    return result


def _replaced(config: Any, path: list[str], value: Any) -> Any:
    if not is_dataclass(config) or path[0] not in {f.name for f in fields(config)}:
        raise KeyError(f"no field {path[0]!r} in {type(config).__name__}")
    if len(path) > 1:
        value = _replaced(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: value})  # type: ignore[type-var]


def without(*terms: str) -> dict[str, Any]:
    """Changes that switch terms off."""
    return {f"weights.{term}": 0.0 for term in terms}


def term_cases() -> list[Case]:
    """The table of terms: ours, then JOSH's own set of terms under JOSH's own conditions."""
    ours = [
        Case(name="full", about="full"),
        Case(name="no_contact_align", about="- L_c1", changes=without("contact_align")),
        Case(name="no_contact_still", about="- L_c2", changes=without("contact_still")),
        Case(name="no_bodies", about="- body unknowns", changes={"frozen": list(BODY_BLOCKS)}),
        Case(name="no_contact", about="- every contact term", changes=without(*CONTACT_TERMS)),
        Case(name="no_smooth", about="- smoothness", changes=without("smooth", "camera_smooth")),
        Case(name="no_keypoints", about="- 2D keypoints", changes=without("keypoints_2d")),
        Case(name="no_scene_2d", about="- L_2D", changes=without("scene_2d")),
        Case(name="no_prior", about="- L_p", changes=without(*_priors())),
        Case(name="no_stature", about="- stature", changes=without("stature")),
        *(Case(name=f"no_{name}", about=f"- {name}", changes=without(name)) for name in _newer_terms()),
    ]
    return ours + josh_cases()


def _priors() -> list[str]:
    return [name for name in asdict(TermWeights()) if name.startswith("prior_")]


def _newer_terms() -> list[str]:
    """Terms of ours that have no line of their own above, as far as their weight is not 0."""
    named = {
        "scene_3d", "scene_2d", "contact_align", "contact_still", "smooth", "camera_smooth", "keypoints_2d", "stature",
        "ground_plane", "ground_up", "scale_tie", "scale_prior", "focal_prior", *_priors(),
    }  # fmt: skip
    return [name for name, weight in asdict(TermWeights()).items() if name not in named and weight > 0]


def josh_cases() -> list[Case]:
    """The terms of JOSH alone, in our formulation, with a scene initialiser that claims metres, as MASt3R does.

    In the published ablation L_c1 is all that can mend the scene's scale: no closed-form estimate, no stature.
    The scene's unit is therefore taken for a metre in all of these cases, right or wrong. Once with the weights of
    the released code, once with ours.
    """
    weights = asdict(TermWeights())
    released = {f"weights.{name}": JOSH_WEIGHTS.get(name, 0.0) for name in weights}
    ours = without(*(name for name in weights if name not in JOSH_TERMS))
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "full": ("", {}),
        "no_contact_align": (" - L_c1", without("contact_align")),
        "no_contact_still": (" - L_c2", without("contact_still")),
        "no_bodies": (" - body unknowns", {"frozen": list(BODY_BLOCKS)}),
    }
    return [
        Case(name=f"{prefix}_{name}", about=words + minus, errors={"metric": True}, changes=preset | change)
        for prefix, words, preset in (
            ("josh", "JOSH's terms and weights", released), ("josh_terms", "JOSH's terms, our weights", ours),
        )
        for name, (minus, change) in changes.items()
    ]  # fmt: skip


def robustness_cases() -> list[Case]:
    """What may go wrong, each against the reference of the same kind."""
    right: dict[str, Any] = {"wrong_contacts": 0.0}
    return [
        Case(name="usual", about="usual errors"),
        Case(name="focal_long", about="focal length 20 % too long", errors={"focal": 1.2}),
        Case(name="focal_short", about="focal length 20 % too short", errors={"focal": 0.8}),
        Case(name="contacts_right", about="contact labels right", errors=right),
        Case(
            name="contacts_flipped", about="20 % of contact labels flipped",
            errors={"wrong_contacts": 0.2, "wrong_contact_s": 0.0},
        ),
        Case(name="outliers", about="30 % outlier matches", errors={"outliers": 0.3}),
        Case(name="unit_1", about="scene in metres, unsaid", errors={"unit": 1.0}),
        Case(name="unit_0.2", about="scene 0.2 times its size", errors={"unit": 0.2}),
        Case(name="unit_5", about="scene 5 times its size", errors={"unit": 5.0}),
        Case(name="lost", about="track lost for 20 frames", errors={"lost_frames": 20}),
        Case(name="clap", about="claps", fast="clap"),
        Case(name="kick", about="kicks", fast="kick"),
    ]  # fmt: skip


def quality_cases(draws: int) -> list[Case]:
    """Clips from better than usual to hopeless."""
    return [Case(name=f"strain_{draw}", about=f"draw {draw}", strain=draw) for draw in range(draws)]
