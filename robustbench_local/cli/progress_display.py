"""What every progress display has: the state of the run, and its events as lines."""

# ruff: noqa: ARG002 - listeners receive arguments that they do not show
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from robustbench_local.cli.live_table import list_facts
from robustbench_local.cli.progress_text import format_rough_range, format_title
from robustbench_local.cli.run_progress import Clock, RunProgress
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.execution.spent_resources import read_peak_bytes
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.reports.formatting.text import (
    EN_DASH,
    format_duration,
    format_mebibytes,
    format_percent,
)
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts
from robustbench_local.store.run_labels import RunLabels

MAX_NOTES_PER_CELL = 20
"""Maximum number of notes of a cell that are printed: a faulty model may leave one for each image."""


class ProgressDisplay(ProgressListener):
    """A listener with a lifetime that knows the state of the run; the base class shows nothing.

    Args:
        max_seconds: Maximum seconds by key of the cell, where known.
        clock: Returns seconds that only grow.
    """

    labels = RunLabels()

    def __init__(self, max_seconds: Mapping[str, float] | None = None, clock: Clock = time.monotonic) -> None:
        self.max_seconds, self.clock = dict(max_seconds or {}), clock
        self.progress: RunProgress | None = None
        self._known_cells = self._known_images = 0
        self._note_counts: Counter[str | None] = Counter()

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        self.stop()

    def stop(self) -> None:
        """Stop what is shown regularly; a second call has no effect."""

    @property
    def state(self) -> RunProgress:
        """The state of the run; there is none before the plan is ready."""
        if self.progress is None:
            raise RuntimeError("the plan is not ready")
        return self.progress

    def on_plan_ready(self, plan: Plan) -> None:
        """Store the labels and begin with nothing done."""
        self.labels = plan.labels
        self.progress = RunProgress(plan, self.max_seconds, self.clock)

    def on_cell_known(self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts) -> None:
        """Record what an earlier call has done."""
        self.state.record_known(cell, status, counts)
        self._known_cells += self.state.get_row(cell).has_ended
        self._known_images += self.state.get_row(cell).finished_images

    def on_pilot_start(self, cells: Sequence[CellSpec]) -> None:
        """Record the cells of the pilot."""
        self.state.start_pilot(cells)

    def on_pilot_end(self) -> None:
        """Record that the pilot is done."""
        self.state.end_pilot()

    def on_cell_start(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Record that work on a cell begins or goes on."""
        self.state.start_cell(cell, counts)

    def on_cell_pause(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Record that work on a cell stops for now."""
        self.state.pause_cell(cell)

    def on_batch_end(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Record the counts of a cell."""
        self.state.end_batch(cell, counts)

    def on_cell_end(
        self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts, error: str | None
    ) -> None:
        """Record the end of a cell."""
        self.state.end_cell(cell, status, counts)

    def list_diagnosis_lines(self, diagnosis: DiagnosticsRecord) -> list[tuple[str, str]]:
        """Return the lines about the questions to the models, findings first, each with its style."""
        lines = [
            (f"{result.status} {result.id}: {self.format_subject(result)}: {result.sentence}", "red")
            for result in diagnosis.results
            if not result.is_trusted
        ]
        share = format_percent(diagnosis.passes_share)
        asked = len({(result.model, result.defense) for result in diagnosis.results})
        cost = (
            f"{format_count(diagnosis.passes, 'pass')}, {share} of those that the attacks may "
            "take (limit 10%)"
        )
        return [*lines, (f"diagnostics: {format_count(asked, 'model')} asked, {cost}", "dim")]

    def list_note_lines(self, event: EventRecord) -> list[str]:
        """Return the lines about an event: its message, unless its cell has had very many."""
        self._note_counts[event.cell] += 1
        if event.level == "error" or self._note_counts[event.cell] < MAX_NOTES_PER_CELL:
            return [event.message]
        if self._note_counts[event.cell] == MAX_NOTES_PER_CELL:
            return [event.message, "further notes on this cell are not shown here; the report lists them all"]
        return []

    def format_subject(self, result: DiagnosticResult) -> str:
        """Return the label of the model that a diagnostic is about."""
        return self.labels.get_model_label(result.model, result.defense)

    def format_numbered_title(self, cell: CellSpec) -> str:
        """Return the number and the title of a cell."""
        row = self.state.get_row(cell)
        return f"{row.number}/{len(self.state.cells)} {format_title(self.labels, cell)}"

    def pop_resume_line(self) -> str | None:
        """Return a line about what an earlier call has done, once; None if that is nothing."""
        cells, images, self._known_cells, self._known_images = self._known_cells, self._known_images, 0, 0
        if not cells and not images:
            return None
        state = self.state
        return (
            f"resumed: {cells} of {format_count(len(state.cells), 'cell')} and {images:,} of "
            f"{state.image_count:,} image-attacks were done before"
        )

    def format_stop_line(self) -> str | None:
        """Return a line about what is done where the run stops early; None before its first cell."""
        if self.progress is None or not self.progress.finished_images:
            return None
        *position, share = list_facts(self.progress)
        where = f" in {position[0]}" if position else ""
        return f"stopped{where}: {share} and kept"

    def format_timing_line(self) -> str | None:
        """Return a line with the expected beside the actual time; None if nothing was run."""
        if self.progress is None or not self.timing:
            return None
        state = self.progress
        line = f"the attacks took {format_duration(self.timing['seconds'])}"
        most = self.timing["max_seconds"]
        bound = "" if most is None else f"passes of {format_duration(most)} at most"
        if state.expected_total is not None:
            after = f"after {format_count(state.expected_after_images, 'image')}"
            until = " without an early stop" if state.may_stop_early else ""
            line += f"; expected {after}{until}: {format_rough_range(state.expected_total)}"
            return line + (f", {bound}" if bound else "")
        return line + (f"; expected: {bound}" if bound else "")

    def format_cost_line(self) -> str | None:
        """Return a line with the expected beside the actual passes and memory; None if nothing was run."""
        timing = self.timing
        if not timing:
            return None
        after = f"after {format_count(timing['images_before_estimate'], 'image')}"
        line = format_count(timing["passes"], "pass")
        if timing["expected_passes"] is not None:
            low, high = timing["expected_passes"]
            line += f"; expected {after}: {low:,}{EN_DASH}{high:,}"
        line += f", {timing['max_passes']:,} at most; {format_duration(timing['cpu_seconds'])} of CPU time"
        if timing["peak_bytes"] is not None:
            line += f"; {format_mebibytes(timing['peak_bytes'])} in the largest process"
            if timing["expected_peak_bytes"] is not None:
                line += f", {format_mebibytes(timing['expected_peak_bytes'])} {after}"
        return line

    @property
    def timing(self) -> dict[str, Any]:
        """Actual, expected and maximum seconds and passes, the last of whole cells, with CPU time and memory.

        Empty if no cell was run.
        """
        state = self.progress
        if state is None or state.ended_seconds is None:
            return {}
        known = [self.max_seconds.get(row.cell.record.key) for row in state.cells if row.is_run_here]
        most = None if None in known else sum(seconds for seconds in known if seconds is not None)
        expected = state.expected_total
        passes = state.expected_passes
        return {
            "seconds": round(state.ended_seconds, 1),
            "expected_seconds": expected and [round(expected.low, 1), round(expected.high, 1)],
            "max_seconds": None if most is None else round(most, 1),
            "passes": state.passes,
            "expected_passes": passes and [round(passes.low), round(passes.high)],
            "max_passes": sum(row.max_passes for row in state.cells if row.is_run_here),
            "cpu_seconds": round(state.cpu_seconds, 1),
            "peak_bytes": read_peak_bytes() or None,
            "expected_peak_bytes": state.expected_peak_bytes or None,
            "images_before_estimate": state.expected_after_images,
        }
