"""Three progress displays: bars on a terminal, log lines, and JSON lines for a program."""

# ruff: noqa: ARG002 - listeners receive arguments that they do not show
from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from robustbench_local.cli.terminal_output import escape_text, join_text, print_json, print_line
from robustbench_local.errors import escape_unprintable
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.reports.formatting.text import format_count, format_duration, format_percent
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord
from robustbench_local.store.records import CellStatus, EventRecord, OutcomeCounts
from robustbench_local.store.run_labels import RunLabels

HEARTBEAT_SECONDS = 15.0
"""Seconds between progress lines of a long batch in a plain log."""


class ProgressDisplay(ProgressListener):
    """A listener with a lifetime that knows the labels of the run's cells; the base class shows nothing."""

    labels = RunLabels()

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""

    def on_plan_ready(self, plan: Plan) -> None:
        """Store the labels."""
        self.labels = plan.labels

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

    def format_subject(self, result: DiagnosticResult) -> str:
        """Return the label of the model that a diagnostic is about."""
        return self.labels.get_model_label(result.model, result.defense)

    def format_title(self, cell: CellSpec) -> str:
        """Return the title of a cell."""
        record = cell.record
        model = self.labels.get_model_label(record.model, record.defense)
        return f"{self.labels.get_attack_label(record.attack)} on {model}"


class PassesColumn(ProgressColumn):
    """The progress of the attack within a batch: the only change on the screen, perhaps for minutes."""

    def render(self, task: Task) -> Text:
        """Read the classifier's pass count at every refresh."""
        cell = task.fields.get("cell")
        return Text("" if cell is None else format_passes(cell).lstrip(", "), style="dim")


class RichDisplay(ProgressDisplay):
    """A bar for the run and one for the current cell."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            PassesColumn(),
            console=console,
        )
        self.total_task = self.progress.add_task("cells", total=None, note="", visible=False)
        self.cell_task = self.progress.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> RichDisplay:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bars; printed lines stay."""
        self.progress.stop()

    def on_plan_ready(self, plan: Plan) -> None:
        """Show the bar of the run."""
        super().on_plan_ready(plan)
        self.progress.update(self.total_task, total=len(plan.cells), visible=True)

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Print what the models answered, above the bars."""
        for line, style in self.list_diagnosis_lines(diagnosis):
            print_line(self.console, line, style=style, wrap=True)

    def on_cell_start(self, cell: CellSpec, done: OutcomeCounts) -> None:
        """Show the bar of the cell."""
        label = escape_unprintable(self.format_title(cell))
        self.progress.reset(self.cell_task, total=len(cell.positions), completed=done.n)
        self.progress.update(self.cell_task, description=label, visible=True, note="", cell=cell)

    def on_batch_end(self, cell: CellSpec, done: OutcomeCounts) -> None:
        """Move the bar of the cell."""
        self.progress.update(self.cell_task, completed=done.n, note=format_progress(cell, done))

    def on_cell_end(self, cell: CellSpec, status: CellStatus, done: OutcomeCounts, error: str | None) -> None:
        """Print a line about the cell and move the bar of the run."""
        self.progress.update(self.cell_task, visible=False)
        self.progress.advance(self.total_task)
        style = {"done": "green", "skipped": "yellow"}.get(status, "red")
        line = join_text(
            escape_text(f"{status:>7}", style),
            f" {self.format_title(cell)}  ",
            escape_text(format_cell_result(cell, done), "dim"),
        )
        print_line(self.console, line, wrap=True)

    def on_event(self, event: EventRecord) -> None:
        """Print the line above the bars."""
        style = {"warning": "yellow", "error": "red"}.get(event.level, "dim")
        print_line(self.console, event.message, style=style, wrap=True)


class PlainDisplay(ProgressDisplay):
    """One line per event, and a regular progress line in between."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last_print = time.monotonic()
        self._current_cell: CellSpec | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._print_heartbeats, daemon=True)

    def __enter__(self) -> PlainDisplay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the regular progress lines."""
        self._stopped.set()
        self._thread.join()

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Print what the models answered."""
        for line, _ in self.list_diagnosis_lines(diagnosis):
            self._print_line(line)

    def on_cell_start(self, cell: CellSpec, done: OutcomeCounts) -> None:
        """Print that a cell starts."""
        rest = f", {done.n} already done" if done.n else ""
        self._current_cell = cell
        self._print_line(
            f"started {self.format_title(cell)}: {format_count(len(cell.positions), 'image')}{rest}"
        )

    def on_batch_end(self, cell: CellSpec, done: OutcomeCounts) -> None:
        """Print the progress of the cell, every few seconds at most."""
        if time.monotonic() - self._last_print > HEARTBEAT_SECONDS / 3:
            progress = (
                f"{done.n} of {format_count(len(cell.positions), 'image')}, {format_progress(cell, done)}"
            )
            self._print_line(f"        {self.format_title(cell)}: {progress}")

    def on_cell_end(self, cell: CellSpec, status: CellStatus, done: OutcomeCounts, error: str | None) -> None:
        """Print how the cell ended."""
        self._current_cell = None
        self._print_line(f"{status:>7} {self.format_title(cell)}: {format_cell_result(cell, done)}")

    def on_event(self, event: EventRecord) -> None:
        """Print the event."""
        self._print_line(f"{event.level}: {event.message}")

    def _print_line(self, line: str) -> None:
        self._last_print = time.monotonic()
        print_line(self.console, line)

    def _print_heartbeats(self) -> None:
        while not self._stopped.wait(1.0):
            cell = self._current_cell
            if cell is not None and time.monotonic() - self._last_print > HEARTBEAT_SECONDS:
                self._print_line(f"        {self.format_title(cell)}: running{format_passes(cell)}")


