"""Cells of a plan side by side: which may be at work together, and that a failure stays its cell's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from robustbench_local.errors import IncompleteError
from robustbench_local.evaluation.execution.executor import execute_plan
from robustbench_local.evaluation.execution.job_runner import JobRunner
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.store import RunStore

pytestmark = pytest.mark.slow
GRID = {
    "name": "side",
    "data": {"source": "signs", "limit": 4},
    "models": [{"id": "plain", "source": "zoo:signs-plain"}],
    "attacks": ["fgsm-linf-8", {"card": "pgd50-linf-8", "steps": 2, "restarts": 1}, "certify-ibp-linf-1"],
}
FGSM, PGD, IBP = "fgsm-linf-8", "pgd50-linf-8[steps=2,restarts=1]", "certify-ibp-linf-1"


class RoomyRunner(JobRunner):
    """A runner of this machine that says that there is always room, and fails in one cell if told to."""

    def __init__(self, failing="", failure=None):
        self.failing, self.failure, self.shares, self.closed = failing, failure, {}, []

    def has_room(self):
        return True

    def run_batches(self, job: Any, **options: Any) -> Iterator[Any]:
        name = type(job).__name__ + str(getattr(getattr(job, "attack", None), "steps", ""))
        self.shares[name] = options["work_share"]
        try:
            yield None
            for batch in super().run_batches(job, **options):
                yield None
                if self.failing in name and self.failure:
                    raise self.failure
                yield batch
        except GeneratorExit:
            self.closed.append(name)
            raise


class Order(ProgressListener):
    def __init__(self):
        self.events, self.counts = [], {}

    def on_cell_start(self, cell, counts):
        self.events.append(f"start {cell.record.attack}")

    def on_cell_end(self, cell, status, counts, error):
        self.events.append(f"{status} {cell.record.attack}")
        self.counts[cell.record.attack] = counts.n, counts.broken, counts.certified


def run(tmp_path, runner=None, name="run", grid=GRID, **options):
    order = Order()
    grid, _ = load_grid(grid)
    plan = make_plan(grid, Options(batch_size=4, workers=1, device="cpu", **options), base_folder=tmp_path)
    with RunStore.create_or_open(
        tmp_path / name, resolved_yaml=plan.resolved_yaml, identity=plan.identity
    ) as store:
        try:
            execute_plan(plan, store, order, job_runner=runner or JobRunner())
        finally:
            order.statuses = {record.attack: record.status for record in store.read_cells()}
    return order


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same grid, one cell after another."""
    return run(tmp_path_factory.mktemp("alone"))


def test_cells_are_at_work_together_where_there_is_room_and_find_the_same(tmp_path, alone):
    together = run(tmp_path, runner := RoomyRunner())
    assert alone.events == [
        line for attack in (FGSM, PGD, IBP) for line in (f"start {attack}", f"done {attack}")
    ]
    assert together.events[:3] == [f"start {attack}" for attack in (FGSM, PGD, IBP)]
    assert together.counts == alone.counts
    shares = list(runner.shares.values())
    assert shares[-1] == 1.0  # nothing is left after the last cell
    assert all(0 < share < 1 for share in shares[:-1])
    assert runner.closed == []


def test_attacks_wait_for_the_certificates_whose_proofs_they_use(tmp_path):
    order = run(tmp_path, RoomyRunner(), grid={**GRID, "skip_verified": True})
    assert order.events[:2] == [f"start {IBP}", f"done {IBP}"]
    assert order.events[2:4] == [f"start {FGSM}", f"start {PGD}"]


def test_a_cell_with_limited_time_has_all_workers_to_itself(tmp_path, alone):
    order = run(tmp_path, runner := RoomyRunner(), cell_timeout=60.0)
    assert order.events == alone.events
    assert set(runner.shares.values()) == {1.0}


@pytest.mark.parametrize("failure", [ValueError("no"), IncompleteError("the cluster is gone")])
def test_a_failure_is_its_cells_own_and_a_lost_cluster_everyones(tmp_path, alone, failure):
    runner = RoomyRunner("Certificate", failure)
    if isinstance(failure, ValueError):
        order = run(tmp_path, runner)
        assert order.statuses == {FGSM: "done", PGD: "done", IBP: "error"}
        assert runner.closed == []
        return
    with pytest.raises(IncompleteError):
        run(tmp_path, runner)
    assert len(runner.closed) == 2  # nothing stays at work
    resumed = run(tmp_path, again := RoomyRunner())
    assert set(again.shares.values()) <= {1.0}  # the attacks had only their status to write
    assert resumed.statuses == {FGSM: "done", PGD: "done", IBP: "done"}
    assert resumed.counts == alone.counts
