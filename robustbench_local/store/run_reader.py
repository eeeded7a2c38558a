"""Reading of a run directory that is open: records, metadata and arrays, checked against their digests."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_local.errors import DamagedError, InvariantError
from robustbench_local.store import arrays as _arrays
from robustbench_local.store import queries as _queries
from robustbench_local.store import record_rows as _rows
from robustbench_local.store.checked_database import CheckedDatabase
from robustbench_local.store.damage import Damage, build_damage_error
from robustbench_local.store.database import convert_database_errors
from robustbench_local.store.migrations import UNCHECKED_KEY
from robustbench_local.store.outcome_columns import COUNTED_COLUMNS, OutcomeColumns, count_columns
from robustbench_local.store.records import (
    CellRecord,
    EventRecord,
    OutcomeCounts,
    OutcomeRecord,
    ViewPredictionsRecord,
    ViewRecord,
)
from robustbench_local.store.run_folder import DATABASE_NAME
from robustbench_local.store.run_summary import compute_fingerprint
from robustbench_local.store.usual_values import read_outcome_values

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class RunReader:
    """What can be read of a run directory, by its writer and by readers.

    Attributes:
        directory: The run directory.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        self.directory = directory
        self._connection = connection
        self._database = CheckedDatabase(connection, directory / DATABASE_NAME)
        self._mutex = self._database.mutex
        self._uncommitted_chunks = _arrays.UncommittedChunks()
        self._known_images: dict[str, str] = {}

    def read_identity(self) -> dict[str, str]:
        """Return the run's identity."""
        return dict(self._read("SELECT key, value FROM identity NOT INDEXED ORDER BY key"))

    @property
    def is_fully_checked(self) -> bool:
        """True if every row got its digest when it was written; else earlier damage is undetected."""
        return not self.read_meta(UNCHECKED_KEY, False)

    def read_cells(self) -> list[CellRecord]:
        """Return all cells, in the order of the grid."""
        rows = self._read(_queries.SELECT_CELLS)
        try:
            return [_rows.row_to_cell(row) for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            damage = Damage("cells", f"a cell cannot be read: {error}")
            raise build_damage_error([damage], self.directory / DATABASE_NAME) from error

    def read_outcomes(self, key: str) -> list[OutcomeRecord]:
        """Return the committed outcomes of a cell by position; empty if there are none yet."""
        return [_rows.row_to_outcome(row) for row in self._read(_queries.SELECT_OUTCOMES, key)]

    def read_outcomes_at(self, key: str, positions: Iterable[int]) -> list[OutcomeRecord]:
        """Return the committed outcomes of some positions of a cell, by position."""
        wanted = json.dumps([int(position) for position in positions])
        return [_rows.row_to_outcome(row) for row in self._read(_queries.SELECT_OUTCOMES_AT, key, wanted)]

    def read_outcome_columns(self, key: str, names: Sequence[str] = _rows.OUTCOME_COLUMNS) -> OutcomeColumns:
        """Return columns of a cell's committed outcomes, by position; many images need no record each.

        Args:
            key: The cell.
            names: Fields of `OutcomeRecord`.
        """
        values = read_outcome_values(self._database, key, names)
        return OutcomeColumns.from_database(names, values, self._known_images)

    def count_outcomes(self, key: str) -> OutcomeCounts:
        """Count the committed outcomes of a cell."""
        return count_columns(self.read_outcome_columns(key, COUNTED_COLUMNS))

    def read_view_predictions(self, key: str) -> list[ViewPredictionsRecord]:
        """Return the predictions in the views of a cell, by position; empty if the cell has no views."""
        return [_rows.row_to_sighting(row) for row in self._read(_queries.SELECT_SIGHTINGS, key)]

    def read_views(self, key: str) -> list[ViewRecord]:
        """Return the views of a cell's images, by position; empty if the cell has none."""
        return [_rows.row_to_view(row) for row in self._read(_queries.SELECT_VIEWS, key)]

    def read_done_positions(self, key: str) -> set[int]:
        """Return the positions of a cell whose outcome is committed."""
        return {row[0] for row in self._read("SELECT position FROM outcomes WHERE cell = ?", key)}

    def read_events(self) -> list[EventRecord]:
        """Return all events, oldest first."""
        rows = self._read(_queries.SELECT_EVENTS)
        return [EventRecord(**dict(zip(_rows.EVENT_COLUMNS, row, strict=True))) for row in rows]

    def read_meta(self, key: str, default: Any = None) -> Any:
        """Return the value last stored under the key, or the default."""
        rows = self._read("SELECT value FROM meta NOT INDEXED WHERE key = ?", key)
        return _rows.from_json(rows[0][0]) if rows else default

    def compute_fingerprint(self) -> str:
        """Return a fingerprint of what the numbers of the run depend on; it reads no outcome."""
        with self._mutex, convert_database_errors(self.directory / DATABASE_NAME):
            return compute_fingerprint(self._connection, self.directory)

    def list_array_chunks(self, key: str) -> list[int]:
        """Return the numbers of the files that hold a cell's arrays; empty if it has none."""
        return [row[0] for row in self._read("SELECT chunk FROM arrays WHERE cell = ? ORDER BY chunk", key)]

    def load_arrays(self, cell_key: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return a cell's arrays, (sum of M, ...), chunks in numerical order; empty if there are none.

        Raises:
            DamagedError: A file is missing or was changed, or an image does not match its outcome.
        """
        uncommitted = {chunk: digest for _, chunk, digest in self._uncommitted_chunks.list_chunks(cell_key)}
        has_all_digests = self.is_fully_checked
        with self._mutex, convert_database_errors(self.directory / DATABASE_NAME):
            return _arrays.load_cell_arrays(
                self.directory,
                self._connection,
                cell_key,
                has_all_digests=has_all_digests,
                uncommitted=uncommitted,
            )

    def find_damaged_arrays(self) -> dict[str, str]:
        """Return the key of each cell with damaged arrays, and the damage in one line."""
        damages = {}
        for cell in self.read_cells():
            try:
                self.load_arrays(cell.key)
            except (DamagedError, InvariantError) as error:
                damages[cell.key] = (
                    error.what if error.where is None else f"{Path(error.where).name}: {error.what}"
                )
        return damages

    def _read(self, query: str, *values: Any) -> list[Any]:
        return self._database.read(query, *values)
