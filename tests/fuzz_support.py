"""Damaged and hostile files: valid ones, changed in bytes or in what they say. Everything follows from a seed."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pickle
import random
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from distill.errors import FootfallError

FUZZ: Final = int(os.environ.get("FOOTFALL_FUZZ", "25"))
"""Inputs for each reader; `FOOTFALL_FUZZ=1000` is the full run (docs/security.md)."""
HEALTH: Final = list(HealthCheck)
PHASES: Final = (Phase.generate,)
"""Seeds are not made simpler: a smaller number is no smaller damage."""
HEADROOM: Final = 1 << 30
"""Bytes of address space that reading one small file may add."""
CANARY: Final = Path(os.environ.get("TMPDIR", "/tmp")) / f"footfall-canary-{os.getpid()}"
"""What appears if anything of a hostile file is run."""
TOKENS: Final = (
    b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 40, b"9" * 5000, b"null", b"true", b"[" * 3000, b'{"a":' * 3000,
    b"\0", b"\xff\xfe", b'"', b"\n", b"../../../etc/passwd", b"file:///etc/passwd", b"&a [*a, *a]", b"<<: *a",
    b"${oc.env:HOME}",
    f"!!python/object/apply:os.system ['touch {CANARY}']".encode(), "\u202e\U0001f600".encode(), b"0x7fffffff",
)  # fmt: skip
"""Pieces that parsers trip over."""


class Payload:
    """Pickled, it creates the canary when somebody runs it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


def odd_values() -> list[Any]:
    """What a field may hold instead of what belongs there."""
    return [
        None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 2000, b"\0", [], {}, [[]], [None] * 3,
        {"a": {"b": [1]}}, np.zeros(0), np.full(3, np.nan), np.zeros((1,) * 12), np.zeros((2, 3, 4), np.int8),
        np.array("text"), np.array([1, None], dtype=object), np.zeros(3, np.complex128), np.full((24, 4, 4), 1e300),
        np.array([2**62], np.uint64), np.zeros((24, 0)), np.ones((3, 3)), Payload(),
    ]  # fmt: skip


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, move, insert: one to four times."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(out) + 1) for _ in range(2))
        b = min(b, a + rng.choice((1, 4, 64, 4096)))
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[rng.choice((a, len(out) // 2, len(out) - 1 if out else 0)) :]
        elif kind == 2:
            del out[a:b]
        elif kind == 3:
            out[a:a] = out[a:b] * rng.randint(1, 3)
        elif kind == 4:
            out[a:b] = rng.choice(TOKENS)
        elif kind == 5:
            out[a:b] = rng.randbytes(b - a)
        else:  # in the header, where sizes are
            head = min(len(out), 256)
            at = rng.randrange(head) if head else 0
            out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"9999", b"\0\0\0\0"))
    return bytes(out)


def change_tree(tree: Any, rng: random.Random) -> Any:
    """One or two entries of nested containers replaced by something odd, dropped, or added."""
    changed = {"root": copy.deepcopy(tree)}
    for _ in range(rng.randint(1, 2)):
        places = list(_places(changed))
        holder, key = rng.choice(places)
        odd = rng.choice(odd_values())
        kind = rng.randrange(4)
        if kind == 0 and holder is not changed:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict) and holder is not changed:
            holder[rng.choice(("", "unknown", 7, "../up"))] = odd
        elif kind == 2 and isinstance(holder[key], np.ndarray) and holder[key].size and holder[key].dtype.kind in "fiu":
            holder[key] = _change_array(holder[key], rng)
        else:
            holder[key] = odd
    return changed["root"]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(entries):
        yield tree, key
        yield from _places(value)


