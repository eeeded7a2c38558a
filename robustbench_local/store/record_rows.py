"""Conversion of records to database rows and back, with strict JSON: non-finite numbers are null (F78)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import PurePath
from typing import Any

from robustbench_local.errors import InvariantError
from robustbench_local.store.records import (
    CellRecord,
    EventRecord,
    OutcomeRecord,
    SurfaceRecord,
    ViewPredictionsRecord,
    ViewRecord,
)

Row = tuple[Any, ...]

CELL_COLUMNS = tuple(field.name for field in fields(CellRecord))
OUTCOME_COLUMNS = tuple(field.name for field in fields(OutcomeRecord))
EVENT_COLUMNS = tuple(field.name for field in fields(EventRecord))
SIGHTING_COLUMNS = tuple(field.name for field in fields(ViewPredictionsRecord))
VIEW_COLUMNS = tuple(field.name for field in fields(ViewRecord))

FLAG_COLUMNS = ("clean_correct", "broken", "moved_elsewhere", "fragile", "abstained")
OPTIONAL_FLAG_COLUMNS = ("broken_8bit", "certified", "broken_fixed_draw", "twin_clean_correct", "twin_broken")
_GRADIENT_COUNTS = (
    "gradient_steps",
    "nonfinite_gradient_entries",
    "nonfinite_gradient_steps",
    "zero_gradient_steps",
    "unconfirmed_gradient_steps",
)
DISTANCE_COLUMNS = ("linf", "l2", "l1", "l0")
_SERIES = frozenset({"predictions", "confidences", "distance", "yaw", "pitch", "roll"})
"""Columns that hold a list with an entry per view."""


def to_json(value: Any) -> str:
    """Convert to strict JSON; non-finite numbers become null, tuples lists, keys strings, scalars numbers.

    Raises:
        InvariantError: A value cannot be represented in JSON.
    """
    return json.dumps(_convert_to_plain(value), ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Any:
    """Parse the result of ``to_json``."""
    return json.loads(text)


def cell_to_row(cell: CellRecord) -> Row:
    """Return a cell's values in the order of ``CELL_COLUMNS``."""
    return (
        *_escape_texts(cell.key),
        int(cell.position),
        *_escape_texts(cell.model, cell.defense, cell.attack, cell.card, cell.norm),
        float(cell.eps),
        *_escape_texts(cell.threat, cell.goal),
        to_json(cell.targets),
        to_json(cell.sources),
        int(cell.images),
        int(cell.excluded),
        to_json(cell.parameters),
        to_json(cell.identity),
        *_escape_texts(cell.note, cell.status),
        _convert_optional_text(cell.error),
        *_escape_texts(cell.knowledge),
        _convert_optional_text(cell.surrogate),
        *_escape_texts(cell.measure, cell.concerns),
        float(cell.alpha),
        None if cell.surface is None else to_json(asdict(cell.surface)),
        _convert_optional_text(cell.twin),
    )


def row_to_cell(row: Row) -> CellRecord:
    """Build the cell of a row in the order of ``CELL_COLUMNS``; lists inside ``parameters`` remain lists."""
    values = dict(zip(CELL_COLUMNS, row, strict=True))
    for name in ("targets", "sources"):
        values[name] = tuple(from_json(values[name]))
    for name in ("parameters", "identity"):
        values[name] = from_json(values[name])
    if values["surface"] is not None:
        values["surface"] = SurfaceRecord(**from_json(values["surface"]))
    return CellRecord(**values)


