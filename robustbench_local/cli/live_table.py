"""The table of a run that a terminal shows: where the run is, the cells at work, and a count of the rest."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from robustbench_local.cli.progress_text import format_robust_share, format_rough_range
from robustbench_local.cli.run_progress import BEGUN, RUNNING, WAITING, CellProgress, RunProgress
from robustbench_local.cli.terminal_output import escape_text
from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.formatting.text import format_duration
from robustbench_local.store.run_labels import RunLabels

MAX_ROWS = 12
"""Maximum number of cells in the table."""
MAX_WAITING_ROWS = 3
"""Maximum number of cells in the table of which nothing is done: the next ones."""
MAX_NUMBERS = 4
"""Maximum number of numbers of cells at work in a line."""
OTHER_LINES = 8
"""Lines of a terminal that are not rows of the table: the facts, the header, the count, lines above."""
WIDTHS = {"status": 60, "passes": 88, "time": 72, "so far": 56}
"""Width of the terminal, in characters, from which on a column is shown."""
STATUS_STYLES = {
    **dict.fromkeys(("done", "stopped"), "green"),
    **dict.fromkeys((WAITING, BEGUN), "dim"),
    RUNNING: "bold",
    "skipped": "yellow",
}
"""Style of each status; others are errors."""
_STATUS_ORDER = ("done", "stopped", "partial", "skipped", "error", "timeout", RUNNING, BEGUN, WAITING)


def build_live_table(progress: RunProgress, labels: RunLabels, width: int, height: int) -> Group:
    """Build everything that is shown below the printed lines.

    Args:
        progress: The state of the run.
        labels: Labels of attacks and models.
        width: Width of the terminal, in characters.
        height: Its height, in lines.
    """
    facts = pack_facts([*list_facts(progress), *list_time_facts(progress)], width)
    rows = choose_rows(progress.cells, progress.running, min(MAX_ROWS, max(height - OTHER_LINES, 1)))
    counts = Text(format_status_counts(progress), style="dim")
    return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in facts),
                 *([_build_rows(rows, progress, labels, width)] if rows else []), counts)  # fmt: skip


def choose_rows(
    cells: Sequence[CellProgress], running: Sequence[CellProgress], most: int
) -> list[CellProgress]:
    """Choose the cells of the table: those at work, begun ones around them, and the next ones.

    Args:
        cells: All cells.
        running: The cells at work.
        most: Maximum number.
    """
    middle = min((row.number for row in running), default=0)
    begun = [row for row in cells if row.status in {RUNNING, BEGUN}]
    begun = sorted(begun, key=lambda row: (row.status != RUNNING, abs(row.number - middle)))[:most]
    waiting = [row for row in cells if row.status == WAITING and row.images]
    waiting = sorted(waiting, key=lambda row: (row.number < middle, row.number))[:MAX_WAITING_ROWS]
    return sorted([*begun, *waiting][:most], key=lambda row: row.number)


def list_facts(progress: RunProgress) -> list[str]:
    """List where the run is: the cells at work, the share that is done."""
    position, running = [], progress.running
    if len(running) == 1:
        position = [format_position(progress, running[0])]
    elif running:
        numbers = [f"{number}" for number in sorted(row.number for row in running)]
        if len(numbers) > MAX_NUMBERS:
            numbers = [*numbers[: MAX_NUMBERS - 1], f"{len(numbers) - MAX_NUMBERS + 1} others"]
        pilot = " (first images)" if progress.is_pilot else ""
        position = [f"cells {', '.join(numbers[:-1])} and {numbers[-1]} of {len(progress.cells)}{pilot}"]
    share = f"{int(100 * progress.share_done)}% of {progress.image_count:,} image-attacks done"
    return [*position, share]


def format_position(progress: RunProgress, row: CellProgress) -> str:
    """Format the number of a cell at work."""
    pilot = ""
    if progress.is_pilot:
        place = sorted(progress.pilot_cells).index(row.number) + 1
        pilot = f" (first images, {place} of {len(progress.pilot_cells)})"
    return f"cell {row.number} of {len(progress.cells)}{pilot}"


def list_time_facts(progress: RunProgress) -> list[str]:
    """List the time spent, and the time expected with what that rests on."""
    spent = f"{format_duration(progress.elapsed_seconds)} so far"
    rest = progress.estimate_seconds_left()
    if rest is not None:
        basis = f"from {format_count(progress.measured_images, 'image')}"
        unless = " unless it stops sooner" if progress.may_stop_early else ""
        return [spent, f"{format_rough_range(rest)} left{unless}, {basis}"]
    most = progress.max_seconds_left
    return [spent, "time left unknown" if most is None else f"passes of {format_duration(most)} left at most"]


def pack_facts(facts: Sequence[str], width: int) -> list[str]:
    """Join facts to lines of at most ``width`` characters; a longer fact has a line of its own."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 3 + len(fact) <= width:
            lines[-1] += f" | {fact}"
        else:
            lines.append(fact)
    return lines