def _change_array(array: Any, rng: random.Random) -> Any:
    kind = rng.randrange(5)
    if kind == 0:
        return array[: len(array) // 2] if array.ndim else array
    if kind == 1:
        return array.reshape(-1)
    if kind == 2:
        return array.astype(rng.choice(("float16", "int64", "complex64", "U8")))
    out = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    odd = (float("nan"), 1e300, -1e300) if out.dtype.kind == "f" else (-1, 2**40, -(2**40))
    out.flat[rng.randrange(out.size)] = rng.choice(odd)
    return out


def _to_npz(tree: Any) -> bytes:
    stream = io.BytesIO()
    entries = tree if isinstance(tree, dict) else {"a": tree}
    np.savez(stream, **{str(key): _storable(value) for key, value in entries.items()})
    return stream.getvalue()


def _to_npy(tree: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, _storable(tree), allow_pickle=True)
    return stream.getvalue()


def _storable(value: Any) -> Any:
    if isinstance(value, (dict, list, Payload)):
        box = np.empty((), dtype=object)
        box[()] = value
        return box
    return np.asarray(value)


def _from_npz(data: bytes) -> Any:
    with np.load(io.BytesIO(data), allow_pickle=True) as stored:
        return {name: stored[name] for name in stored.files}


def _from_npy(data: bytes) -> Any:
    array = np.load(io.BytesIO(data), allow_pickle=True)
    return array.item() if array.shape == () else array


def _to_json(tree: Any) -> bytes:
    return json.dumps(tree, default=lambda value: str(value)[:100]).encode()


CODECS: Final[dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]] = {
    "json": (json.loads, _to_json),
    "jsonl": (
        lambda data: [json.loads(line) for line in data.splitlines()],
        lambda tree: b"\n".join(map(_to_json, tree if isinstance(tree, list) else [tree])),
    ),
    "npz": (_from_npz, _to_npz),
    "npy": (_from_npy, _to_npy),
    "pkl": (pickle.loads, pickle.dumps),
}
"""Formats that can be taken apart and put together again: kind -> (read, write). The files are our own."""


@dataclass(kw_only=True)
class Case:
    """One reader: how a valid input is made and how it is read."""

    name: str
    write: Callable[[Path], Path]
    """Writes a valid file or folder below a fresh folder; returns what `read` takes."""
    read: Callable[[Path], Any]
    files: str = "*"
    """Which files of a folder are changed."""
    codecs: tuple[str, ...] = ()
    """Endings of files that are also changed in what they say (`CODECS`)."""
    refuses: bool = True
    """Whether damage is an error; else the reader answers as if there were no file."""


def attack(case: Case, folder: Path, seed: int, valid: dict[Path, bytes]) -> bool:
    """Change one file, read, put it back; whether it was refused. Anything but `FootfallError` goes through.

    Args:
        case: the reader. folder: what `case.write` returned. seed: decides everything. valid: files and their bytes.
    """
    rng = random.Random(seed)
    target = rng.choice(sorted(valid))
    data, kind = valid[target], target.suffix[1:]
    try:
        if kind in case.codecs and rng.random() < 0.6:
            parse, dump = CODECS[kind]
            changed = dump(change_tree(parse(data), rng))
        else:
            changed = change_bytes(data, rng)
        target.write_bytes(changed)
        with bounded_memory():
            case.read(folder)
    except FootfallError as error:
        assert "\n" not in str(error) or hasattr(error, "rows"), f"more than one line: {error}"
        assert "allocate" not in str(error), f"memory was asked for before the size was checked: {error}"
        return True
    finally:
        target.write_bytes(data)
    return False


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Address space may grow by `HEADROOM` inside; beyond, the system refuses it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fuzz(case: Case, folder: Path) -> None:
    """Read a valid input, then `FUZZ` damaged ones; each is read or refused, and nothing in it is run."""
    target = case.write(folder)
    case.read(target)  # as it is, it is read
    valid, refused = files_of(case, target), []

    @settings(
        max_examples=FUZZ, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(seed=st.integers(0, 2**32 - 1))
    def run(seed: int) -> None:
        refused.append(attack(case, target, seed, valid))

    run()
    assert any(refused) == case.refuses, "nothing was damaged"
    assert not CANARY.exists(), "a program in a file was run"


def files_of(case: Case, target: Path) -> dict[Path, bytes]:
    """The files that are changed, and what is in them."""
    paths = [target] if target.is_file() else [p for p in sorted(target.rglob(case.files)) if p.is_file()]
    return {path: path.read_bytes() for path in paths}
