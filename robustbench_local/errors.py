"""The errors shown to users, each with its exit code.

The tree::

    RobustbenchError            70  an internal error
    |-- UsageError               2  the command or a file the user wrote is wrong
    |   |-- ConfigError          2  a grid file, a flag or a name is wrong
    |   |   `-- DamagedError     2  a run's files differ from what was written
    |   |-- CardError            2  a card is missing or malformed
    |   |-- ThreatError          2  an impossible threat model
    |   `-- LockedError          2  another process writes to this run
    |-- ModelError               3  the model cannot be loaded or used
    |   |-- ProcessEndedError    3  the model ended its process, or it crashed
    |   |-- ModelMemoryError     4  memory runs out while the model is loaded or trained
    |   `-- UnreachableError     3  the model's service does not answer
    |       `-- ModelTimeoutError    3  the model does not answer within its time limit
    |-- DataError                3  the data cannot be loaded or used
    |-- IncompleteError          4  the run stopped early; the same command resumes it
    |   `-- StorageError         4  a write to the disk failed; committed results are kept
    |-- RefusedError             5  refused for safety
    `-- InvariantError          70  our own code broke a rule of the harness

Exit code 1 (a gate failed) is a verdict, not an error; 130 means that the user interrupted the run.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from functools import partial

_JOINERS = frozenset("\u200c\u200d")
"""Joiners, which some scripts and emoji need."""


def escape_unprintable(text: str) -> str:
    r"""Return the text with every character escaped that could steer a terminal or reorder what it shows.

    Control characters (C0, C1, DEL), format characters such as bidirectional overrides, line and paragraph
    separators and lone surrogates become visible escapes, ``\x1b``; newlines and tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character in "\n\t":
        return " "
    is_unsafe = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    if not is_unsafe or character in _JOINERS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def format_install_command(extra: str) -> str:
    """Return the command that installs an extra from a clone, because no package index has this package."""
    return f"pip install '.[{extra}]' in the clone"


class RobustbenchError(Exception):
    """The base class: one line that says what is wrong, where, and what to do about it.

    Args:
        what: What is wrong, without a final full stop.
        where: The file, row, tensor or flag concerned.
        remedy: Advice for the user, as an imperative.
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
        """Return what another process needs to rebuild this error."""
        return partial(type(self), self.what, where=self.where, remedy=self.remedy), ()


class UsageError(RobustbenchError):
    """The command line or a file written by the user is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A grid file, a flag or a name is wrong."""


class CardError(UsageError):
    """A card is missing or malformed."""


class ThreatError(UsageError, ValueError):
    """A threat model is impossible, or an operation does not support it."""


class LockedError(UsageError):
    """Another live process writes to this run directory."""


class DamagedError(ConfigError):
    """A run's files differ from what was written; they are not read until they are recreated."""


class ModelError(RobustbenchError):
    """A model cannot be loaded or does not behave like a classifier."""

    exit_code = 3


class ProcessEndedError(ModelError):
    """The model ended its own process, tried to, or crashed."""


class ModelMemoryError(ModelError):
    """Memory runs out while the model is loaded or trained, which says nothing about the model."""

    exit_code = 4


class UnreachableError(ModelError):
    """The service behind the model does not answer, which says nothing about any image."""


class ModelTimeoutError(UnreachableError):
    """The model, or the service behind it, does not answer within its time limit."""

    @classmethod
    def from_seconds(cls, seconds: float, name: str) -> ModelTimeoutError:
        """Build the error of a model that did not answer in time."""
        return cls(
            f"no pass finished for {seconds:g} s",
            where=name,
            remedy="find out why it hangs, or raise --timeout",
        )


class DataError(RobustbenchError):
    """Images or labels cannot be loaded or used."""

    exit_code = 3


class IncompleteError(RobustbenchError):
    """The run stopped before its end; the same command resumes it."""

    exit_code = 4


class StorageError(IncompleteError):
    """A write to the disk failed; everything committed before is kept."""


class RefusedError(RobustbenchError):
    """The operation is unsafe: the file could run code, or leaves its folder."""

    exit_code = 5


class InvariantError(RobustbenchError):
    """A rule of the harness is broken: a bug in this project."""


def did_you_mean(wrong: str, choices: Iterable[str], *, limit: int = 12) -> str:
    """Suggest a replacement for a name that does not exist.

    Args:
        wrong: What the user wrote.
        choices: The names that exist.
        limit: Number of names to list when none is close.

    Returns:
        An imperative sentence: the closest name, or the first few existing names.
    """
    names = sorted(choices)
    folded, typed = {name.casefold(): name for name in names}, str(wrong).casefold()
    # two exchanged letters are one slip; the ratio of matching blocks counts them as two
    swapped = [name for name in folded if len(name) == len(typed) and sorted(name) == sorted(typed)]
    closest = swapped or difflib.get_close_matches(typed, folded, n=1, cutoff=0.6)
    if closest:
        return f"did you mean {folded[closest[0]]}?"
    ellipsis = ", ..." if len(names) > limit else ""
    return f"use one of {', '.join(names[:limit])}{ellipsis}" if names else "there are none to choose from"