def format_status_counts(progress: RunProgress) -> str:
    """Format how many cells have which status."""
    counts = progress.count_statuses()
    known = [status for status in _STATUS_ORDER if counts[status]]
    others = sorted(set(counts) - set(_STATUS_ORDER))
    total = format_count(len(progress.cells), "cell")
    return f"{total}: " + ", ".join(f"{counts[status]} {status}" for status in [*known, *others])


def shorten_title(attack: str, model: str, width: int) -> str:
    """Shorten ``ATTACK on MODEL`` to a width in characters, so that something of both remains."""
    attack_text, model_text = Text(attack), Text(model)
    room = max(width - len(" on "), 2)
    attack_width = min(attack_text.cell_len, max(room - model_text.cell_len, (room + 1) // 2))
    attack_text.truncate(attack_width, overflow="ellipsis")
    model_text.truncate(max(room - attack_text.cell_len, 1), overflow="ellipsis")
    return f"{attack_text.plain} on {model_text.plain}"


def _build_rows(rows: Sequence[CellProgress], progress: RunProgress, labels: RunLabels, width: int) -> Table:
    """Build one row for each cell, with the columns that the terminal has room for."""
    shown = {name for name, least in WIDTHS.items() if width >= least}
    cells = [_list_row_texts(row, progress, shown) for row in rows]
    heads = ["status"] if "status" in shown else [""]
    heads += ["attack on model", "images", "robust" if "so far" not in shown else "robust so far"]
    heads += [name for name in ("passes", "time") if name in shown]
    fixed = [max(len(line[index]) for line in [heads, *cells]) for index in range(len(heads))]
    title_width = max(width - sum(fixed) + fixed[1] - 2 * (len(heads) - 1), 8)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for index, _ in enumerate(heads):
        table.add_column(justify="left" if index < 2 else "right", no_wrap=True, overflow="ellipsis")
    table.add_row(*(Text(head, style="dim") for head in heads))
    for row, line in zip(rows, cells, strict=True):
        record = row.cell.record
        attack = escape_text(labels.get_attack_label(record.attack)).plain
        model = escape_text(labels.get_model_label(record.model, record.defense)).plain
        title = Text(shorten_title(attack, model, title_width))
        style = STATUS_STYLES.get(row.status, "red")
        table.add_row(Text(line[0], style=style), title, *map(Text, line[2:]), style=style)
    return table


def _list_row_texts(row: CellProgress, progress: RunProgress, shown: set[str]) -> list[str]:
    """List the texts of a row; the title, which is cut to what is left of the width, is empty here."""
    status = row.status if "status" in shown else ">" if row.status == RUNNING else " "
    if row.cell.record.measure == "views":
        result = f"{row.counts.clean_correct - row.counts.broken}/{row.counts.clean_correct}"
    else:
        result = format_robust_share(row.counts, has_interval=False)
    texts = [status, "", f"{row.counts.n}/{row.images}", result]
    if "passes" in shown:
        texts.append(f"{row.count_passes():,}" if row.status != WAITING else "")
    if "time" in shown:
        seconds = row.elapsed_seconds + progress.get_batch_seconds(row)
        texts.append(format_duration(seconds) if row.status != WAITING else "")
    return texts
