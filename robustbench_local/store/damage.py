"""Damage of ``run.db``: detected by every reader before it uses a number, and reported in one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.errors import DamagedError
from robustbench_local.store.cross_checks import find_contradictions
from robustbench_local.store.digests import (
    ALL_DIGESTS_PART,
    find_damaged_parts,
    format_cell_part,
    is_transient_error,
    parse_cell_key,
    tolerate_invalid_text,
)

DATABASE_PART = "database"
"""The part that is the file itself, whose pages are inconsistent."""
RECOMPUTE_COMMAND = "rbl run ... --recompute-damaged"
_MAX_NAMED_DAMAGES = 3


@dataclass(frozen=True)
class Damage:
    """A part of a run that differs from what was written."""

    part: str
    """``cell:KEY``, a table about the run, ``digests`` or ``database``."""
    description: str
    """The part and its error, in words."""

    @property
    def cell_key(self) -> str | None:
        """Key of the cell, if the part is one."""
        return parse_cell_key(self.part)


def find_damage(connection: sqlite3.Connection) -> list[Damage]:
    """Return all damage of an open database of the current schema, without changing it.

    Args:
        connection: The database; inside a transaction, other writers do not interfere.
    """
    damages: dict[str, Damage] = {}
    try:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            damages[DATABASE_PART] = Damage(DATABASE_PART, " ".join(str(verdict).replace("***", "").split()))
        parts = find_damaged_parts(connection)
        with tolerate_invalid_text(connection):
            names = _read_cell_names(connection)
            damages |= {part: Damage(part, _describe_mismatch(part, names)) for part in parts}
            for cell, problem in find_contradictions(connection):
                part = format_cell_part(cell)
                damages.setdefault(part, Damage(part, f"{_format_cell(cell, names)}: {problem}"))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if is_transient_error(error):
            raise
        damages.setdefault(DATABASE_PART, Damage(DATABASE_PART, str(error)))
    return list(damages.values())


def build_damage_error(damages: Sequence[Damage], path: Path) -> DamagedError:
    """Build the error for damage.

    Args:
        damages: At least one.
        path: ``run.db``.
    """
    listed = "; ".join(damage.description for damage in damages[:_MAX_NAMED_DAMAGES])
    more = f"; and {len(damages) - _MAX_NAMED_DAMAGES} more" if len(damages) > _MAX_NAMED_DAMAGES else ""
    remedy = f"restore it from a copy, or compute the damaged cells again with {RECOMPUTE_COMMAND}"
    return DamagedError(f"the run is damaged ({listed}{more})", where=str(path), remedy=remedy)


def _describe_mismatch(part: str, names: dict[str, str]) -> str:
    cell = parse_cell_key(part)
    if cell is not None:
        return f"{_format_cell(cell, names)}: its rows have changed since they were written"
    if part == ALL_DIGESTS_PART:
        return "the list of digests is not the one that was written"
    return f"the content of {part!r} is not what was written"


def _format_cell(key: str, names: dict[str, str]) -> str:
    return f"cell {names.get(key, 'without a record')} ({key[:12]})"


def _read_cell_names(connection: sqlite3.Connection) -> dict[str, str]:
    """Return key -> model, defense and attack of each cell, as far as they are readable."""
    rows = connection.execute("SELECT key, model, defense, attack FROM cells NOT INDEXED").fetchall()
    return {
        str(key): f"{model}{'' if defense == 'none' else f' + {defense}'} x {attack}"
        for key, model, defense, attack in rows
    }
