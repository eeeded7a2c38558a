"""Entry points of installed distributions in this package's groups, by name.

Only metadata are read here; the code of a distribution is imported when its name is used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

from robustbench_local.errors import ConfigError

ExtensionKind = Literal["attacks", "defenses", "certificates", "models", "data"]
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_TARGET_PATTERN = re.compile(r"[A-Za-z_]\w*(\.\w+)*\s*:\s*[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True, kw_only=True)
class ExtensionRecord:
    """An entry point."""

    name: str
    """Its name in a grid."""
    target: str
    """Its location, ``module:NAME``."""
    distribution: str
    """Its distribution, with the version."""
    problem: str = ""
    """Reason why it is unusable, as far as metadata show; empty if it is usable."""


def build_group_name(kind: ExtensionKind) -> str:
    """Return the entry-point group of a kind, as a distribution spells it."""
    return f"{__name__.partition('.')[0]}.{kind}"


def list_entry_points(kind: ExtensionKind) -> tuple[ExtensionRecord, ...]:
    """Return all entry points of a kind, sorted by name; one with broken metadata has a problem.

    Args:
        kind: Kind of the entry points.
    """
    records = _read_entry_points(build_group_name(kind))
    counts = Counter(record.name for record in records)
    return tuple(
        replace(record, problem=f"several distributions offer {record.name!r}")
        if counts[record.name] > 1
        else record
        for record in records
    )


def refuse_own_names(
    records: Iterable[ExtensionRecord], own_names: Collection[str]
) -> tuple[ExtensionRecord, ...]:
    """Return the entry points, with a problem where one has a built-in name.

    Args:
        records: The entry points of a kind.
        own_names: Names that no entry point of that kind can have.
    """
    return tuple(
        replace(record, problem=record.problem or f"the name {record.name!r} is built in")
        if record.name in own_names
        else record
        for record in records
    )


def find_entry_point(kind: ExtensionKind, name: str) -> ExtensionRecord | None:
    """Return the entry point of that name, or None.

    Args:
        kind: Kind of the entry points.
        name: Its name in a grid.
    """
    return next((record for record in list_entry_points(kind) if record.name == name), None)


def load_entry_point(record: ExtensionRecord) -> Any:
    """Import the object that an entry point names.

    Args:
        record: The entry point.

    Raises:
        ConfigError: If it cannot be imported; the message names the distribution.
    """
    where = f"{record.name} ({record.distribution})"
    if record.problem:
        raise ConfigError(f"the entry point cannot be used: {record.problem}", where=where)
    module, _, attribute = record.target.partition(":")
    try:
        return metadata.EntryPoint(record.name, f"{module}:{attribute}", "").load()
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(
            f"the entry point {record.target} cannot be imported: {what}",
            where=where,
            remedy="repair or uninstall that distribution",
        ) from error


@lru_cache(maxsize=16)
def _read_entry_points(group: str) -> tuple[ExtensionRecord, ...]:
    """Read the entry points once per process; later installations are found by the next process."""
    return tuple(sorted(_iterate_entry_points(group), key=lambda record: (record.name, record.distribution)))


def _iterate_entry_points(group: str) -> Iterator[ExtensionRecord]:
    names: set[str] = set()
    for distribution in metadata.distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == group]
        except Exception:  # noqa: BLE001, S112 - broken metadata of one distribution must not affect others
            continue
        if not entries:
            continue
        name, label = _describe_distribution(distribution)
        if name in names:  # an earlier folder on the path takes precedence
            continue
        names.add(name)
        for entry in entries:
            record = ExtensionRecord(name=entry.name, target=entry.value, distribution=label)
            yield replace(record, problem=_find_problem(record))


def _describe_distribution(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return a distribution's normalized name, and its name with the version for a reader."""
    try:
        name = distribution.metadata["Name"]
        return name.lower().replace("_", "-"), f"{name} {distribution.version}"
    except Exception:  # noqa: BLE001 - metadata may be broken in any way
        return f"unknown {id(distribution)}", "a distribution without a name"


def _find_problem(record: ExtensionRecord) -> str:
    """Find what is wrong with an entry point, without running any of its code."""
    if not _NAME_PATTERN.fullmatch(record.name):
        return "a name has letters, digits and . _ + - only"
    if not _TARGET_PATTERN.fullmatch(record.target):
        return f"{record.target!r} is not written module:NAME"
    top = record.target.partition(":")[0].strip().partition(".")[0]
    try:
        is_there = find_spec(top) is not None
    except (ImportError, ValueError, AttributeError):
        is_there = False
    return "" if is_there else f"there is no module {top!r}"
