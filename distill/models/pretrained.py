"""Students as folders, shipped names and Hub repositories; `student_files` says what is in a folder.

The backbone is loaded anew from its own source, and refused if its hash is not the one trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file, save_file

from distill.config import config_to_dict
from distill.errors import FootfallError
from distill.files import atomic_path, sha256_of, write_json, write_text
from distill.models.backbones import load_backbone
from distill.models.card import make_card
from distill.models.shipped import find_shipped, is_shipped
from distill.models.student import Student, StudentConfig
from distill.models.student_files import (
    CARD,
    CONFIG,
    RECORD,
    STUDENT_FORMAT,
    WEIGHTS,
    check_folder,
    check_tensors,
    read_config,
)
from distill.training_record import make_record


def save_student(
    student: Student, folder: Path, record: Mapping[str, Any] | None = None, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a student's folder; `config.json` comes last and names the hash of the weights.

    So a folder that is read while it is written is refused, never mixed.

    Args:
        student: whose heads are saved.
        folder: made if it is not there; files of an earlier save are replaced.
        record: what is known about the run (`training_record.make_record`), for the card; None says there was none.
        dtype: of the stored weights; they are loaded as float32 again.
    """
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in student.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(weights, temporary, metadata={"format": STUDENT_FORMAT})
    config = {
        "format": STUDENT_FORMAT,
        "student": config_to_dict(student.config),
        "backbone": asdict(student.backbone.module.provenance),
        "preprocessing": asdict(student.backbone.module.preprocessing),
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "weights_sha256": sha256_of(folder / WEIGHTS),
    }
    write_record(folder, config, record)
    write_json(folder / CONFIG, config)


def write_card(
    folder: Path, run: Path, *, manifests: Sequence[Path] | None = None,
    held_out_manifests: Sequence[Path] | None = None, reports: Sequence[Path] = (),
    step: int | None = None, seconds: float | None = None,
) -> None:  # fmt: skip
    """Write card and record of a saved student anew, from its run; arguments as `training_record.make_record`.

    Raises:
        FootfallError: not a student, not a run, or a report about other weights.
    """
    record = make_record(
        run, step=step, seconds=seconds, manifests=manifests, held_out_manifests=held_out_manifests, reports=reports
    )
    write_record(folder, read_config(folder), record)


def write_record(folder: Path, config: Mapping[str, Any], record: Mapping[str, Any] | None) -> None:
    """Write the card and, if there is one, the record that it is made from; an earlier record is replaced.

    Raises:
        FootfallError: a report in the record is about other weights.
    """
    for report in record["reports"] if record else []:
        if report["weights_sha256"] not in (None, config["weights_sha256"]):
            raise FootfallError(
                f"report {report['name']}", got=f"scores of weights {report['weights_sha256']}",
                expected=f"of these weights, {config['weights_sha256']}", do="evaluate this very folder",
            )  # fmt: skip
    if record is not None:
        write_json(folder / RECORD, record)
    else:
        (folder / RECORD).unlink(missing_ok=True)
    write_text(folder / CARD, make_card(config, record))


def load_student(id_or_folder: str | Path, revision: str | None = None) -> Student:
    """Load what `save_student` wrote.

    Args:
        id_or_folder: a shipped name ("tiny"; a folder of that name is "./tiny"), a folder, or ORG/NAME[@REVISION]
            on the Hub, whose cache is used where it can be.
        revision: commit, tag or branch on the Hub.

    Raises:
        FootfallError: not found, another format, an unknown key, other or damaged weights, another backbone.
    """
    folder = find_student(id_or_folder, revision)
    stored = check_folder(folder)
    where = f"student {folder}"
    config = _student_config(stored["student"], where)
    backbone = load_backbone(config.backbone, config.backbone_revision)
    trained_on = stored["backbone"]["sha256"]
    if backbone.provenance.sha256 != trained_on:
        raise FootfallError(
            f"{where}: backbone {config.backbone}", got=f"weights {backbone.provenance.sha256}", expected=trained_on,
            do="use the release of footfall or the revision that it was trained with, or train again",
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and replaced
        student = Student(config, backbone)
    wanted = {name: tensor.shape for name, tensor in student.state_dict().items()}
    check_tensors(folder / WEIGHTS, wanted, backbone.state_dict())
    student.load_state_dict(load_file(folder / WEIGHTS))
    return student.eval()


def find_student(id_or_folder: str | Path, revision: str | None = None) -> Path:
    """Folder of a student: a shipped one by its name, a local one as it is, or a snapshot in the Hub's cache.

    Raises:
        FootfallError: none of them.
    """
    name = str(id_or_folder)
    if isinstance(id_or_folder, str) and is_shipped(name):
        return find_shipped(name)
    folder = Path(id_or_folder)
    if folder.is_dir():
        return folder
    from distill.hub import fetch_student, is_hub_id

    if isinstance(id_or_folder, str) and is_hub_id(name):
        return fetch_student(name, revision).folder
    return find_shipped(name)


def _student_config(stored: Any, where: str) -> StudentConfig:
    """Strict: unknown keys and wrong types are refused."""
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StudentConfig), stored))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise FootfallError(
            f"{where}: {CONFIG}", got=error, expected="the fields of StudentConfig", do="restore the file"
        ) from error
    assert isinstance(built, StudentConfig)
    return built
