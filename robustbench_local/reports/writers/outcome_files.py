"""outcomes.csv and outcomes.parquet, written together cell by cell: neither is ever in memory as a whole."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.read_run import CellObserver
from robustbench_local.reports.writers.outcome_table import OUTCOME_COLUMNS, ColumnFormatter, TableBuilder
from robustbench_local.store import OutcomeRecord
from robustbench_local.store.atomic_files import convert_storage_errors, open_atomically, refuse_link
from robustbench_local.store.outcome_columns import OutcomeColumns

CSV_NAME, PARQUET_NAME = "outcomes.csv", "outcomes.parquet"
MAX_ROWS_PER_GROUP = 1 << 16
"""Rows of a row group of outcomes.parquet: readers load one group at a time."""
_ARROW_TYPES: Mapping[type, str] = {str: "string", bool: "bool_", int: "int64", float: "float64"}


@contextlib.contextmanager
def open_outcome_files(folder: Path) -> Iterator[CellObserver]:
    """Open outcomes.csv and, with the extra ``arrow``, outcomes.parquet, for the cells that are read.

    Both replace those of an earlier report when the context ends without an error. Without the extra an
    earlier outcomes.parquet is removed then: it may be about other rows.

    Args:
        folder: The folder of the report; it must exist.

    Yields:
        A function that writes the rows of a cell; it is given to ``read_evidence``, with which each cell is
        read once and only one is in memory.

    Raises:
        StorageError, ConfigError, RefusedError: As for ``write_atomically``.
    """
    builder, formatter = TableBuilder(), ColumnFormatter()
    with open_atomically(folder / CSV_NAME) as file, _open_parquet(folder / PARQUET_NAME) as write_group:
        file.write((",".join(OUTCOME_COLUMNS) + "\n").encode())

        def write_cell(facts: Evidence, cell: CellResult, stored: OutcomeColumns) -> None:
            if len(stored):
                table = builder.build_table(facts, cell, stored)
                file.write(formatter.format_rows(table).encode("utf-8", "backslashreplace"))
                write_group(table.columns)

        yield write_cell


def has_arrow() -> bool:
    """Return whether the library that writes Parquet files is installed."""
    return find_spec("pyarrow") is not None


def list_column_types() -> dict[str, str]:
    """Return the columns of both files, with the name of each one's type in Arrow."""
    hints = get_type_hints(OutcomeRecord)
    return {name: _ARROW_TYPES[_find_type(hints.get(name, str))] for name in OUTCOME_COLUMNS}


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[Callable[[Mapping[str, Sequence[Any]]], None]]:
    """Open a Parquet file that replaces ``path``; the function adds columns as row groups."""
    if not has_arrow():
        refuse_link(path)
        yield lambda _: None
        with convert_storage_errors(path):
            path.unlink(missing_ok=True)
        return
    import pyarrow as pa  # noqa: PLC0415 - optional, and slow to import
    from pyarrow import parquet  # noqa: PLC0415

    kinds = {name: getattr(pa, kind)() for name, kind in list_column_types().items()}
    schema = pa.schema(list(kinds.items()))

    def write_group(columns: Mapping[str, Sequence[Any]]) -> None:
        arrays = [  # from_pandas: what is not finite is null, as it is empty in the CSV file
            pa.array(columns[name], kind, from_pandas=True) for name, kind in kinds.items()
        ]
        writer.write_table(pa.table(arrays, schema=schema), row_group_size=MAX_ROWS_PER_GROUP)

    with open_atomically(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield write_group


def _find_type(annotation: Any) -> type:
    """Return the type of an annotation such as ``int | None`` or a literal of texts."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return next(_find_type(part) for part in get_args(annotation) if part is not type(None))
    return str if get_origin(annotation) is Literal else annotation
