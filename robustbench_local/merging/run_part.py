"""A run that is merged with others: its cells, its grid and its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.config.strict_yaml import read_yaml
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid, load_grid
from robustbench_local.store import CellRecord, RunStore
from robustbench_local.store.run_folder import RESOLVED_GRID_NAME, SHARD_PART
from robustbench_local.store.shard_record import ShardRecord, read_shard


@dataclass(frozen=True, kw_only=True, eq=False)
class RunPart:
    """One of the runs to merge."""

    name: str
    """Name in messages and in the merged run, different from those of the other parts."""
    store: RunStore
    """The open run; it is only read."""
    identity: dict[str, str]
    """Everything that decides its verdicts, without the shard that it is."""
    cells: tuple[CellRecord, ...]
    """In the order of its grid."""
    grid: Grid
    """Its resolved grid."""
    shard: ShardRecord | None = None
    """Which part of the images it has, if it is a shard of a run."""


def read_part(store: RunStore, name: str) -> RunPart:
    """Read a run to merge.

    Args:
        store: The open run.
        name: Its name among the parts.

    Raises:
        ConfigError: If its resolved grid is missing or cannot be read.
        DamagedError: If some of its images are damaged.
    """
    path = store.directory / RESOLVED_GRID_NAME
    if not path.is_file():
        raise ConfigError(f"the run has no {RESOLVED_GRID_NAME}", where=str(store.directory))
    for cell in store.read_cells():
        store.load_arrays(cell.key)  # checks every file against its digest and its outcomes
    content = read_yaml(path, ConfigError)
    return RunPart(
        name=name,
        store=store,
        identity={key: value for key, value in store.read_identity().items() if key != SHARD_PART},
        shard=read_shard(store),
        cells=tuple(store.read_cells()),
        grid=load_grid(content)[0],
    )


def list_part_names(parts: Sequence[RunPart]) -> str:
    """List the names of some parts, for messages."""
    return " and ".join(part.name for part in parts)
