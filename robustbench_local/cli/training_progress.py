"""The progress of a training: lines, and a bar on a terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robustbench_local.cli.terminal_output import print_line

_HEARTBEAT_SECONDS = 30.0
"""Seconds between progress lines of a long epoch in a plain log."""


class TrainingProgress:
    """Timestamped log lines, and a bar of the steps while it is open on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress_bar: Progress | None = None
        self._last_print = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        if self.console.is_terminal:
            columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress_bar = Progress(*columns, console=self.console, transient=True)
            self._progress_bar.add_task("steps", total=None)
            self._progress_bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if self._progress_bar is not None:
            self._progress_bar.stop()
            self._progress_bar = None

    def report(self, line: str) -> None:
        """Print a line."""
        self._last_print = time.monotonic()
        print_line(self.console, f"{time.strftime('%H:%M:%S')}  {line}")

    def show_message(self, message: str | tuple[int, int]) -> None:
        """Show a message of another process: a line, or a step."""
        if isinstance(message, str):
            self.report(message)
        else:
            self.step(*message)

    def step(self, done: int, whole: int) -> None:
        """Move the bar, or print a regular progress line in a log."""
        if self._progress_bar is not None:
            self._progress_bar.update(self._progress_bar.task_ids[0], completed=done, total=whole)
        elif time.monotonic() - self._last_print > _HEARTBEAT_SECONDS:
            self.report(f"step {done:,} of {whole:,}")
