"""A plan beside its run: what is compared, and what is not."""

from __future__ import annotations

import pytest

from benchmarks.plan_accuracy.comparison import MAX_FACTOR, RunCost, compare_costs, render_table
from benchmarks.plan_accuracy.grids import GRID_NAMES, write_grids
from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.evaluation.execution.plan_cost import ExpectedCellCost, ExpectedPlanCost
from robustbench_local.evaluation.grid.schema import load_grid

ACTUAL = RunCost(
    passes={"a": 100, "b": 50}, titles={"a": "m pgd", "b": "m fgsm"}, cpu_seconds=10.0, peak_bytes=8
)


def expect(low, value, high, unknown_cells=0):
    passes = CostRange(low=low, value=value, high=high)
    cells = {"a": ExpectedCellCost(passes=passes, cpu_seconds=None, source="pilot")}
    if unknown_cells:
        cells["b"] = ExpectedCellCost(passes=None, cpu_seconds=None, source="upper bound only")
    return ExpectedPlanCost(
        cells=cells,
        passes=passes,
        cpu_seconds=passes.scale_by(0.1),
        seconds=passes,
        unknown_cells=unknown_cells,
        peak_bytes=4,
    )


@pytest.mark.parametrize(
    ("ends", "close", "held"), [((80, 110, 120), 1, 1), ((101, 140, 160), 1, 0), ((90, 151, 200), 0, 1)]
)
def test_ratios_and_ranges_are_counted(ends, close, held):
    compared = compare_costs("grid", expect(*ends), ACTUAL)
    assert compared.passes.ratio == pytest.approx(ends[1] / 100)
    assert compared.memory_ratio == 0.5
    table = render_table([compared])
    for noun in ("passes of a cell", "passes of a grid", "CPU time of a grid"):
        assert f"{noun}: {close} of 1 within a factor of {MAX_FACTOR}; {held} of 1 ranges hold" in table


def test_cells_of_unknown_cost_are_in_no_ratio():
    compared = compare_costs("grid", expect(90, 100, 110, unknown_cells=1), ACTUAL)
    assert (compared.cpu_seconds, compared.passes.ratio, compared.unknown_cells) == (None, 1.0, 1)
    assert "| grid | 1.00 (0.90-1.10) of 100 |  | 0.50 | 1 of 1 |" in render_table([compared])


def test_every_grid_is_valid(tmp_path):
    grids = write_grids(tmp_path, tmp_path)
    assert tuple(grids) == GRID_NAMES
    for path in grids.values():
        load_grid(path)
    assert list(write_grids(tmp_path, None, "signs,mnist")) == ["signs"]
