"""Parts of a sample run, for the tests of merging: some of its images as a run of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from sample_run import SAMPLE_PLANS, SampleRun

from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.store import CellRecord, RunStore

MODELS = ["signs-plain", "signs-pgd-at"]
GATES = ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5},)
META_KEYS = ("environment", "grid", "seed", "question", "data", "models", "gates")
SAMPLE = SampleRun(gates=GATES, images=16, plans=(*SAMPLE_PLANS[:3], SAMPLE_PLANS[5]))
Select = Callable[[CellRecord, int], bool]


def make_grid(models=MODELS, attacks=("fgsm-linf-8",), **changes):
    entries = [{"id": model, "source": f"zoo:{model}"} for model in models]
    content = {"data": {"source": "signs", "limit": 16}, "models": entries, "attacks": list(attacks)}
    return load_grid({**content, "gates": list(GATES), **changes})[0]


def copy_cell(old: RunStore, new: RunStore, cell: CellRecord, select: Select) -> None:
    rows = [row for row in old.read_outcomes(cell.key) if select(cell, row.position)]
    new.put_cell(replace(cell, status="pending", error=None))
    arrays = old.load_arrays(cell.key)
    if arrays:
        kept = np.array([select(cell, int(position)) for position in arrays["positions"]])
        if kept.any():
            new.save_arrays(cell.key, rows[0].position, {name: part[kept] for name, part in arrays.items()})
    positions = {row.position for row in rows}
    new.add_outcomes(
        cell.key,
        rows,
        [row for row in old.read_view_predictions(cell.key) if row.position in positions],
        [row for row in old.read_views(cell.key) if row.position in positions],
    )
    if rows or cell.status == "error":
        new.set_status(cell.key, cell.status, cell.error)


def read_rows(directory: Path):
    with RunStore.open_readonly(directory) as store:
        return {
            cell.key: (
                replace(cell, position=0),
                store.read_outcomes(cell.key),
                sorted(map(str, store.read_view_predictions(cell.key))),
                sorted(map(str, store.read_views(cell.key))),
                {
                    name: np.sort(array, axis=0).tolist()
                    for name, array in store.load_arrays(cell.key).items()
                },
            )
            for cell in store.read_cells()
        }
