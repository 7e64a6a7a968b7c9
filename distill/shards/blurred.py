"""A copy of labels in which faces are blurred, for those that were labelled from clear frames and shall be uploaded.

The copy lies in `OUT/blurred` and is a folder of labels like any other. It stays there: a push that was cut off goes on
with it, and later ones blur only the clips that are new. `OUT` itself is not changed.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.files import atomic_path
from distill.people.blur import blur_heads
from distill.people.heads import encode_jpeg, find_heads, heads_of_labels
from distill.shards.labels import Labels, folder_lock, read_labels, whole_pieces
from distill.shards.rows import Row
from distill.shards.schema import Sample
from distill.shards.statistics import write_statistics
from distill.shards.tarred import from_piece
from distill.shards.writer import append_shards, provenance_of, write_shards

log = logging.getLogger(__name__)
Array = NDArray[Any]
COPY_NAME: Final = "blurred"
SHARD_BYTES: Final = 1 << 26
"""A shard of the copy is closed when it is this large."""


def clear_clips(manifest: Mapping[str, Any]) -> list[str]:
    """Clips whose faces are not blurred."""
    return sorted(clip for clip, row in manifest["clips"].items() if not row["blurred"])


def blurred_copy(out: Path) -> Path:
    """Bring `out/blurred` into agreement with labels; every face in it is blurred.

    Clips that were blurred at ingest are taken over as they are. Of the others the frames alone change; their labels,
    made from clear frames, stay (`labelled_clear` in the copy's manifest names these clips), and their Gaussians, which
    show faces, are left out.

    Args:
        out: a folder of labels without faults.

    Returns:
        The copy's folder.

    Raises:
        FootfallError: the detectors' weights or the extra `people` are missing.
    """
    copy = out / COPY_NAME
    with folder_lock(out):
        labels, before = read_labels(out), read_labels(copy)
        assert labels is not None
        clips: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(labels.all_rows, key=lambda row: row.first_frame):
            clips[row.clip].append(row)
        made_of = {clip: _hash_of(rows) for clip, rows in clips.items()}
        kept = _same_clips(before, clips, made_of) if before is not None else set()
        clear = clear_clips(labels.manifest)
        todo = [clip for clip in sorted(clips) if clip not in kept]
        if to_blur := sorted(set(todo) & set(clear)):
            log.warning("faces of %d clips, such as %s, are blurred first, into %s", len(to_blur), to_blur[0], copy)
        samples = (sample for clip in todo for sample in _samples_of(labels, clips[clip], blur=clip in clear))
        provenance = {**provenance_of(labels.manifest), "labelled_clear": clear}
        provenance["gaussians"] = _copy_gaussians(labels, copy, set(clear))
        if before is None:
            manifest = write_shards(copy, samples, max_bytes=SHARD_BYTES, provenance=provenance, made_of=made_of)
        else:
            manifest = append_shards(
                before, keep=lambda row: row.clip in kept, samples=samples, max_bytes=SHARD_BYTES,
                provenance=provenance, made_of=made_of,
            )  # fmt: skip
        write_statistics(copy, manifest)
    return copy


def _hash_of(rows: list[Row]) -> str:
    """Changes when the samples of a clip do."""
    return hashlib.sha256(" ".join(row.sha256 for row in rows).encode()).hexdigest()[:16]


def _same_clips(copy: Labels, clips: Mapping[str, list[Row]], made_of: Mapping[str, str]) -> set[str]:
    """Clips that the copy has, whole and as they are now."""
    here: dict[str, set[str]] = defaultdict(set)
    for row in copy.all_rows:
        here[row.clip].add(row.key)
    facts = copy.manifest["clips"]
    return {
        clip for clip, rows in clips.items()
        if here[clip] == {row.key for row in rows} and facts[clip].get("made_of") == made_of[clip]
    }  # fmt: skip


def _samples_of(labels: Labels, rows: list[Row], *, blur: bool) -> Iterator[Sample]:
    """The samples of a clip in order; with `blur`, heads are found over all of its frames first."""
    if not blur:
        yield from _stored(labels, rows)
        return
    known: dict[int, Array] = {}  # frame of the clip -> heads that the labels know of; samples may overlap

    def pictures() -> Iterator[Array]:
        for sample in _stored(labels, rows):
            arrays = sample.arrays
            for number, heads in enumerate(heads_of_labels(arrays["K"], arrays["joints_cam"], arrays["present"])):
                frame = sample.meta["first_frame"] + number
                if frame not in known:
                    known[frame] = heads
                    yield sample.image(number)

    found = find_heads(pictures())
    heads = {frame: np.concatenate((known[frame], seen)) for frame, seen in zip(known, found, strict=True)}
    for sample in _stored(labels, rows):
        first = sample.meta["first_frame"]
        images = (blur_heads(sample.image(k), heads[first + k]) for k in range(len(sample.frames)))
        yield replace(sample, frames=[encode_jpeg(image) for image in images], meta={**sample.meta, "blurred": True})


def _stored(labels: Labels, rows: list[Row]) -> Iterator[Sample]:
    for row in rows:
        for _, piece in whole_pieces(labels.path(row.shard), [row]):
            if piece is not None:
                yield from_piece(piece)


def _copy_gaussians(labels: Labels, copy: Path, without: set[str]) -> dict[str, Any]:
    """Gaussians of the clips that were blurred at ingest; their rows of the manifest."""
    rows = {clip: row for clip, row in (labels.manifest.get("gaussians") or {}).items() if clip not in without}
    shutil.rmtree(copy / "gaussians", ignore_errors=True)
    for clip, row in rows.items():
        for name in row["files"]:
            with atomic_path(copy / "gaussians" / clip / name) as temporary:
                shutil.copyfile(labels.out / "gaussians" / clip / name, temporary)
    return rows
