"""Errors that speak to the user. Each knows its exit code.

The tree::

    RobustbenchError            70  something inside is wrong
    |-- UsageError               2  the command or a file the user wrote is wrong
    |   |-- ConfigError          2  a grid file, a flag, a name
    |   |   `-- DamagedError     2  what a run holds is not what was written
    |   |-- CardError            2  a card in the catalogue
    |   |-- ThreatError          2  an impossible threat model
    |   `-- LockedError          2  another process writes to this run
    |-- ModelError               3  the model cannot be loaded or used
    |   |-- ProcessEndedError    3  the model ended its process, or it crashed
    |   `-- UnreachableError     3  the service that is the model does not answer
    |       `-- ModelTimeoutError    3  the model does not answer within its time limit
    |-- DataError                3  the data cannot be loaded or used
    |-- IncompleteError          4  stopped before the end; the same command resumes
    |   `-- StorageError         4  the disk refused; what was committed is kept
    |-- RefusedError             5  refused for safety
    `-- InvariantError          70  a rule of the harness was broken by our own code

Exit code 1 (a gate failed) is a verdict, not an error, and 130 is the user's own interrupt.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from functools import partial

_JOINERS = frozenset("\u200c\u200d")
"""Joiners, which some scripts and emoji cannot do without."""


def escape_unprintable(text: str) -> str:
    r"""Text in which nothing can steer a terminal or turn the order of what is read.

    Control characters (C0, C1, DEL), format characters such as overrides of the direction of writing, line
    and paragraph separators and lone surrogates become visible escapes, ``\x1b``; newlines and tabs become
    spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character in "\n\t":
        return " "
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    if not hidden or character in _JOINERS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def format_install_command(extra: str) -> str:
    """The command that installs an extra: from the clone, for this package is on no index of packages."""
    return f"pip install '.[{extra}]' in the clone"


class RobustbenchError(Exception):
    """The root: one line of what is wrong, where, and what to do about it.

    Args:
        what: What is wrong, without a final full stop.
        where: The file, row, tensor or flag concerned.
        remedy: What the user can do, as an imperative.
    """

    exit_code = 70

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where else ""
        tail = f". {self.remedy[0].upper()}{self.remedy[1:]}" if self.remedy else ""
        return escape_unprintable(" ".join(f"{head}{self.what}{tail}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """What another process makes the same error from."""
        return partial(type(self), self.what, where=self.where, remedy=self.remedy), ()


class UsageError(RobustbenchError):
    """The command line, or a file that the user wrote, is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A grid file, a flag or a name is wrong."""


class CardError(UsageError):
    """A card of the catalogue is missing or malformed."""


class ThreatError(UsageError, ValueError):
    """A threat model that cannot exist, or that an operation does not support."""


class LockedError(UsageError):
    """Another live process writes to this run directory."""


class DamagedError(ConfigError):
    """A run holds something else than what was written: nothing of it is read until it is made again."""


class ModelError(RobustbenchError):
    """A model cannot be loaded, or does not do what a classifier does."""

    exit_code = 3


class ProcessEndedError(ModelError):
    """The model ended the process that it ran in, tried to, or crashed."""


class UnreachableError(ModelError):
    """The service that is the model does not answer; this says nothing about any image."""


class ModelTimeoutError(UnreachableError):
    """The model, or the service that is it, does not answer within its time limit."""

    @classmethod
    def from_seconds(cls, seconds: float, name: str) -> ModelTimeoutError:
        """The error of a model that was waited for in vain."""
        return cls(
            f"no pass finished for {seconds:g} s",
            where=name,
            remedy="see why it hangs, or allow it more with --timeout",
        )


class DataError(RobustbenchError):
    """Images or labels cannot be loaded or used."""

    exit_code = 3


class IncompleteError(RobustbenchError):
    """The run stopped before its end; the same command resumes it."""

    exit_code = 4


class StorageError(IncompleteError):
    """The disk refused a write; everything committed before is kept."""


class RefusedError(RobustbenchError):
    """Refused for safety: the file could run code, or leaves its folder."""

    exit_code = 5


class InvariantError(RobustbenchError):
    """One of the harness's own rules was broken: a bug in this project."""


def did_you_mean(wrong: str, choices: Iterable[str], *, limit: int = 12) -> str:
    """What to write instead of a name that does not exist.

    Args:
        wrong: What the user wrote.
        choices: The names that exist.
        limit: How many names to list when none is near.

    Returns:
        A remedy in the imperative: the nearest name, or the first few there are.
    """
    names = sorted(choices)
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(str(wrong).casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]}?"
    more = ", ..." if len(names) > limit else ""
    return f"use one of {', '.join(names[:limit])}{more}" if names else "there are none to choose from"
