"""A run that stops before its last image: chunk by chunk, until every question is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.image_order import order_images
from robustbench_local.evaluation.execution.executor import (
    ENDED_STATUSES,
    CellRunner,
    format_utc_now,
    match_stored_cells,
    report_known_cells,
)
from robustbench_local.evaluation.execution.job_runner import LOCAL_RUNNER, JobRunner
from robustbench_local.evaluation.execution.kept_batch_sizes import forget_batch_sizes
from robustbench_local.evaluation.execution.model_diagnosis import diagnose_plan
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.evaluation.planning.screening import get_image_cost
from robustbench_local.stop_target import ImageMark, NextWork, StopTarget
from robustbench_local.store.outcome_columns import ROBUST_COLUMNS, OutcomeColumns
from robustbench_local.store.records import CellRecord, EventRecord
from robustbench_local.store.run_store import RunStore
from robustbench_local.store.stop_record import STOP_KEY, StopCell, StopRecord, StopRule

FindTargets = Callable[[RunStore], Sequence[StopTarget]]
"""Finds the questions that a run stops for, from its store: gates, or the precision of worst cases."""


def execute_until_stopped(
    plan: Plan,
    rule: StopRule,
    store: RunStore,
    listener: ProgressListener,
    find_targets: FindTargets,
    exit_process: Callable[[], None] | None = None,
    job_runner: JobRunner = LOCAL_RUNNER,
) -> None:
    """Run the cells of a plan on as many images as its questions need.

    The order of the images and the chunks depend only on the seed and on outcomes, so that a run which was
    killed ends with the same decision.

    Args:
        plan: The plan.
        rule: When the run ends.
        store: The store for outcomes.
        listener: Receives progress events.
        find_targets: Finds the questions.
        exit_process: As for ``execute_plan``.
        job_runner: Runs the work of the cells.

    Raises:
        StorageError: If writing fails; committed outcomes are kept and the same command resumes.
    """
    known = match_stored_cells(plan, store)
    if plan.measures_batch_size:
        forget_batch_sizes(store)
    diagnosis = diagnose_plan(plan, store, known)
    if diagnosis is not None:
        listener.on_diagnosis_end(diagnosis)
    if store.resumed:
        report_known_cells(plan, store, known, listener)
    store.update_meta({STOP_KEY: _build_record(plan, rule, known).to_json()})
    run = _StoppingRun(plan, store, listener, known, exit_process, job_runner)
    run.answer_targets(find_targets(store))
    run.stop_cells()


def _build_record(plan: Plan, rule: StopRule, known: Mapping[str, CellRecord]) -> StopRecord:
    """Build the record of everything that the verdicts of a stopped run depend on."""
    places = order_images(plan.data.ids, plan.data.labels.tolist(), seed=plan.seed)
    return StopRecord(
        rule=rule,
        order=tuple(plan.data.ids[place] for place in places),
        cells={known[cell.record.key].key: _describe_cell(cell, plan) for cell in plan.cells},
    )


def _describe_cell(cell: CellSpec, plan: Plan) -> StopCell:
    """Describe a cell's part in a run that stops early."""
    if cell.problem is not None or cell.skip_reason:
        return StopCell(cost=0.0)
    obstacle = ""
    if not cell.make_job().is_divisible:
        obstacle = "it draws random numbers for whole groups of images"
    elif len(cell.positions) < len(plan.data):
        obstacle = f"it is confined to {len(cell.positions)} of {format_count(len(plan.data), 'image')}"
    return StopCell(cost=get_image_cost(cell), obstacle=obstacle)


class _StoppingRun:
    """The cells of a run, their outcomes so far, and the questions."""

    def __init__(
        self,
        plan: Plan,
        store: RunStore,
        listener: ProgressListener,
        known: Mapping[str, CellRecord],
        exit_process: Callable[[], None] | None,
        job_runner: JobRunner,
    ) -> None:
        self.store, self.listener = store, listener
        self.runners: dict[str, CellRunner] = {}
        self.marks: dict[str, dict[str, ImageMark]] = {}
        self.ended_cells: set[str] = set()
        for cell in plan.cells:
            before = known[cell.record.key]
            runner = CellRunner(plan, store, listener, cell, before.key)
            runner.exit_process, runner.job_runner = exit_process, job_runner
            self.runners[before.key] = runner
            if before.status in ENDED_STATUSES or not runner.can_start():
                self.ended_cells.add(before.key)
            self._read_marks(before.key)

    def answer_targets(self, targets: Sequence[StopTarget]) -> None:
        """Run the chunks that each question needs, one question after the other; the rest runs to its end."""
        for target in targets:
            if target.test is None:
                continue
            while (work := self._choose_work(target)) is not None:
                self._run_chunk(work)
        for target in targets:
            if target.test is None:
                self._run_whole(target)

    def stop_cells(self) -> None:
        """End the cells: those with images left are stopped, and their reason says how far they came."""
        for key, runner in self.runners.items():
            if key in self.ended_cells:
                continue
            whole = runner.cell.record.images
            if len(runner.done_positions) == whole:
                runner.finish_run()
                continue
            far = f"{runner.counts.n:,} of {format_count(whole, 'image')}"
            reason = f"after {far}; the rest cannot change an answer"
            runner.finish_cell("stopped", reason if runner.counts.n else "no question needs it")

    def _choose_work(self, target: StopTarget) -> NextWork | None:
        """Return the next chunk of a question; None if it is answered, or a failed cell leaves it open."""
        cells = [key for key in target.cells if not self._has_failed(key)]
        if len(cells) < len(target.cells):
            return None
        state = target.read_marks(self.marks)
        work = None if state.is_answered else state.choose_work()
        return None if work is None or self._has_failed(work.cell) else work

    def _has_failed(self, key: str) -> bool:
        """Return whether a cell ended early, or could not evaluate an image."""
        runner = self.runners[key]
        is_short = key in self.ended_cells and len(runner.done_positions) < runner.cell.record.images
        return is_short or runner.counts.errors > 0

    def _run_chunk(self, work: NextWork) -> None:
        runner = self.runners[work.cell]
        ids = runner.cell.subject.data.ids
        chosen = set(work.images)
        positions = [
            position for position, row in enumerate(runner.cell.positions.tolist()) if ids[row] in chosen
        ]
        if not runner.run_positions(positions):
            self.ended_cells.add(work.cell)
        self._read_marks(work.cell)

    def _run_whole(self, target: StopTarget) -> None:
        """Run the cells of a question that needs every image."""
        keys = [key for key in (*target.cells, *target.proofs) if key not in self.ended_cells]
        line = f"{target.name} needs every image: {target.obstacle}"
        event = EventRecord(time=format_utc_now(), level="info", message=line)
        if line not in {known.message for known in self.store.read_events()}:
            self.store.add_event(event)
            self.listener.on_event(event)
        for key in keys:
            runner = self.runners[key]
            self.ended_cells.add(key)
            if runner.run_positions():
                runner.finish_run()
            self._read_marks(key)

    def _read_marks(self, key: str) -> None:
        self.marks[key] = build_marks(self.store.read_outcome_columns(key, ("image", *ROBUST_COLUMNS)))


def build_marks(columns: OutcomeColumns) -> dict[str, ImageMark]:
    """Return what outcomes say about each image."""
    marks = map(ImageMark, columns["clean_correct"], columns.robust)
    return dict(zip(columns["image"], marks, strict=True))
