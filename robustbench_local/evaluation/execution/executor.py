"""The executor: it runs a plan on this machine and commits the outcomes batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import numpy as np

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import IncompleteError, ModelTimeoutError
from robustbench_local.evaluation.execution.job_runner import LOCAL_RUNNER, JobRunner
from robustbench_local.evaluation.execution.kept_batch_sizes import (
    describe_kept_sizes,
    find_batch_size,
    forget_batch_sizes,
    keep_reduced_size,
)
from robustbench_local.evaluation.execution.model_diagnosis import diagnose_plan
from robustbench_local.evaluation.execution.model_notes import save_model_notes
from robustbench_local.evaluation.execution.pilot_positions import choose_pilot_positions
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.execution.proof_reuse import find_proven_images, sort_certificates_first
from robustbench_local.evaluation.execution.side_by_side import Steps, run_side_by_side
from robustbench_local.evaluation.execution.worker_count import count_workers
from robustbench_local.evaluation.harness.batches import IsolationSettings
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch, format_error_line
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.evaluation.planning.screening import build_screening_cells
from robustbench_local.evaluation.planning.shard_positions import build_shard_record
from robustbench_local.store.adaptations import read_adaptation, save_adaptation
from robustbench_local.store.records import CellRecord, CellStatus, EventRecord, OutcomeRecord, count_outcomes
from robustbench_local.store.run_folder import UNKNOWN_IDENTITY
from robustbench_local.store.run_store import RunStore
from robustbench_local.store.shard_record import SHARD_KEY

ENDED_STATUSES = frozenset({"done", "partial", "skipped"})
"""Statuses of cells that are not run again; errors and timeouts are tried again."""
MIN_CELL_SECONDS = 0.001
"""Time limit of a cell whose time is used up by its first images; 0 would be no limit."""


def execute_plan(
    plan: Plan,
    store: RunStore,
    listener: ProgressListener,
    exit_process: Callable[[], None] | None = None,
    job_runner: JobRunner = LOCAL_RUNNER,
) -> None:
    """Run every cell that is not done; a cell that fails does not stop the others.

    Args:
        plan: The plan to execute.
        store: The store for outcomes; cells that it already holds are not run again.
        listener: Receives progress events.
        exit_process: Ends this process, after a commit, when a model hangs in it and cannot be interrupted.
        job_runner: Runs the work of the cells.

    Raises:
        IncompleteError: If writing fails or the cluster is lost; committed outcomes are kept and the same
            command resumes.
    """
    known = match_stored_cells(plan, store)
    save_shard_record(plan, store, known)
    if plan.measures_batch_size:
        forget_batch_sizes(store)
    diagnosis = diagnose_plan(plan, store, known)
    if diagnosis is not None:
        listener.on_diagnosis_end(diagnosis)
    if store.resumed:
        report_known_cells(plan, store, known, listener)
    runners = []
    for cell in sort_certificates_first(plan.cells) if plan.skip_verified else plan.cells:
        before = known[cell.record.key]
        if before.status in ENDED_STATUSES:
            continue
        runners.append(CellRunner(plan, store, listener, cell, before.key))
        runners[-1].exit_process, runners[-1].job_runner = exit_process, job_runner
    # where the time of a cell is limited, it has all workers to itself
    has_room = job_runner.has_room if plan.cell_timeout is None else _deny_room
    with_pilot = [runner for runner in runners if runner.has_pilot()]
    if with_pilot:
        listener.on_pilot_start([runner.cell for runner in with_pilot])
        run_side_by_side((runner.iterate_pilot() for runner in with_pilot), has_room)
        listener.on_pilot_end()
    for group in _group_runners([runner for runner in runners if not runner.has_ended], plan):
        if plan.cell_timeout is None:
            divide_work(group)
        run_side_by_side((runner.iterate_work() for runner in group), has_room)


def _deny_room() -> bool:
    return False


def _group_runners(runners: Sequence[CellRunner], plan: Plan) -> list[list[CellRunner]]:
    """Group the cells that may be at work at the same time: attacks may wait for certificates."""
    if not plan.skip_verified:
        return [list(runners)]
    return [[runner for runner in runners if runner.cell.is_certificate is kind] for kind in (True, False)]


def divide_work(runners: Sequence[CellRunner]) -> None:
    """Tell each cell its share of the work that is left when it begins, by the passes that it may take."""
    left = 0.0
    for runner in reversed(runners):
        work = sum(runner.cell.work_passes) * runner.estimate_share_left()
        left += work
        runner.work_share = work / left if work else 1.0  # a cell without work takes nothing from others


def report_known_cells(
    plan: Plan, store: RunStore, known: dict[str, CellRecord], listener: ProgressListener
) -> None:
    """Report to the listener the cells that an earlier call of the run began or ended.

    Args:
        plan: The plan.
        store: The store, open.
        known: The stored record of every cell, by its key in the plan.
        listener: Receives them.
    """
    if line := describe_kept_sizes(plan, store):
        listener.on_event(EventRecord(time=format_utc_now(), level="info", message=line))
    for cell in plan.cells:
        record = known[cell.record.key]
        counts = store.count_outcomes(record.key)
        if counts.n or record.status in ENDED_STATUSES:
            listener.on_cell_known(cell, record.status, counts)


def restore_screening_cells(plan: Plan, store: RunStore) -> Plan:
    """Return a plan over all images with the cells that a run which stopped early added; they go on too."""
    stored = {record.key for record in store.read_cells()}
    own = {cell.record.key for cell in plan.cells}
    added = [cell for cell in build_screening_cells(plan.cells) if cell.record.key in stored - own]
    return replace(plan, cells=(*plan.cells, *added)) if added else plan


def save_shard_record(plan: Plan, store: RunStore, known: Mapping[str, CellRecord]) -> None:
    """Store which images a shard has, under the keys of its stored cells; nothing for a whole run."""
    record = build_shard_record(plan, {key: cell.key for key, cell in known.items()})
    if record is not None:
        store.update_meta({SHARD_KEY: record.to_json()})


def match_stored_cells(plan: Plan, store: RunStore) -> dict[str, CellRecord]:
    """Return the stored record of every cell of the plan, by its key in the plan; new cells are added.

    While a model cannot be used, the keys of its cells are unknown. Stored cells of a run that could use the
    model stay; those of a run that could not are replaced.
    """
    stored, settled = store.read_cells(), {}
    for cell in plan.cells:
        same_cells = [record for record in stored if identify_cell(record) == identify_cell(cell.record)]
        known = [record for record in same_cells if cell.problem or record.key == cell.record.key]
        for record in same_cells if not known else ():
            if UNKNOWN_IDENTITY in record.identity.values():
                store.remove_cell(record.key)
        if not known:
            store.put_cell(cell.record)
        settled[cell.record.key] = known[0] if known else cell.record
    return settled


def identify_cell(record: CellRecord) -> tuple[str, ...]:
    """Return what identifies a cell within a run, also while the identity of its model is unknown."""
    return record.model, record.defense, record.attack


class CellRunner:
    """Runs one cell and writes its outcomes to the store.

    Args:
        plan: The plan.
        store: The store, open for writing.
        listener: Receives progress events.
        cell: The cell.
        key: Its key in the store.
    """

    def __init__(
        self, plan: Plan, store: RunStore, listener: ProgressListener, cell: CellSpec, key: str
    ) -> None:
        self.exit_process: Callable[[], None] | None = None
        self.job_runner = LOCAL_RUNNER
        self.work_share = 1.0
        self.has_started = self.has_ended = False
        self._spent_seconds = 0.0
        self.plan, self.store, self.listener, self.cell, self.key = plan, store, listener, cell, key
        self.done_positions = store.read_done_positions(key)
        self.counts = store.count_outcomes(key)

    def iterate_work(self) -> Steps:
        """Run the cell to its end and save its status in the store."""
        if self.can_start():
            yield from self.iterate_positions()
            if not self.has_ended:
                self.finish_run()

    def estimate_share_left(self) -> float:
        """Return the share of the cell's images that are left; 0 if it does not run."""
        if self.cell.problem is not None or self.cell.skip_reason or not self.cell.image_count:
            return 0.0
        return max(1 - self.counts.n / self.cell.image_count, 0.0)

    def has_pilot(self) -> bool:
        """Return whether some images of the cell are run before other cells.

        A cell of which images are done has no pilot: they tell as much. Nor has an attack that skips images
        which a certificate proves robust, because the certificate runs first.
        """
        if self.counts.n or self.cell.problem is not None or self.cell.skip_reason:
            return False
        if self.plan.skip_verified and not self.cell.is_certificate:
            return False
        return bool(self._choose_pilot(self.plan.batch_size or 1))

    def iterate_pilot(self) -> Steps:
        """Run the cell's pilot; a cell that fails in it ends."""
        size = self._find_batch_size()
        yield from self.iterate_positions(self._choose_pilot(size))
        if not self.has_ended:
            self.listener.on_cell_pause(self.cell, self.counts)

    def _choose_pilot(self, batch_size: int) -> list[int]:
        return choose_pilot_positions(self.cell.make_job(), batch_size, self.cell.own_positions)

    def can_start(self) -> bool:
        """Return whether the cell can run; one that cannot ends here, with its reason."""
        if self.cell.problem is not None:
            overdue = isinstance(self.cell.problem, ModelTimeoutError)
            self.finish_cell("timeout" if overdue else "error", format_error_line(self.cell.problem))
            return False
        if self.cell.skip_reason:
            self.finish_cell("skipped", self.cell.skip_reason)
            return False
        if self.plan.shard is not None and not self.cell.image_count:
            self.finish_cell("skipped", f"none of its images is in {self.plan.shard.title}")
            return False
        return True

    def run_positions(self, positions: Collection[int] | None = None) -> bool:
        """Run the cell on some of its positions, or on all of this run; return whether it did not fail."""
        for _ in self.iterate_positions(positions):
            pass
        if not self.has_ended:
            self.listener.on_cell_pause(self.cell, self.counts)
        return not self.has_ended

    def iterate_positions(self, positions: Collection[int] | None = None) -> Steps:
        """Run the cell on some of its positions, or on all of this run; it ends if it fails."""
        if not self.has_started:
            self.has_started = True
            self.store.set_status(self.key, "running")
        self.listener.on_cell_start(self.cell, self.counts)
        try:
            yield from self._iterate_job(positions)
        except IncompleteError:
            raise
        except ModelTimeoutError as overdue:
            progress = f"{self.counts.n} of {format_count(self.cell.image_count, 'image')} done"
            self.finish_cell("timeout", f"{progress}: {format_error_line(overdue)}")
        except Exception as failure:  # noqa: BLE001 - a cell's failure is a result, not the run's end
            self.finish_cell("error", format_error_line(failure))

    def finish_run(self) -> None:
        """End a cell that has run on all its images."""
        errors = self.counts.errors
        problem = (
            f"{errors} of {format_count(self.counts.n, 'image')} could not be evaluated" if errors else None
        )
        self._warn_about_gradients()
        self.finish_cell("partial" if errors else "done", problem)

    def _format_cell(self) -> str:
        record, labels = self.cell.record, self.plan.labels
        model = labels.get_model_label(record.model, record.defense)
        return f"{labels.get_attack_label(record.attack)} on {model}"

    def _warn_about_gradients(self) -> None:
        """Note gradient faults: an image that was not broken with faulty gradients is not thereby robust."""
        counts = self.counts
        if counts.nonfinite_gradients:
            self._add_warning(
                f"{self._format_cell()}: gradients had NaN or infinite entries on "
                f"{counts.nonfinite_gradients} of {format_count(counts.n, 'image')}; these entries "
                "were removed where "
                "they arise"
            )
        if counts.missing_gradients:
            self._add_warning(
                f"{self._format_cell()}: gradients were zero or not confirmed on "
                f"{counts.missing_gradients} of {format_count(counts.n, 'image')}; add a margin "
                "loss or a black-box attack"
            )

    def _iterate_job(self, positions: Collection[int] | None) -> Steps:
        started, limit = time.monotonic(), self.plan.cell_timeout
        job = self.cell.make_job()
        if self.plan.skip_verified:
            job = job.skip_proven_images(find_proven_images(self.cell, self.plan.cells, self.store))
        size = self._find_batch_size()
        isolation = IsolationSettings(
            isolated=True,
            timeout=self.plan.timeout,
            cell_timeout=limit and max(limit - self._spent_seconds, MIN_CELL_SECONDS),
            abort_hung_model=self._abort_hung_model,
        )
        batches = self.job_runner.run_batches(
            self._adapt_job(job, size, isolation),
            batch_size=size,
            done_positions=frozenset(self.done_positions),
            selected_positions=self.cell.own_positions if positions is None else positions,
            notify=self._add_warning,
            on_smaller_batches=partial(keep_reduced_size, self.store, self.cell),
            workers=self._count_workers(),
            work_share=self.work_share,
            isolation=isolation,
        )
        for batch in batches:
            if batch is not None:
                self._commit_batch(job, batch)
            yield
        self._spent_seconds += time.monotonic() - started

    def _commit_batch(self, job: Job, batch: OutcomeBatch) -> None:
        fresh = tuple(row for row in batch.outcomes if row.position not in self.done_positions)
        self._save_example_images(job, batch, fresh)
        self.store.add_outcomes(self.key, fresh, batch.view_predictions, batch.views)
        self.done_positions.update(row.position for row in fresh)
        self.counts += count_outcomes(fresh)
        self.listener.on_batch_end(self.cell, self.counts)

    def _adapt_job(self, job: Job, batch_size: int, isolation: IsolationSettings) -> Job:
        """Adapt the cell's attack to its model, or use the stored adaptation; stored before any outcome."""
        known = read_adaptation(self.store, self.key)
        job, adaptation = self.job_runner.adapt_job(
            job, batch_size=batch_size, isolation=isolation, notify=self._add_warning, known=known
        )
        if adaptation is not None and known is None:
            save_adaptation(self.store, self.key, adaptation)
        return job

    def _count_workers(self) -> int:
        """Return the number of processes for the cell."""
        return count_workers(self.cell, self.plan.workers)

    def _find_batch_size(self) -> int:
        return find_batch_size(
            self.plan,
            self.store,
            self.cell,
            workers=self._count_workers(),
            tell=partial(self._add_event, "info"),
            warn=self._add_warning,
            runner=self.job_runner,
        )

    def _save_example_images(self, job: Job, batch: OutcomeBatch, fresh: Sequence[OutcomeRecord]) -> None:
        """Save the cell's first broken images, or the first signs of a sticker cell, whatever the batches."""
        worth = [row for row in fresh if (row.clean_correct if batch.report_images else row.broken)]
        before = self.counts.clean_correct if batch.report_images else self.counts.broken
        positions = [row.position for row in worth[: max(self.plan.max_example_images - before, 0)]]
        if not positions:
            return
        index = {row.position: index for index, row in enumerate(batch.outcomes)}
        arrays = {
            "positions": np.array(positions, dtype=np.int64),
            "original": job.select_images(positions).images.numpy(),
            "adversarial": batch.candidates[[index[position] for position in positions]].numpy(),
        }
        image_sets = [batch.report_images[position] for position in positions if batch.report_images]
        arrays |= {
            name: np.stack([image_arrays[name] for image_arrays in image_sets])
            for name in (image_sets[0] if image_sets else ())
        }
        self.store.save_arrays(self.key, positions[0], arrays)

    def _abort_hung_model(self, why: str) -> None:
        """Record the cell as timed out and exit the process where that is allowed; runs in another thread."""
        progress = f"{self.counts.n} of {format_count(self.cell.image_count, 'image')} done"
        self.finish_cell("timeout", f"{progress}: {self.cell.subject}: {why}, and it cannot be interrupted")
        if self.exit_process is not None:
            self.exit_process()

    def finish_cell(self, status: CellStatus, error: str | None) -> None:
        """Save the status of the cell, with a reason in one line, and tell the listener."""
        self.has_ended = True
        save_model_notes(self.store, [self.cell.subject, self.cell.queried_subject])
        self.store.set_status(self.key, status, error)
        if error and status not in {"skipped", "stopped"}:  # the cell's own record says why
            self._add_event("error" if status == "error" else "warning", error)
        self.listener.on_cell_end(self.cell, status, self.counts, error)

    def _add_warning(self, line: str) -> None:
        self._add_event("warning", line)

    def _add_event(self, level: Literal["info", "warning", "error"], line: str) -> None:
        event = EventRecord(time=format_utc_now(), level=level, message=line, cell=self.key)
        self.store.add_event(event)
        self.listener.on_event(event)


def format_utc_now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
