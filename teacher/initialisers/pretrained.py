"""Pretrained networks of `transformers`: found in a folder or on the Hub, with licence, revision and hash recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import FootfallError, require
from distill.files import read_json, sha256_of

FILES = ["*.json", "*.safetensors", "*.txt", "README.md"]
"""What is downloaded of a repository: never pickled weights, never code."""


@dataclass(kw_only=True)
class Pretrained:
    """Files of a network, on this machine."""

    name: str
    """Hub id or folder, as asked for."""
    folder: Path
    """With config.json and *.safetensors."""
    revision: str | None
    """Commit on the Hub; None for a local folder."""
    licence: str
    """As its model card states it, or "unknown"."""
    config: dict[str, Any]
    """config.json."""

    @property
    def model_type(self) -> str:
        """Architecture in the words of `transformers`."""
        return str(self.config.get("model_type"))

    def record(self) -> dict[str, Any]:
        """Entry of a stage's record: {name: {sha256, licence, revision}}, one hash for each file of weights."""
        hashes = [sha256_of(path) for path in sorted(self.folder.glob("*.safetensors"))]
        return {self.name: {"sha256": "+".join(hashes), "licence": self.licence, "revision": self.revision}}


def find_pretrained(name: str, revision: str = "") -> Pretrained:
    """A local folder, or a repository on the Hub (offline from its cache).

    Args:
        name: folder or "ORG/NAME". revision: commit, tag or branch; empty takes the newest.

    Raises:
        FootfallError: not found, behind a licence to be accepted first, or without safe weights.
    """
    require("transformers", extra="neural")
    local = Path(name).is_dir()
    folder = Path(name) if local else _download(name, revision)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise FootfallError(
            f"model {name}", got=sorted(p.name for p in folder.iterdir())[:8], expected="config.json and *.safetensors",
            do="take a repository made for transformers; pickled weights (.bin, .pt) are not read",
        )  # fmt: skip
    return Pretrained(
        name=name, folder=folder, revision=None if local else folder.name, licence=card_licence(folder),
        config=read_json(folder / "config.json"),
    )  # fmt: skip


def _download(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=FILES))
    except GatedRepoError as error:
        raise FootfallError(
            f"model {name}", got="its owner gives it only to those who accept a licence", expected="access",
            do=f"accept it at https://huggingface.co/{name}, run `hf auth login`, and try again",
        ) from error  # fmt: skip
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FootfallError(
            f"model {name}", got=type(error).__name__, expected="a folder, or a repository on the Hub",
            do="check the name, go online once, and for a model behind a licence (SAM 3) accept it on its page on"
            " huggingface.co and run `hf auth login`",
        ) from error  # fmt: skip


def card_licence(folder: Path) -> str:
    """The `license` line of a model card."""
    from huggingface_hub import ModelCard

    if not (folder / "README.md").is_file():
        return "unknown"
    data = ModelCard.load(folder / "README.md").data
    return str(data.get("license_name") or data.get("license") or "unknown")
