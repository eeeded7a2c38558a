"""The table of outcomes, one row per cell and image, column by column: a large run has millions of rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import RunStore
from robustbench_local.store.outcome_columns import OutcomeColumns
from robustbench_local.store.record_rows import OUTCOME_COLUMNS as STORED_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

_NAMED_COLUMNS = ("label", "clean_prediction", "adversarial_prediction")
OUTCOME_COLUMNS = (
    "model",
    "defense",
    "attack",
    "attack_label",
    *STORED_COLUMNS,
    *(f"{name}_name" for name in _NAMED_COLUMNS),
)
"""Columns of outcomes.csv: the cell, the columns of the store, and class names."""
_NON_FINITE_TEXTS = frozenset({"nan", "inf", "-inf"})
_QUOTED_CHARACTERS = re.compile('[,"\n\r]')
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
"""Prefixes that make a spreadsheet read text as a formula (F71)."""
_SPECIAL_PARTS = (",", '"', "\n", "\r", *(f"\0{prefix}" for prefix in _FORMULA_PREFIXES))
"""Among texts that each follow a NUL: what is quoted or escaped."""


@dataclass(frozen=True)
class CellTable:
    """The rows of one cell."""

    columns: dict[str, Sequence[Any]]
    """Name of a column -> its values; in the order of ``OUTCOME_COLUMNS``."""
    count: int
    """Number of rows."""


class TableBuilder:
    """Builds the table of one cell after the other."""

    def __init__(self) -> None:
        self._images: tuple[Sequence[str | None], list[str | None]] = ((), [])  # those of the cell before

    def build_table(self, evidence: Evidence, cell: CellResult, stored: OutcomeColumns) -> CellTable:
        """Build the rows of a cell, in the order of its images.

        Args:
            evidence: The facts of the run; its cells are not used.
            cell: The cell.
            stored: All columns of its outcomes.
        """
        count = len(stored)
        columns: dict[str, Sequence[Any]] = {
            name: [value] * count for name, value in identify_cell(cell).items()
        }
        columns |= {name: stored[name] for name in STORED_COLUMNS}
        if self._images[0] != stored["image"]:
            self._images = stored["image"], _redact_texts(stored["image"])
        columns["image"], columns["error"] = self._images[1], _redact_texts(stored["error"])
        for name in _NAMED_COLUMNS:
            model = cell.record.model
            indices = stored[name]
            names = {index: evidence.get_class_name(model, index) for index in set(indices)}
            columns[f"{name}_name"] = list(map(names.__getitem__, indices))
        return CellTable(columns, count)


def load_outcomes_frame(store: RunStore) -> pd.DataFrame:
    """Load one row per cell and image with the columns of outcomes.csv; texts are not escaped."""
    import pandas as pd  # noqa: PLC0415 - only who asks for a table waits for it

    builder, tables = TableBuilder(), list[CellTable]()

    def add_cell(facts: Evidence, cell: CellResult, stored: OutcomeColumns) -> None:
        tables.append(builder.build_table(facts, cell, stored))

    read_evidence(store, add_cell)
    columns = {name: [value for table in tables for value in table.columns[name]] for name in OUTCOME_COLUMNS}
    return pd.DataFrame(columns, columns=list(OUTCOME_COLUMNS))


def identify_cell(cell: CellResult) -> dict[str, str]:
    """Return the columns that name a row's cell."""
    record = cell.record
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "attack_label": cell.label,
    }


def escape_field(value: Any) -> Any:
    """Escape text that a spreadsheet would run as a formula; numbers stay numbers, also negative ones."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA_PREFIXES) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class ColumnFormatter:
    """Formats columns of outcomes.csv; a column equal to that of the cell before is formatted once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Sequence[Any], list[str]]] = {}

    def format_rows(self, table: CellTable) -> str:
        """Return the lines of a cell, by a template with the values that all of its rows share."""
        fields: list[str] = []
        varying: list[list[str]] = []
        for name in OUTCOME_COLUMNS:
            values = table.columns[name]
            if _is_constant(values):
                fields.append(_format_field(values[0]).replace("%", "%%"))
            else:
                fields.append("%s")
                varying.append(self._format_column(name, values))
        template = ",".join(fields) + "\n"
        if not varying:
            return template % () * table.count
        return "".join(map(template.__mod__, zip(*varying, strict=True)))

    def _format_column(self, name: str, values: Sequence[Any]) -> list[str]:
        if float in map(type, values):  # 0.0 and -0.0 are equal, and are written differently
            return _format_column(values)
        known = self._known.get(name)
        if known is None or known[0] != values:
            known = self._known[name] = values, _format_column(values)
        return known[1]


def _is_constant(values: Sequence[Any]) -> bool:
    """Return whether all values are written alike."""
    first = values[0]
    if first != first:  # noqa: PLR0124 - NaN, which is written as an empty field
        return all(value != value for value in values)  # noqa: PLR0124
    if values[-1] != first or values.count(first) < len(values):
        return False
    return not (isinstance(first, float) and first == 0) or len(set(map(repr, values))) == 1


def _format_column(values: Sequence[Any]) -> list[str]:
    """Format values as ``_format_field`` does each of them, with few calls where all have one type."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {int} and None not in values:
        texts_by_value = {value: str(value) for value in set(values)}
        return list(map(texts_by_value.__getitem__, values))
    if kinds == {float}:
        texts = ["" if value is None else repr(value) for value in values]
        return texts if not _NON_FINITE_TEXTS.intersection(texts) else list(map(_format_field, values))
    if float in kinds and None in values:
        return ["" if value is None else _format_field(value) for value in values]
    if kinds == {str} and None not in values and not _has_special_text(values):
        return list(values)
    if len(kinds) > 1:
        return [_format_field(value) for value in values]
    distinct = {value: _format_field(value) for value in set(values)}
    return [distinct[value] for value in values]


def _has_special_text(texts: Sequence[str]) -> bool:
    """Return whether some text may need quotes or an escape."""
    joined = "\0".join(("", *texts))
    return any(part in joined for part in _SPECIAL_PARTS)


def _format_field(value: Any) -> str:
    escaped = escape_field(value)
    text = "" if escaped is None else str(escaped)
    if not _QUOTED_CHARACTERS.search(text):
        return text
    quoted = text.replace('"', '""')
    return f'"{quoted}"'


def _redact_texts(texts: Sequence[str | None]) -> list[str | None]:
    """Redact the different texts of a column, each once."""
    distinct = list(dict.fromkeys(texts))
    redacted = dict(zip(distinct, redact_private_data(distinct), strict=True))
    return [redacted[text] for text in texts]
