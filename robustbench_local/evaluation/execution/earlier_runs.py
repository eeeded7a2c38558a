"""What earlier runs spent on the cells of a plan: the run itself, and the runs in the same folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.planning.plan import CellSpec
from robustbench_local.store.cell_costs import CellCost, read_cell_costs
from robustbench_local.store.run_folder import DATABASE_NAME

MAX_EARLIER_RUNS = 50
"""Number of runs beside the planned one that are read, newest first."""
MIN_EARLIER_IMAGES = 16
"""Number of images from which on an earlier run replaces a pilot of fewer."""
_COST_PARTS = (
    "model",
    "attack",
    "certificate",
    "search",
    "surrogate",
    "twin",
    "finish queries",
    "test views",
    "threat",
    "sources",
)
"""Parts of the identity of a cell that its cost depends on; others, such as the seed, hardly change it."""


@dataclass(frozen=True, kw_only=True)
class EarlierCost:
    """What an earlier run spent on the images of a cell."""

    run: str
    """Name of its directory."""
    images: int
    """Number of its images."""
    passes: int
    """Passes that they took."""
    is_same_cell: bool
    """Whether the cell is the very same; otherwise its images are others, or its seed is."""


def find_earlier_costs(cells: Sequence[CellSpec], directory: Path) -> dict[str, EarlierCost]:
    """Find what earlier runs spent on the same attacks on the same models.

    Args:
        cells: The cells of the plan.
        directory: The run directory; the runs beside it in its folder are read too.

    Returns:
        The cost by key of the cell: of the same cell if one is there, otherwise of the most images.
    """
    wanted = {cell.record.key: _select_parts(cell.record.identity) for cell in cells}
    found: dict[str, EarlierCost] = {}
    for run, cost in _iterate_costs(directory):
        parts = _select_parts(cost.identity)
        for key, own_parts in wanted.items():
            if parts != own_parts:
                continue
            earlier = EarlierCost(
                run=run, images=cost.images, passes=cost.passes, is_same_cell=cost.key == key
            )
            if key not in found or _rank_cost(earlier) > _rank_cost(found[key]):
                found[key] = earlier
    return found


def _rank_cost(cost: EarlierCost) -> tuple[bool, int]:
    return cost.is_same_cell, cost.images


def _iterate_costs(directory: Path) -> Iterator[tuple[str, CellCost]]:
    """Iterate over the cells of all runs that can be read; a damaged or foreign one is passed over."""
    for run in _list_runs(directory):
        try:
            costs = read_cell_costs(run)
        except (RobustbenchError, OSError, ValueError):
            continue
        for cost in costs:
            yield run.name, cost


def _list_runs(directory: Path) -> list[Path]:
    """List the run itself and the newest runs beside it."""
    try:
        beside = [path for path in directory.parent.iterdir() if (path / DATABASE_NAME).is_file()]
        beside.sort(key=lambda path: (path / DATABASE_NAME).stat().st_mtime, reverse=True)
    except OSError:
        return []
    return beside[:MAX_EARLIER_RUNS]


def _select_parts(identity: Mapping[str, str]) -> dict[str, str]:
    return {name: identity[name] for name in _COST_PARTS if name in identity}
