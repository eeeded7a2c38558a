"""The progress display of a terminal: a table that is drawn again, and lines above it that stay."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from robustbench_local.cli.live_table import build_live_table
from robustbench_local.cli.progress_display import ProgressDisplay
from robustbench_local.cli.progress_text import format_cell_result
from robustbench_local.cli.run_progress import Clock
from robustbench_local.cli.terminal_output import escape_text, join_text, print_line
from robustbench_local.evaluation.planning.plan import CellSpec
from robustbench_local.store.diagnostic_records import DiagnosticsRecord
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts

REFRESHES_PER_SECOND = 2.0
"""How often the table is drawn: the clock and the passes move, and a remote terminal keeps up."""


class LiveDisplay(ProgressDisplay):
    """The cells at work as a table.

    Args:
        console: The console of a terminal.
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
        self._live = Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the table and show the cursor again; printed lines stay, and one about what is kept."""
        self.stop()
        if kind is not None and (line := self.format_stop_line()):
            print_line(self.console, line, wrap=True)

    def stop(self) -> None:
        """Remove the table and show the cursor again."""
        self._live.stop()

    def render(self) -> RenderableType:
        """Build the table as it is now."""
        if self.progress is None:
            return Text("")
        return build_live_table(self.progress, self.labels, self.console.width, self.console.height)

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Print what the models answered, above the table."""
        for line, style in self.list_diagnosis_lines(diagnosis):
            print_line(self.console, line, style=style, wrap=True)

    def on_cell_start(self, cell: CellSpec, counts: OutcomeCounts) -> None:
        """Print once what was done before."""
        super().on_cell_start(cell, counts)
        if line := self.pop_resume_line():
            print_line(self.console, line, style="dim", wrap=True)

    def on_cell_end(
        self, cell: CellSpec, status: CellStatus, counts: OutcomeCounts, error: str | None
    ) -> None:
        """Print a line about the cell, above the table."""
        super().on_cell_end(cell, status, counts, error)
        style = {"done": "green", "stopped": "green", "skipped": "yellow"}.get(status, "red")
        reason = error if status == "stopped" else None
        result = format_cell_result(cell, counts, in_groups=self.state.in_groups, stop_reason=reason)
        line = join_text(
            escape_text(f"{status:>7}", style),
            f" {self.format_numbered_title(cell)}  ",
            escape_text(result, "dim"),
        )
        print_line(self.console, line, wrap=True)

    def on_event(self, event: EventRecord) -> None:
        """Print the line above the table."""
        style = {"warning": "yellow", "error": "red"}.get(event.level, "dim")
        for line in self.list_note_lines(event):
            print_line(self.console, line, style=style, wrap=True)