def outcome_to_row(outcome: OutcomeRecord) -> Row:
    """Return an outcome's values in the order of ``OUTCOME_COLUMNS``; non-finite margins become NULL."""
    return (
        *_escape_texts(outcome.cell),
        int(outcome.position),
        *_escape_texts(outcome.image),
        int(outcome.label),
        _convert_optional_int(outcome.clean_prediction),
        _convert_optional_int(outcome.adversarial_prediction),
        bool(outcome.clean_correct),
        bool(outcome.broken),
        bool(outcome.moved_elsewhere),
        _convert_finite(outcome.margin),
        bool(outcome.fragile),
        float(outcome.linf),
        float(outcome.l2),
        float(outcome.l1),
        _convert_optional_flag(outcome.broken_8bit),
        int(outcome.forward_passes),
        int(outcome.backward_passes),
        float(outcome.seconds),
        *_escape_texts(outcome.status),
        _convert_optional_text(outcome.error),
        *_escape_texts(outcome.original_hash, outcome.adversarial_hash),
        _convert_optional_flag(outcome.certified),
        _convert_finite(outcome.radius),
        bool(outcome.abstained),
        *_escape_texts(outcome.stage),
        *(int(getattr(outcome, name)) for name in _GRADIENT_COUNTS),
        float(outcome.l0),
        int(outcome.draws),
        int(outcome.successful_draws),
        _convert_optional_flag(outcome.broken_fixed_draw),
        _convert_optional_int(outcome.twin_clean_prediction),
        _convert_optional_flag(outcome.twin_clean_correct),
        _convert_optional_int(outcome.twin_prediction),
        _convert_optional_flag(outcome.twin_broken),
        _convert_finite(outcome.clean_difference),
        _convert_finite(outcome.adversarial_difference),
        int(outcome.twin_forward_passes),
        int(outcome.twin_backward_passes),
        *_escape_texts(outcome.search_phase),
    )


def row_to_outcome(row: Row) -> OutcomeRecord:
    """Build the outcome of a row in the order of ``OUTCOME_COLUMNS``; a NULL distance becomes NaN."""
    values = dict(zip(OUTCOME_COLUMNS, row, strict=True))
    for name in FLAG_COLUMNS:
        values[name] = bool(values[name])
    for name in OPTIONAL_FLAG_COLUMNS:
        values[name] = _convert_optional_flag(values[name])
    for name in DISTANCE_COLUMNS:
        if values[name] is None:
            values[name] = math.nan
    # A frozen record's constructor takes three times as long, and a run can have 100,000s of rows.
    outcome = object.__new__(OutcomeRecord)
    vars(outcome).update(values)
    return outcome


def series_to_row(record: ViewPredictionsRecord | ViewRecord) -> Row:
    """Return values in the order of ``SIGHTING_COLUMNS`` or ``VIEW_COLUMNS``; lists as JSON."""
    values = ((field.name, getattr(record, field.name)) for field in fields(record))
    return tuple(to_json(value) if name in _SERIES else value for name, value in values)


def row_to_sighting(row: Row) -> ViewPredictionsRecord:
    """Build the record of a row in the order of ``SIGHTING_COLUMNS``."""
    return ViewPredictionsRecord(**_parse_series(SIGHTING_COLUMNS, row))


def row_to_view(row: Row) -> ViewRecord:
    """Build the record of a row in the order of ``VIEW_COLUMNS``."""
    return ViewRecord(**_parse_series(VIEW_COLUMNS, row))


def _parse_series(columns: tuple[str, ...], row: Row) -> dict[str, Any]:
    pairs = zip(columns, row, strict=True)
    return {name: tuple(from_json(value)) if name in _SERIES else value for name, value in pairs}


def _convert_to_plain(value: Any) -> Any:
    numpy = sys.modules.get("numpy")  # where nobody has imported it, no value can be one of its scalars
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | PurePath):
        return escape_surrogates(str(value))
    if isinstance(value, Mapping):
        return {escape_surrogates(str(key)): _convert_to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_convert_to_plain(item) for item in value]
    raise InvariantError(f"{type(value).__name__} cannot be represented in JSON: {value!r:.80}")


def escape_surrogates(text: str) -> str:
    r"""Return text that UTF-8 can encode: bytes of an undecodable file name become ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escape_texts(*texts: str) -> tuple[str, ...]:
    return tuple(text if text.isascii() else escape_surrogates(text) for text in texts)


def _convert_optional_text(text: str | None) -> str | None:
    return None if text is None else escape_surrogates(text)


def _convert_optional_flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _convert_optional_int(value: int | None) -> int | None:
    return None if value is None else int(value)


def _convert_finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
