"""Students as folders and Hub repositories.

    config.json         {"format", "student": StudentConfig, "backbone": id, revision, sha256, licence}
    model.safetensors   the heads; never the backbone
    README.md           card for people

The backbone is loaded anew from its own source, and refused if its hash is not the one trained on.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distill.config import config_to_dict
from distill.errors import FootfallError
from distill.files import atomic_path, read_json, write_json, write_text
from distill.models.backbones import load_backbone
from distill.models.student import Student, StudentConfig

STUDENT_FORMAT: Final = "footfall-student/1"
_CARD: Final = Path(__file__).with_name("card.md")


def save_student(student: Student, folder: Path) -> None:
    """Write a student's folder; `config.json` comes last, so a folder with it is complete."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": STUDENT_FORMAT})
    provenance = student.backbone.module.provenance
    config = {
        "format": STUDENT_FORMAT,
        "student": config_to_dict(student.config),
        "backbone": asdict(provenance),
    }
    write_text(folder / "README.md", str(_card(student)))
    write_json(folder / "config.json", config)


def load_student(id_or_folder: str | Path, revision: str | None = None) -> Student:
    """Load what `save_student` wrote, from a folder or the Hub (offline too, from its cache).

    Raises:
        FootfallError: not found, another format, an unknown key, other weights, another backbone.
    """
    folder = _folder(id_or_folder, revision)
    stored = read_json(folder / "config.json")
    where = f"student {folder}"
    if not isinstance(stored, dict) or stored.get("format") != STUDENT_FORMAT:
        found = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
        raise FootfallError(
            where, got=f"format {found!r}", expected=STUDENT_FORMAT,
            do="load it with the release that wrote it, or train again",
        )  # fmt: skip
    config = _student_config(stored["student"], where)
    backbone = load_backbone(config.backbone, config.backbone_revision)
    trained_on = stored["backbone"]["sha256"]
    if backbone.provenance.sha256 != trained_on:
        raise FootfallError(
            f"{where}: backbone {config.backbone}", got=f"weights {backbone.provenance.sha256}", expected=trained_on,
            do="use the release of footfall or the revision that it was trained with, or train again",
        )  # fmt: skip
    student = Student(config, backbone)
    path = folder / "model.safetensors"
    try:
        student.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FootfallError(
            str(path), got=error, expected="the heads described by config.json", do="save or download both again"
        ) from error
    return student.eval()


def _student_config(stored: Any, where: str) -> StudentConfig:
    """Strict: unknown keys and wrong types are refused."""
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StudentConfig), stored))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise FootfallError(
            f"{where}: config.json", got=error, expected="the fields of StudentConfig", do="restore the file"
        ) from error
    assert isinstance(built, StudentConfig)
    return built


def _folder(id_or_folder: str | Path, revision: str | None) -> Path:
    """A local folder as it is, or the snapshot of a Hub repository."""
    folder = Path(id_or_folder)
    if folder.is_dir():
        return folder
    try:
        patterns = ["config.json", "model.safetensors", "README.md"]
        return Path(snapshot_download(str(id_or_folder), revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FootfallError(
            f"student {id_or_folder}", got=type(error).__name__, expected="a folder, or a repository on the Hub",
            do="check the path, or go online once",
        ) from error  # fmt: skip


def _card(student: Student) -> ModelCard:
    """The card that travels with the weights. It claims no result that was not measured."""
    backbone = student.backbone.module
    provenance = backbone.provenance
    data = ModelCardData(
        library_name="footfall",
        license="apache-2.0" if provenance.licence == "Apache-2.0" else "other",
        tags=["human-motion", "camera-motion", "4d-reconstruction"],
    )
    return ModelCard.from_template(
        data,
        template_path=str(_CARD),
        backbone=provenance.id,
        revision=provenance.revision or "shipped or local",
        sha256=provenance.sha256,
        licence=provenance.licence,
        body_model=student.config.body_model,
        num_betas=student.config.num_betas,
        parameters=f"{sum(p.numel() for p in student.parameters()) / 1e6:.1f}",
        multiple=backbone.preprocessing.multiple,
        long_side=backbone.preprocessing.long_side,
    )
