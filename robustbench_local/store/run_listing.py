"""What a list of runs shows of one, read from few rows of its database and without any outcome."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_local.errors import DamagedError
from robustbench_local.store.atomic_files import convert_storage_errors
from robustbench_local.store.database import convert_database_errors, open_unmigrated
from robustbench_local.store.run_folder import DATABASE_NAME
from robustbench_local.store.run_summary import SUMMARY_KEY, RunSummary, compute_fingerprint, decode_summary

_READ_KEYS = ("name", "question", "data", "environment", SUMMARY_KEY)
_DATA_FACTS = ("name", "split", "n", "digest")
_ENVIRONMENT_FACTS = ("robustbench_local", "code", "torch", "device", "started")
_FINAL_STATUSES = frozenset({"done", "stopped", "error", "timeout", "skipped"})
_DATA_REMEDY = "restore it from a copy, or choose a new folder and run again"


@dataclass(frozen=True, kw_only=True)
class ListedCell:
    """A cell as a list of runs needs it."""

    model: str
    """Id of the model."""
    defense: str
    """Name of its defense, or ``none``."""
    attack: str
    """Name of the attack or certificate."""
    threat: str
    """Name of the threat model."""
    status: str
    """Its status."""


@dataclass(frozen=True, kw_only=True)
class RunListing:
    """What a list shows of a run."""

    name: str
    """Name of the grid; empty if the run has none."""
    question: str
    """The user's question; empty without one."""
    data: Mapping[str, Any]
    """Name, split, number ``n`` and digest of the images, as the run stores them; None if it does not."""
    environment: Mapping[str, Any]
    """Versions, device and start, as the run stores them; None if it does not."""
    cells: tuple[ListedCell, ...]
    """The cells, in the order of the grid."""
    summary: RunSummary | None
    """Verdict and rates; None if they have to be computed from the outcomes."""
    fingerprint: str
    """Fingerprint of what they depend on."""

    @property
    def status_counts(self) -> Mapping[str, int]:
        """Status -> number of cells."""
        return Counter(cell.status for cell in self.cells)

    @property
    def unfinished_count(self) -> int:
        """Number of cells that the same command would go on with."""
        return sum(cell.status not in _FINAL_STATUSES for cell in self.cells)


def read_listing(directory: Path) -> RunListing:
    """Read what a list shows of a run, without a check of its rows.

    Raises:
        ConfigError: There is no run here, or it has a newer schema.
        DamagedError: It cannot be read.
    """
    path = directory / DATABASE_NAME
    with convert_storage_errors(directory), closing(open_unmigrated(path, copies_log=True)) as connection:
        with convert_database_errors(path):
            connection.execute("BEGIN")  # all of it as of one moment
            cells = connection.execute(
                "SELECT model, defense, attack, threat, status FROM cells NOT INDEXED ORDER BY position, key"
            ).fetchall()
            fingerprint = compute_fingerprint(connection, directory)
            meta = _read_metadata(connection, directory)
        return RunListing(
            name=str(meta.get("name") or ""),
            question=str(meta.get("question") or ""),
            data=_select_facts(meta.get("data"), _DATA_FACTS),
            environment=_select_facts(meta.get("environment"), _ENVIRONMENT_FACTS),
            cells=tuple(
                ListedCell(model=model, defense=defense, attack=attack, threat=threat, status=status)
                for model, defense, attack, threat, status in (map(str, cell) for cell in cells)
            ),
            summary=decode_summary(meta.get(SUMMARY_KEY), fingerprint),
            fingerprint=fingerprint,
        )


def _read_metadata(connection: sqlite3.Connection, directory: Path) -> dict[str, Any]:
    marks = ", ".join("?" * len(_READ_KEYS))
    rows = connection.execute(
        f"SELECT key, value FROM meta NOT INDEXED WHERE key IN ({marks})",  # noqa: S608 - question marks only
        _READ_KEYS,
    )
    try:
        return {key: json.loads(value) for key, value in rows}
    except (ValueError, RecursionError) as error:
        what = f"the database is damaged (its metadata cannot be read: {error})"
        raise DamagedError(what, where=str(directory / DATABASE_NAME), remedy=_DATA_REMEDY) from error


def _select_facts(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Select facts of stored metadata; missing ones are None."""
    facts = value if isinstance(value, dict) else {}
    return {name: facts.get(name) for name in names}
