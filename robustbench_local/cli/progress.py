"""Three ways to show a run at work: bars on a terminal, plain lines in a log, JSON lines for a program."""

# ruff: noqa: ARG002 - listeners take what they do not show
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

from robustbench_local.cli.terminal_output import join, plain, say, say_json
from robustbench_local.errors import printable
from robustbench_local.evaluation.execution.progress_listener import Listener
from robustbench_local.evaluation.planning.plan import Plan, PlannedCell
from robustbench_local.reports.formatting.text import duration
from robustbench_local.store.records import CellStatus, EventRecord, Tally

HEARTBEAT = 15.0
"""Seconds after which a plain log says that a long batch is still at work."""


class Display(Listener):
    """A listener with a lifetime; the base class shows nothing."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""


class PassesColumn(ProgressColumn):
    """How far the attack is inside a batch: its only sign of life, perhaps for minutes."""

    def render(self, task: Task) -> Text:
        """Ask the classifier, at every refresh."""
        cell = task.fields.get("cell")
        return Text("" if cell is None else passes_so_far(cell).lstrip(", "), style="dim")


class RichDisplay(Display):
    """A bar for the run and one for the cell at work."""

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
        self.total = self.progress.add_task("cells", total=None, note="", visible=False)
        self.cell = self.progress.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> RichDisplay:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away; what was printed stays."""
        self.progress.stop()

    def planned(self, plan: Plan) -> None:
        """Show the bar of the run."""
        self.progress.update(self.total, total=len(plan.cells), visible=True)

    def started(self, cell: PlannedCell, done: Tally) -> None:
        """Show the bar of the cell."""
        label = printable(title(cell))
        self.progress.reset(self.cell, total=len(cell.positions), completed=done.n)
        self.progress.update(self.cell, description=label, visible=True, note="", cell=cell)

    def advanced(self, cell: PlannedCell, done: Tally) -> None:
        """Move the bar of the cell."""
        self.progress.update(self.cell, completed=done.n, note=so_far(cell, done))

    def finished(self, cell: PlannedCell, status: CellStatus, done: Tally, error: str | None) -> None:
        """Leave a line about the cell and move the bar of the run."""
        self.progress.update(self.cell, visible=False)
        self.progress.advance(self.total)
        style = {"done": "green", "skipped": "yellow"}.get(status, "red")
        line = join(plain(f"{status:>7}", style), f" {title(cell)}  ", plain(ending(cell, done), "dim"))
        say(self.console, line, wrap=True)

    def told(self, event: EventRecord) -> None:
        """Print the line above the bars."""
        style = {"warning": "yellow", "error": "red"}.get(event.level, "dim")
        say(self.console, event.message, style=style, wrap=True)


class PlainDisplay(Display):
    """One line for each thing that happens, and a sign of life in between."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last = time.monotonic()
        self._cell: PlannedCell | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> PlainDisplay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the signs of life."""
        self._stop.set()
        self._thread.join()

    def started(self, cell: PlannedCell, done: Tally) -> None:
        """Say which cell starts."""
        rest = f", {done.n} already done" if done.n else ""
        self._cell = cell
        self._say(f"started {title(cell)}: {len(cell.positions)} images{rest}")

    def advanced(self, cell: PlannedCell, done: Tally) -> None:
        """Say how far the cell is, every few seconds at most."""
        if time.monotonic() - self._last > HEARTBEAT / 3:
            self._say(
                f"        {title(cell)}: {done.n} of {len(cell.positions)} images, {so_far(cell, done)}"
            )

    def finished(self, cell: PlannedCell, status: CellStatus, done: Tally, error: str | None) -> None:
        """Say how the cell ended."""
        self._cell = None
        self._say(f"{status:>7} {title(cell)}: {ending(cell, done)}")

    def told(self, event: EventRecord) -> None:
        """Say it."""
        self._say(f"{event.level}: {event.message}")

    def _say(self, line: str) -> None:
        self._last = time.monotonic()
        say(self.console, line)

    def _beat(self) -> None:
        while not self._stop.wait(1.0):
            cell = self._cell
            if cell is not None and time.monotonic() - self._last > HEARTBEAT:
                self._say(f"        {title(cell)}: at work{passes_so_far(cell)}")


