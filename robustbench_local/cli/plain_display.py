"""The progress display of a log: one line for each event, and one at times in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console

from robustbench_local.cli.heartbeat import Heartbeat, choose_heartbeat_seconds
from robustbench_local.cli.live_table import format_position, list_facts, list_time_facts
from robustbench_local.cli.progress_display import ProgressDisplay
from robustbench_local.cli.progress_text import (
    format_cell_result,
    format_passes_per_image,
    format_progress,
    format_title,
)
from robustbench_local.cli.run_progress import CellProgress, Clock
from robustbench_local.cli.terminal_output import print_line
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.planning.plan import CellSpec
from robustbench_local.store.diagnostic_records import DiagnosticsRecord
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts


class PlainDisplay(ProgressDisplay):
    """Lines without control characters, with the facts of the table on a terminal.

    Args:
        console: The console to print on.
        max_seconds: Maximum seconds by key of the cell, where known.
        clock: Returns seconds that only grow.
    """

    def __init__(
        self,
        console: Console,
        max_seconds: Mapping[str, float] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(max_seconds, clock)
        self.console = console
        self._started = self._last_print = clock()
        self._heartbeat = Heartbeat(self.print_heartbeat)
        self._mutex = threading.RLock()

    def __enter__(self) -> PlainDisplay:
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the regular lines, and print one about what is kept if the run stops early."""
        self.stop()
        if kind is not None and (line := self.format_stop_line()):
            self._print_line(line)

    def stop(self) -> None:
        """Stop the regular lines."""
        self._heartbeat.stop()

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Print what the models answered."""
        for line, _ in self.list_diagnosis_lines(diagnosis):
            self._print_line(line)

    def on_pilot_end(self) -> None:
        """Print the first estimate of the time left."""
        super().on_pilot_end()
        first = format_count(len(self.state.pilot_cells), "cell")
        facts = ", ".join([*list_facts(self.state), *list_time_facts(self.state)])
        self._print_line(f"first images of {first} done: {facts}")

    def on_cell_start(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Print that a cell starts, or that it goes on, if no other line was printed lately."""
        was_here = self.state.get_row(cell).is_run_here
        super().on_cell_start(cell, counts)
        if line := self.pop_resume_line():
            self._print_line(line)
        if was_here and not self._is_line_due():
            return
        rest = f", {counts.n} already done" if counts.n else ""
        first = " (first images)" if self.state.is_pilot else ""
        self._print_line(
            f"started {self.format_numbered_title(cell)}{first}: "
            f"{format_count(cell.image_count, 'image')}{rest}"
        )

    def on_batch_end(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Print the progress of the cell if no other line was printed lately."""
        super().on_batch_end(cell, counts)
        self.print_heartbeat()

    def on_cell_end(
        self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts, error: str | None
    ) -> None:
        """Print how the cell ended."""
        super().on_cell_end(cell, status, counts, error)
        reason = error if status == "stopped" else None
        result = format_cell_result(cell, counts, in_groups=self.state.in_groups, stop_reason=reason)
        self._print_line(f"{status:>7} {self.format_numbered_title(cell)}: {result}")

    def on_event(self, event: EventRecord) -> None:
        """Print the event."""
        for line in self.list_note_lines(event):
            self._print_line(f"{event.level}: {line}")

    def print_heartbeat(self) -> None:
        """Print where the run is, if no other line was printed lately."""
        row = None if self.progress is None else self.progress.current
        if row is not None and self._is_line_due():
            self._print_line(f"        {self._format_row(row)}")

    def _format_row(self, row: CellProgress) -> str:
        state, counts = self.state, row.counts
        facts = [*list_facts(state)[1:], *list_time_facts(state)]
        position, title = format_position(state, row), format_title(self.labels, row.cell)
        passes = row.count_batch_passes()
        batch = f", {format_count(passes, 'pass')} into this batch" if passes else ""
        so_far = ""
        if counts.n:
            result = format_progress(row.cell, counts)
            so_far = f", {result}, {format_passes_per_image(counts)}"
        done = f"{counts.n:,} of {format_count(row.images, 'image')}{so_far}{batch}"
        return f"{position}, {title}: {done}; {', '.join(facts)}"

    def _is_line_due(self) -> bool:
        now = self.clock()
        return now - self._last_print >= choose_heartbeat_seconds(now - self._started)

    def _print_line(self, line: str) -> None:
        with self._mutex:
            self._last_print = self.clock()
            print_line(self.console, line)
