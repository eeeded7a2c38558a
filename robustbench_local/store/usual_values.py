"""Columns of outcomes that hold one value in every row of most cells, which are not read row by row.

Most of an outcome's fields are about what few attacks have: a certificate, random answers, a float twin.
SQLite sees that all rows of a cell have the usual value in a fraction of the time that Python takes to read
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_local.store.checked_database import CheckedDatabase
from robustbench_local.store.queries import select_outcome_columns

_Value = int | str | None

USUAL_VALUES: Sequence[Mapping[str, _Value]] = (
    {"moved_elsewhere": 0, "fragile": 0, "abstained": 0, "error": None, "stage": ""},
    {"certified": None, "radius": None},
    {"gradient_steps": 0},
    {"nonfinite_gradient_entries": 0, "nonfinite_gradient_steps": 0},
    {"zero_gradient_steps": 0, "unconfirmed_gradient_steps": 0},
    {"draws": 0, "successful_draws": 0, "broken_fixed_draw": None},
    {
        "twin_clean_prediction": None,
        "twin_clean_correct": None,
        "twin_prediction": None,
        "twin_broken": None,
        "clean_difference": None,
        "adversarial_difference": None,
        "twin_forward_passes": 0,
        "twin_backward_passes": 0,
        "search_phase": "",
    },
)
"""Groups of columns with their usual value in ``run.db``: the columns of a group change together."""


def read_outcome_values(database: CheckedDatabase, key: str, names: Sequence[str]) -> list[list[Any]]:
    """Return the stored values of columns of a cell's outcomes, by position.

    Args:
        database: The run.
        key: The cell.
        names: Columns of the table ``outcomes``.

    Raises:
        DamagedError: As for ``CheckedDatabase.read``.
        InvariantError: If there is no such column.
    """
    statement = select_outcome_columns(names)
    with database.read_one_moment():
        constant = _find_constants(database, key, set(names))
        varying = [name for name in names if name not in constant]
        if not constant or not varying:
            return database.read_columns(statement, key)
        values = dict(zip(varying, database.read_columns(select_outcome_columns(varying), key), strict=True))
    count = len(values[varying[0]])
    return [values[name] if name in values else [constant[name]] * count for name in names]


def _find_constants(database: CheckedDatabase, key: str, names: set[str]) -> dict[str, _Value]:
    """Return the columns that are known without reading them, with their value."""
    constant: dict[str, _Value] = {"cell": key} if "cell" in names else {}
    groups = [
        known for group in USUAL_VALUES if (known := {name: group[name] for name in group if name in names})
    ]
    if not groups:
        return constant
    conditions = (
        " AND ".join(f"{name} IS {_format_literal(group[name])}" for name in group) for group in groups
    )
    # 1 where all rows are usual, NULL without rows
    answers = ", ".join(f"min({condition})" for condition in conditions)
    (row,) = database.read(f"SELECT {answers} FROM outcomes WHERE cell = ?", key)  # noqa: S608
    for group, is_usual in zip(groups, row, strict=True):
        constant |= group if is_usual else {}
    return constant


def _format_literal(value: _Value) -> str:
    return "NULL" if value is None else repr(value)
