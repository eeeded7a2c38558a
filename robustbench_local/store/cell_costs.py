"""What the cells of earlier runs have cost: passes by image, read without the outcomes themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.store.database import convert_database_errors, open_for_reading
from robustbench_local.store.run_folder import DATABASE_NAME

_COST_QUERY = (
    "SELECT cells.key, cells.identity, COUNT(*), SUM(forward_passes + backward_passes) "
    "FROM cells JOIN outcomes ON outcomes.cell = cells.key "
    "WHERE outcomes.status != 'error' GROUP BY cells.key"
)


@dataclass(frozen=True, kw_only=True)
class CellCost:
    """What the finished images of a stored cell have cost."""

    key: str
    """Key of the cell."""
    identity: Mapping[str, str]
    """The parts of the key."""
    images: int
    """Number of finished images, at least 1."""
    passes: int
    """Forward and backward passes that they took."""


def read_cell_costs(directory: Path) -> list[CellCost]:
    """Read the costs of the cells of a run that have finished images.

    Args:
        directory: The run directory.

    Raises:
        ConfigError: There is no run here, or it is not ours or of a newer schema.
        DamagedError: It is damaged.
    """
    path = directory / DATABASE_NAME
    with convert_database_errors(path), closing(open_for_reading(path)) as connection:
        rows = connection.execute(_COST_QUERY).fetchall()
    return [
        CellCost(key=key, identity=json.loads(identity), images=images, passes=int(passes))
        for key, identity, images, passes in rows
    ]
