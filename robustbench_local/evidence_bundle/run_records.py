"""The records of a run as JSON lines: everything that results.json is computed from, without any image."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robustbench_local.evidence_bundle.bundle_files import (
    GRID_NAME,
    RECORDS_FOLDER,
    RUN_RECORD_NAME,
    format_cell_name,
)
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.reports.analysis.gate_intervals import INTERVALS_KEY
from robustbench_local.reports.analysis.read_run import ENVIRONMENT_KEYS, META_KEYS
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import CellRecord, EventRecord, OutcomeRecord, RunStore
from robustbench_local.store.adaptations import read_adaptation, save_adaptation
from robustbench_local.store.diagnostic_records import DIAGNOSTICS_KEY
from robustbench_local.store.image_groups import GROUPS_KEY
from robustbench_local.store.load_test_file import add_load_test, read_load_tests
from robustbench_local.store.load_test_records import LoadTestRecord
from robustbench_local.store.migrations import UNCHECKED_KEY
from robustbench_local.store.record_rows import DISTANCE_COLUMNS, OUTCOME_COLUMNS, to_json
from robustbench_local.store.records import AdaptationRecord, ViewPredictionsRecord, ViewRecord
from robustbench_local.store.shard_record import SHARD_KEY
from robustbench_local.store.stop_record import STOP_KEY

_KEPT_KEYS = (
    *META_KEYS,
    DIAGNOSTICS_KEY,
    STOP_KEY,
    SHARD_KEY,
    GROUPS_KEY,
    INTERVALS_KEY,
    UNCHECKED_KEY,
)
"""Metadata that results are computed from; other keys may be about the machine alone."""
_ID_KEYS = frozenset({STOP_KEY, GROUPS_KEY})
"""Metadata with ids of images, which have to stay those of the outcomes."""
_ROWS_PER_COMMIT = 5000
_MAX_CELLS = 100_000


def write_records(store: RunStore, folder: Path) -> None:
    """Write the records of a run below a folder, free of home folders and credentials.

    Args:
        store: The run.
        folder: The folder of the bundle's files.
    """
    (folder / RECORDS_FOLDER).mkdir()
    cells = store.read_cells()
    environment = redact_private_data(store.read_meta("environment") or {})
    known = {key: value for key in _KEPT_KEYS if (value := store.read_meta(key)) is not None}
    meta = {key: value if key in _ID_KEYS else redact_private_data(value) for key, value in known.items()}
    content = {
        "identity": redact_private_data(store.read_identity()),
        "meta": meta | {"environment": {key: environment.get(key) for key in ENVIRONMENT_KEYS}},
        "cells": [redact_private_data(asdict(cell)) for cell in cells],
        "adaptations": {
            cell.key: redact_private_data(asdict(adaptation))
            for cell in cells
            if (adaptation := read_adaptation(store, cell.key)) is not None
        },
        "events": [redact_private_data(asdict(event)) for event in store.read_events()],
        "load_tests": [
            redact_private_data(record.model_dump(mode="json")) for record in read_load_tests(store.directory)
        ],
    }
    (folder / RUN_RECORD_NAME).write_text(f"{to_json(content)}\n", encoding="utf-8")
    for cell in cells:
        name = format_cell_name(cell.position, cell.key)
        _write_outcomes(store, cell.key, folder / RECORDS_FOLDER / f"{name}.outcomes.jsonl")
        for part, records in (
            ("views", store.read_views(cell.key)),
            ("predictions", store.read_view_predictions(cell.key)),
        ):
            if records:
                lines = "".join(f"{to_json(asdict(record))}\n" for record in records)
                (folder / RECORDS_FOLDER / f"{name}.{part}.jsonl").write_text(lines, encoding="utf-8")


def _write_outcomes(store: RunStore, key: str, path: Path) -> None:
    """Write the outcomes of a cell: a line with the names of the columns, then one line an image."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{to_json(OUTCOME_COLUMNS)}\n")
        for row in store.read_outcomes(key):
            values = [getattr(row, name) for name in OUTCOME_COLUMNS]
            if row.error is not None:
                values[OUTCOME_COLUMNS.index("error")] = redact_private_data(row.error)
            file.write(f"{to_json(values)}\n")


def rebuild_run(folder: Path, run_dir: Path) -> None:
    """Rebuild a run directory from the records of a bundle, without its images.

    Args:
        folder: The folder of the bundle's files.
        run_dir: The new run directory.

    Raises:
        BundleError: If records are missing, of another form, or about other cells.
    """
    content = load_json(folder / RUN_RECORD_NAME)
    try:
        cells = _parse_cells(content)
        events = [_parse(EventRecord, event) for event in content["events"]]
        adaptations = {key: _parse(AdaptationRecord, value) for key, value in content["adaptations"].items()}
        load_tests = [LoadTestRecord.model_validate_json(to_json(record)) for record in content["load_tests"]]
        meta, identity = content["meta"], content["identity"]
        grid = (folder / GRID_NAME).read_text(encoding="utf-8")
    except (KeyError, TypeError, AttributeError, ValidationError, UnicodeDecodeError, OSError) as error:
        raise BundleError(
            f"{RUN_RECORD_NAME} is not of the form of a run ({_shorten_error(error)})"
        ) from error
    if not isinstance(meta, dict) or len({cell.key for cell in cells}) < len(cells):
        raise BundleError(f"{RUN_RECORD_NAME} is not of the form of a run")
    with RunStore.create_or_open(run_dir, resolved_yaml=grid, identity=identity) as store:
        store.update_meta(meta)
        for cell in cells:
            _rebuild_cell(store, cell, folder)
        for key, adaptation in adaptations.items():
            save_adaptation(store, key, adaptation)
        for event in events:
            store.add_event(event)
    for record in load_tests:
        add_load_test(run_dir, record)