class JsonDisplay(Display):
    """One JSON object a line on the standard output."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def planned(self, plan: Plan) -> None:
        """Emit the size of the plan."""
        self._emit("planned", name=plan.name, cells=len(plan.cells), images=len(plan.data), seed=plan.seed)

    def started(self, cell: PlannedCell, done: Tally) -> None:
        """Emit which cell starts."""
        self._emit("started", cell, images=len(cell.positions), done=done.n)

    def advanced(self, cell: PlannedCell, done: Tally) -> None:
        """Emit how far the cell is."""
        self._emit("advanced", cell, images=len(cell.positions), done=done.n, robust=done.robust)

    def finished(self, cell: PlannedCell, status: CellStatus, done: Tally, error: str | None) -> None:
        """Emit how the cell ended."""
        self._emit("finished", cell, status=status, done=done.n, robust=done.robust, error=error)

    def told(self, event: EventRecord) -> None:
        """Emit the line."""
        self._emit(event.level, message=event.message)

    def _emit(self, event: str, cell: PlannedCell | None = None, **facts: Any) -> None:
        about = {} if cell is None else {"model": cell.record.model, "attack": cell.record.attack}
        say_json(self.console, {"event": event, **about, **facts})


def choose_display(console: Console, *, as_json: bool) -> Display:
    """Bars on a terminal, JSON lines if asked for, plain lines otherwise."""
    if as_json:
        return JsonDisplay(console)
    return RichDisplay(console) if console.is_terminal else PlainDisplay(console)


def passes_so_far(cell: PlannedCell) -> str:
    """Passes of the attack in the batch at work."""
    passes = cell.crafted_on.classifier.passes_under_way()
    return f", {passes:,} passes into this batch" if passes else ""


def title(cell: PlannedCell) -> str:
    """Name of a cell for a person."""
    defense = "" if cell.record.defense == "none" else f" + {cell.record.defense}"
    return f"{cell.record.model}{defense} x {cell.record.attack}"


def so_far(cell: PlannedCell, done: Tally) -> str:
    """What has come out of a cell until now."""
    if cell.record.measure == "views":
        return turned(done)
    return f"{holding(cell)} so far {share(done.robust, done.n)}"


def turned(done: Tally) -> str:
    """What became of signs that are judged over views; those that are void or misread untouched apart."""
    left_out = done.n - done.clean_correct
    apart = f", {left_out} left out" if left_out else ""
    return f"{done.broken} of {done.clean_correct} signs turned in most of their views{apart}"


def holding(cell: PlannedCell) -> str:
    """What an image is that stays right: robust against an attack, or certified."""
    return "certified" if cell.record.measure == "certificate" else "robust"


def ending(cell: PlannedCell, done: Tally) -> str:
    """What came out of a cell, in a few words."""
    if cell.skipped or not done.n:
        return (None if cell.problem else cell.skipped) or "no outcome"
    passes = (done.forward_passes + done.backward_passes) / done.n
    hits = f", {done.broken} reached a target" if cell.threat.targets else ""
    silent = f", {done.abstained} abstained" if done.abstained else ""
    cost = f"{passes:,.0f} passes an image, {done.seconds:.1f} s"
    if cell.record.measure == "views":
        return f"{turned(done)}, {cost}"
    return f"{share(done.robust, done.n)} {holding(cell)}{hits}{silent}, n = {done.n}, {cost}"


def share(part: int, whole: int) -> str:
    """A percentage, or a dash where there is nothing to divide by."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def plan_table(plan: Plan, seconds: dict[str, float]) -> Table:
    """The plan as a table: cells, passes and the most time they can take.

    Args:
        plan: The plan.
        seconds: Most seconds by key of the cell, where they are known.
    """
    title = plain(f"{plan.name}: {len(plan.cells)} cells on {plan.data.name}")
    table = Table(title=title, title_justify="left")
    for column in ("model", "attack"):
        table.add_column(column, overflow="fold")
    for column in ("images", "passes at most", "time at most"):
        table.add_column(column, justify="right")
    for cell in plan.cells:
        forward, backward = cell.passes
        most = seconds.get(cell.record.key)
        cost = (f"{forward + backward:,}", "unknown" if most is None else duration(most))
        standing = "error" if cell.problem else "skipped" if cell.skipped else None
        table.add_row(
            plain(cell.subject),
            plain(cell.record.attack),
            str(len(cell.positions)),
            *(cost if standing is None else (standing, "-")),
        )
    return table
