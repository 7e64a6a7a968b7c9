"""The one error that users see, and the one way to ask for an optional package."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType

from distill.secrets import scrub


class FootfallError(ValueError):
    """A mistake that the user can mend. The command line prints it as one line and exits with 2.

    Args:
        what: the thing that is wrong ("manifest row 3", "config train.yaml").
        got: what was found there.
        expected: what should have been there.
        do: the next step for the user.
    """

    def __init__(self, what: str, *, got: object, expected: object, do: str) -> None:
        self.what, self.got, self.expected, self.do = what, got, expected, do
        text = f"{what}: got {got}; expected {expected}; {do}"
        super().__init__(scrub(" ".join(text.split())))


def is_installed(package: str) -> bool:
    """Whether `package` can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Raises:
        FootfallError: the package is not installed; the message carries the pip line.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != package.split(".")[0]:
            raise
        raise FootfallError(
            f"package {package}",
            got="not installed",
            expected=f"the extra [{extra}]",
            do=f"run: pip install 'footfall[{extra}]'",
        ) from error


@contextlib.contextmanager
def refuse_damage(what: object, *, expected: object, do: str) -> Iterator[None]:
    """Inside, whatever a damaged or foreign file makes its reader raise becomes the one error that users see.

    A file whose fields hold other things than they should makes code that reads it raise a dozen kinds of errors, and
    no list of checks foresees them all. Not caught: a lack of memory, which is never the file's word alone (sizes are
    bounded before memory is taken).

    Args:
        what: the file. expected, do: as `FootfallError`.

    Raises:
        FootfallError: in place of any other exception.
    """
    try:
        yield
    except (FootfallError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).split("\n")[0][:200]
        raise FootfallError(str(what), got=f"{type(error).__name__}: {reason}", expected=expected, do=do) from error
