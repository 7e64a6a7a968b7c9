"""Names of the formats, and the settings that they need: checked before anything runs, without reading any file."""

from __future__ import annotations

from typing import Final

SMPL_BODIES: Final = {
    "wham": "smpl",
    "tram": "smpl",
    "phalp": "smpl",
    "gvhmr": "smplx",
    "prompthmr": "smplx",
    "human3r": "smplx",
}
"""Formats of bodies, and the licensed model that their numbers belong to."""
NAMES: Final = {
    "people": ("sam3d-body",),
    "cameras": ("colmap-model", "tum", "tum-frames", "poses", "droid", "tram", "prompthmr", "human3r", "josh"),
    "bodies": tuple(SMPL_BODIES),
    "contacts": ("deco", "vertex-labels"),
}
"""Formats that may stand before the colon in `SLOT.use`, besides `files`."""


def check_settings(
    *, bodies_use: str, bodies_model: str, contacts_use: str, contacts_model: str, optimise_file: str
) -> None:
    """Whether the three places that need the licensed file of bodies from elsewhere all have it.

    Raises:
        ValueError: one of them has not.
    """
    model = SMPL_BODIES.get(bodies_use.partition(":")[0]) if ":" in bodies_use else None
    if model is not None:
        given = {"bodies.body_model": bodies_model}
        if ":" not in contacts_use:  # the embedded one poses the bodies; labels from elsewhere need SMPL's own mesh
            given["contacts.body_model"] = contacts_model
        wrong = [f"{key}={value}" for key, value in given.items() if not value.startswith(f"{model}:")]
        if not optimise_file:
            wrong.append("optimise.body_file= (empty)")
        if wrong:
            raise ValueError(
                f"bodies.use={bodies_use} needs your licensed {model} file: got {', '.join(wrong)}; set "
                f"bodies.body_model={model}:FILE, contacts.body_model={model}:FILE and optimise.body_file=FILE"
            )
    if contacts_use.partition(":")[0] in NAMES["contacts"] and not contacts_model.startswith("smpl:"):
        raise ValueError(
            f"contacts.use={contacts_use} needs your licensed SMPL file: got contacts.body_model={contacts_model}; set "
            "contacts.body_model=smpl:FILE"
        )