def _rebuild_cell(store: RunStore, cell: CellRecord, folder: Path) -> None:
    name = format_cell_name(cell.position, cell.key)
    store.put_cell(replace(cell, status="pending", error=None))
    views = list(_read_lines(folder, f"{name}.views.jsonl", ViewRecord))
    predictions = list(read_view_predictions(folder, cell))
    outcomes = list(read_outcomes(folder, cell))
    if any(row.cell != cell.key for row in (*outcomes, *views, *predictions)):
        raise BundleError(f"the records {name} are about another cell")
    for start in range(0, len(outcomes), _ROWS_PER_COMMIT):
        rows = outcomes[start : start + _ROWS_PER_COMMIT]
        if store.add_outcomes(cell.key, rows) != len(rows):
            raise BundleError(f"the records {name} have an image twice")
    store.add_outcomes(cell.key, (), predictions, views)
    store.set_status(cell.key, cell.status, cell.error)


def read_outcomes(folder: Path, cell: CellRecord) -> Iterator[OutcomeRecord]:
    """Read the outcomes of a cell from a bundle.

    Args:
        folder: The folder of the bundle's files.
        cell: The cell.

    Raises:
        BundleError: If the file is missing or a line has another form.
    """
    name = f"{format_cell_name(cell.position, cell.key)}.outcomes.jsonl"
    lines = _iterate_lines(folder / RECORDS_FOLDER / name)
    if next(lines, None) != list(OUTCOME_COLUMNS):
        raise BundleError(f"{RECORDS_FOLDER}/{name} has other columns than outcomes have")
    adapter = _get_adapter(OutcomeRecord)
    for number, values in enumerate(lines, start=2):
        try:
            row = dict(zip(OUTCOME_COLUMNS, values, strict=True))
            row |= {key: math.nan for key in DISTANCE_COLUMNS if row[key] is None}
            yield adapter.validate_json(json.dumps(row), strict=True)  # which has NaN, other than strict JSON
        except (ValueError, TypeError) as error:
            what = f"line {number} of {RECORDS_FOLDER}/{name} is no outcome ({_shorten_error(error)})"
            raise BundleError(what) from error


def read_view_predictions(folder: Path, cell: CellRecord) -> Iterator[ViewPredictionsRecord]:
    """Read the predictions in the views of a cell from a bundle; none if the cell has no views.

    Args:
        folder: The folder of the bundle's files.
        cell: The cell.

    Raises:
        BundleError: If a line has another form.
    """
    name = f"{format_cell_name(cell.position, cell.key)}.predictions.jsonl"
    yield from _read_lines(folder, name, ViewPredictionsRecord)


def read_cells(folder: Path) -> list[CellRecord]:
    """Read the cells of a bundle.

    Raises:
        BundleError: If they cannot be read.
    """
    try:
        return _parse_cells(load_json(folder / RUN_RECORD_NAME))
    except (KeyError, TypeError, ValidationError) as error:
        raise BundleError(
            f"{RUN_RECORD_NAME} is not of the form of a run ({_shorten_error(error)})"
        ) from error


def load_json(path: Path) -> Any:
    """Read a JSON file of a bundle; NaN, infinity and repeated keys are refused.

    Raises:
        BundleError: If it is missing or is no strict JSON.
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_refuse_repeated_keys,
            parse_constant=_refuse_constant,
        )
    except OSError as error:
        raise BundleError(f"{path.name} is missing") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.name} is no strict JSON ({_shorten_error(error)})") from error


def _parse_cells(content: Any) -> list[CellRecord]:
    """Parse the cells of a run; their keys become parts of file names, and so are checked."""
    cells = [_parse(CellRecord, cell) for cell in content["cells"]]
    for cell in cells:
        if re.fullmatch(r"[\w-]+", cell.key, re.ASCII) is None or not 0 <= cell.position < _MAX_CELLS:
            raise BundleError(f"{RUN_RECORD_NAME} has a cell with an impossible key or position")
    return cells


def _read_lines(folder: Path, name: str, kind: type[Any]) -> Iterator[Any]:
    path = folder / RECORDS_FOLDER / name
    if not path.is_file():
        return
    for number, values in enumerate(_iterate_lines(path), start=1):
        try:
            yield _parse(kind, values)
        except ValidationError as error:
            what = f"line {number} of {RECORDS_FOLDER}/{name} is no record ({_shorten_error(error)})"
            raise BundleError(what) from error


def _iterate_lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield json.loads(
                    line, object_pairs_hook=_refuse_repeated_keys, parse_constant=_refuse_constant
                )
    except OSError as error:
        raise BundleError(f"{path.parent.name}/{path.name} is missing") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{path.parent.name}/{path.name} is no strict JSON ({_shorten_error(error)})"
        ) from error


def _parse(kind: Any, values: Any) -> Any:
    """Build a record from JSON values, each of exactly its type."""
    return _get_adapter(kind).validate_json(to_json(values), strict=True)


@cache
def _get_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is there twice")
    return content


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _shorten_error(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
    return " ".join(str(error).split())[:200]
