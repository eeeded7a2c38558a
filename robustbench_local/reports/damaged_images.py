"""Detection of stored adversarial images that changed after they were recorded."""

from __future__ import annotations

from pathlib import Path

from robustbench_local.errors import DamagedError
from robustbench_local.reports.formatting.text import format_count
from robustbench_local.store import RunStore

_MAX_NAMED_CELLS = 3


def find_damaged_images(run_dir: Path) -> DamagedError | None:
    """Return an error if stored adversarial images of a run were changed, else None."""
    with RunStore.open_readonly(run_dir) as store:
        damaged = store.find_damaged_arrays()
        names = [f"{cell.model} x {cell.attack}" for cell in store.read_cells() if cell.key in damaged]
    if not damaged:
        return None
    more = (
        f" and {format_count(len(names) - _MAX_NAMED_CELLS, 'more cell')}"
        if len(names) > _MAX_NAMED_CELLS
        else ""
    )
    which, why = ", ".join(names[:_MAX_NAMED_CELLS]), next(iter(damaged.values()))
    what = f"damaged images are not shown: {which}{more} ({why})"
    remedy = "restore them from a copy, or compute these cells again with rbl run ... --recompute-damaged"
    return DamagedError(what, where=str(run_dir), remedy=remedy)