class JsonDisplay(ProgressDisplay):
    """One JSON object per line on standard output."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_plan_ready(self, plan: Plan) -> None:
        """Emit the size of the plan."""
        super().on_plan_ready(plan)
        self._print_event(
            "planned", name=plan.name, cells=len(plan.cells), images=len(plan.data), seed=plan.seed
        )

    def on_diagnosis_end(self, diagnosis: DiagnosticsRecord) -> None:
        """Emit what the models answered."""
        found = [
            {"id": one.id, "model": one.model, "defense": one.defense, "status": one.status}
            for one in diagnosis.results
        ]
        self._print_event(
            "diagnostics",
            results=found,
            passes=diagnosis.passes,
            planned_passes=diagnosis.planned_passes,
        )

    def on_cell_start(self, cell: CellSpec, done: OutcomeCounts) -> None:
        """Emit the start of a cell."""
        self._print_event("cell_started", cell, images=len(cell.positions), done=done.n)

    def on_batch_end(self, cell: CellSpec, done: OutcomeCounts) -> None:
        """Emit the progress of the cell."""
        self._print_event("batch_done", cell, images=len(cell.positions), done=done.n, robust=done.robust)

    def on_cell_end(self, cell: CellSpec, status: CellStatus, done: OutcomeCounts, error: str | None) -> None:
        """Emit the end of the cell."""
        self._print_event("cell_finished", cell, status=status, done=done.n, robust=done.robust, error=error)

    def on_event(self, event: EventRecord) -> None:
        """Emit the event."""
        self._print_event(event.level, message=event.message)

    def _print_event(self, event: str, cell: CellSpec | None = None, **facts: Any) -> None:
        about = {} if cell is None else self._identify_cell(cell)
        print_json(self.console, {"event": event, **about, **facts})

    def _identify_cell(self, cell: CellSpec) -> dict[str, str]:
        record = cell.record
        label = self.labels.get_attack_label(record.attack)
        return {"model": record.model, "defense": record.defense, "attack": record.attack, "label": label}


def choose_display(console: Console, *, as_json: bool) -> ProgressDisplay:
    """Choose bars on a terminal, JSON lines if asked for, plain lines otherwise."""
    if as_json:
        return JsonDisplay(console)
    return RichDisplay(console) if console.is_terminal else PlainDisplay(console)


def format_passes(cell: CellSpec) -> str:
    """Format the attack's passes in the current batch."""
    passes = cell.queried_subject.classifier.count_current_passes()
    return f", {format_count(passes, 'pass')} into this batch" if passes else ""


def format_progress(cell: CellSpec, done: OutcomeCounts) -> str:
    """Format the results of a cell so far."""
    if cell.record.measure == "views":
        return format_sticker_success(done)
    return f"{format_robust_word(cell)} so far {format_share(done.robust, done.n)}"


def format_sticker_success(done: OutcomeCounts) -> str:
    """Format the results of signs evaluated over views; void or misclassified clean ones separately."""
    left_out = done.n - done.clean_correct
    apart = f", {left_out} excluded" if left_out else ""
    return (
        f"{done.broken} of {format_count(done.clean_correct, 'sign')} misclassified in most of "
        f"their views{apart}"
    )


def format_robust_word(cell: CellSpec) -> str:
    """Return the word for a correct image: robust against an attack, or certified."""
    return "certified" if cell.record.measure == "certificate" else "robust"


def format_cell_result(cell: CellSpec, done: OutcomeCounts) -> str:
    """Format the result of a cell briefly."""
    if cell.skip_reason or not done.n:
        return (None if cell.problem else cell.skip_reason) or "no outcome"
    passes = (done.forward_passes + done.backward_passes) / done.n
    hits = f", {done.broken} reached a target" if cell.threat.targets else ""
    silent = f", {done.abstained} abstained" if done.abstained else ""
    cost = f"{format_count(round(passes), 'pass')} per image, {done.seconds:.1f} s"
    if cell.record.measure == "views":
        return f"{format_sticker_success(done)}, {cost}"
    return (
        f"{format_share(done.robust, done.n)} {format_robust_word(cell)}{hits}{silent}, n = {done.n}, {cost}"
    )


def format_share(part: int, whole: int) -> str:
    """Format a percentage, or a dash for an empty whole."""
    return f"{100 * part / whole:.1f}%" if whole else "-"


def build_plan_table(plan: Plan, seconds: dict[str, float]) -> Table:
    """Build the table of the plan: cells, passes and the upper bound of their time.

    Args:
        plan: The plan.
        seconds: Maximum seconds by key of the cell, where known.
    """
    title = escape_text(f"{plan.name}: {format_count(len(plan.cells), 'cell')} on {plan.data.name}")
    table = Table(title=title, title_justify="left")
    for column in ("model", "attack"):
        table.add_column(column, overflow="fold")
    for column in ("images", "max. passes", "max. time"):
        table.add_column(column, justify="right")
    for cell in plan.cells:
        forward, backward = cell.max_passes
        most = seconds.get(cell.record.key)
        cost = (f"{forward + backward:,}", "unknown" if most is None else format_duration(most))
        standing = "error" if cell.problem else "skipped" if cell.skip_reason else None
        table.add_row(
            escape_text(plan.labels.get_model_label(cell.record.model, cell.record.defense)),
            escape_text(plan.labels.get_attack_label(cell.record.attack)),
            str(len(cell.positions)),
            *(cost if standing is None else (standing, "-")),
        )
    return table
