"""Runs a plan on this machine and commits what it finds, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from robustbench_local.errors import ModelTimeoutError, StorageError
from robustbench_local.evaluation.execution.model_notes import keep_model_notes
from robustbench_local.evaluation.execution.model_speed import try_tuning_batch_size
from robustbench_local.evaluation.execution.progress_listener import Listener
from robustbench_local.evaluation.execution.proof_reuse import certificates_first, proven_images
from robustbench_local.evaluation.harness.attack_job import Batch, Task, one_line
from robustbench_local.evaluation.harness.batches import Isolation, run_batches
from robustbench_local.evaluation.planning.plan import Plan, PlannedCell
from robustbench_local.store.records import CellRecord, CellStatus, EventRecord, OutcomeRecord, tally
from robustbench_local.store.run_folder import UNKNOWN
from robustbench_local.store.run_store import RunStore

WORTH_A_CREW = 200
"""Passes at most of a cell for which no worker processes are started."""


def execute(plan: Plan, store: RunStore, listener: Listener, leave: Callable[[], None] | None = None) -> None:
    """Run every cell that is not done; one that fails does not stop the others.

    Args:
        plan: What to do.
        store: Where outcomes go; what it already holds is not done again.
        listener: Told of progress.
        leave: Ends this process, with what was committed, when a model hangs in it and cannot be interrupted.

    Raises:
        StorageError: If the disk refuses; what was committed is kept and the same command resumes.
    """
    known = _settle_cells(plan, store)
    for cell in certificates_first(plan.cells) if plan.skip_verified else plan.cells:
        before = known[cell.record.key]
        if before.status in {"done", "partial", "skipped"}:
            continue
        runner = _Runner(plan, store, listener, cell, before.key)
        runner.leave = leave
        runner.run()


def _settle_cells(plan: Plan, store: RunStore) -> dict[str, CellRecord]:
    """Every cell of the plan as the store has it, by its key in the plan; new ones are added.

    While a model cannot be used, the keys of its cells are not known: those of a run that knew it stay, and
    those of a run that did not give way.
    """
    stored, settled = store.cells(), {}
    for cell in plan.cells:
        there = [record for record in stored if _place(record) == _place(cell.record)]
        known = [record for record in there if cell.problem or record.key == cell.record.key]
        for record in there if not known else ():
            if UNKNOWN in record.identity.values():
                store.remove_cell(record.key)
        if not known:
            store.put_cell(cell.record)
        settled[cell.record.key] = known[0] if known else cell.record
    return settled


def _place(record: CellRecord) -> tuple[str, ...]:
    return record.model, record.defense, record.attack


class _Runner:
    """One cell on its way into the store."""

    def __init__(self, plan: Plan, store: RunStore, listener: Listener, cell: PlannedCell, key: str) -> None:
        self.leave: Callable[[], None] | None = None
        self.plan, self.store, self.listener, self.cell, self.key = plan, store, listener, cell, key
        rows = store.outcomes(self.key)
        self.done = {row.position for row in rows}
        self.tally = tally(rows)

    def run(self) -> None:
        """Run the cell to its end and leave its status in the store."""
        if self.cell.problem is not None:
            overdue = isinstance(self.cell.problem, ModelTimeoutError)
            self._finish("timeout" if overdue else "error", one_line(self.cell.problem))
            return
        if self.cell.skipped:
            self._finish("skipped", self.cell.skipped)
            return
        self.store.set_status(self.key, "running")
        self.listener.started(self.cell, self.tally)
        try:
            self._work()
        except StorageError:
            raise
        except ModelTimeoutError as overdue:
            done = f"{self.tally.n} of {self.cell.record.images} images done"
            self._finish("timeout", f"{done}: {one_line(overdue)}")
        except Exception as failure:  # noqa: BLE001 - a cell's failure is a result, not the run's end
            self._finish("error", one_line(failure))
        else:
            errors = self.tally.errors
            problem = f"{errors} of {self.tally.n} images could not be evaluated" if errors else None
            self._warn_of_gradients()
            self._finish("partial" if errors else "done", problem)

    def _warn_of_gradients(self) -> None:
        """Say what was wrong with gradients: what they did not break is not robust for that."""
        counts = self.tally
        if counts.nonfinite_gradients:
            self._notify(
                f"{self.cell.record.attack} on {self.cell.subject}: gradients had NaN or infinite entries on "
                f"{counts.nonfinite_gradients} of {counts.n} images; they were taken out where they arise"
            )
        if counts.gradients_missing:
            self._notify(
                f"{self.cell.record.attack} on {self.cell.subject}: gradients showed nothing to follow on "
                f"{counts.gradients_missing} of {counts.n} images; add a margin loss or a black-box attack"
            )

    def _work(self) -> None:
        task = self.cell.task(self.plan.seed)
        if self.plan.skip_verified and isinstance(task, Task):
            task = replace(task, proven=proven_images(self.cell, self.plan.cells, self.store))
        originals = task.data.images.numpy()
        size = self.plan.batch_size or self._measured_size()
        batches = run_batches(
            task,
            batch_size=size,
            done=frozenset(self.done),
            notify=self._notify,
            workers=self._workers(),
            isolation=Isolation(
                isolated=True,
                timeout=self.plan.timeout,
                cell_timeout=self.plan.cell_timeout,
                give_up=self._give_up,
            ),
        )
        for batch in batches:
            fresh = tuple(row for row in batch.outcomes if row.position not in self.done)
            self._keep(originals, batch, fresh)
            self.store.add_outcomes(self.key, fresh, batch.sightings, batch.views)
            self.done.update(row.position for row in fresh)
            self.tally += tally(fresh)
            self.listener.advanced(self.cell, self.tally)

    def _workers(self) -> int:
        """Processes that share the cell; starting them takes as long as some hundred passes."""
        return self.plan.workers if sum(self.cell.passes) > WORTH_A_CREW else 1

    def _measured_size(self) -> int:
        """The model's batch size on this machine; a resumed run keeps it, so that it repeats every digit."""
        subject, known = self.cell.crafted_on, self.store.meta("batch sizes", {})
        if str(subject) not in known:
            count = 1 if self._workers() > 1 else None
            size, problem = try_tuning_batch_size(subject, self.plan.timeout, thread_count=count)
            if problem is not None:
                self._notify(problem)
            known[str(subject)] = size
            self.store.update_meta({"batch sizes": known})
        return int(known[str(subject)])

    def _keep(self, originals: np.ndarray, batch: Batch, fresh: Sequence[OutcomeRecord]) -> None:
        """Save the first broken images of the cell, or of signs the first at all: whatever the batches."""
        worth = [row for row in fresh if (row.clean_correct if batch.pictures else row.broken)]
        before = self.tally.clean_correct if batch.pictures else self.tally.broken
        positions = [row.position for row in worth[: max(self.plan.keep - before, 0)]]
        if not positions:
            return
        place = {row.position: index for index, row in enumerate(batch.outcomes)}
        arrays = {
            "positions": np.array(positions, dtype=np.int64),
            "original": originals[positions],
            "adversarial": batch.candidates[[place[position] for position in positions]].numpy(),
        }
        kept = [batch.pictures[position] for position in positions if batch.pictures]
        arrays |= {name: np.stack([one[name] for one in kept]) for name in (kept[0] if kept else ())}
        self.store.save_arrays(self.key, positions[0], arrays)

    def _give_up(self, why: str) -> None:
        """Leave the cell as out of time, and this process if it is ours to leave; from another thread."""
        done = f"{self.tally.n} of {self.cell.record.images} images done"
        self._finish("timeout", f"{done}: {self.cell.subject}: {why}, and it cannot be interrupted")
        if self.leave is not None:
            self.leave()

    def _finish(self, status: CellStatus, error: str | None) -> None:
        keep_model_notes(self.store, [self.cell.subject, self.cell.crafted_on])
        self.store.set_status(self.key, status, error)
        if error and status != "skipped":  # a skipped cell's own record says why
            self._tell("error" if status == "error" else "warning", error)
        self.listener.finished(self.cell, status, self.tally, error)

    def _notify(self, line: str) -> None:
        self._tell("warning", line)

    def _tell(self, level: Literal["info", "warning", "error"], line: str) -> None:
        event = EventRecord(time=now(), level=level, message=line, cell=self.key)
        self.store.add_event(event)
        self.listener.told(event)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
