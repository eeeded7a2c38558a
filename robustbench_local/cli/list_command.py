"""``rbl list``: the available entries, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_local.cli.completion import complete_kinds, complete_list_names, complete_threats
from robustbench_local.cli.shared_options import CardsOption

if TYPE_CHECKING:
    from robustbench_local.cli.listing import ListRow

_GAP = "  "


def command(
    kind: Annotated[
        str,
        typer.Argument(
            help="attacks, certificates, defenses, models, data or examples.",
            autocompletion=complete_list_names,
        ),
    ],
    words: Annotated[
        list[str] | None, typer.Argument(help="Only entries that mention every one of these words.")
    ] = None,
    threat: Annotated[
        str | None,
        typer.Option(
            help="Only this threat: linf, l2, l1, l0, spatial, corruption, sticker, patch, or linf-8 ...",
            autocompletion=complete_threats,
        ),
    ] = None,
    only_kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="Only this kind: white-box, black-box, minimum-norm, transfer, wrapper, recipe, ...",
            autocompletion=complete_kinds,
        ),
    ] = None,
    cards: CardsOption = None,
    as_json: Annotated[bool, typer.Option("--json", envvar="RBL_JSON", help="As JSON.")] = False,
) -> None:
    """List attacks, certificates, defenses, models, data or example grids; rbl show NAME says more."""
    from rich.console import Console

    from robustbench_local.cli.listing import filter_rows, list_rows
    from robustbench_local.cli.terminal_output import print_json, print_line

    rows = filter_rows(list_rows(kind, cards or ()), threat=threat, kind=only_kind, words=words or ())
    console = Console()
    if as_json:
        print_json(console, [row.to_json() for row in rows], indent=2)
        return
    for line in format_lines(rows, console.width, with_kind=kind == "defenses"):
        print_line(console, line)
    if not rows:
        print_line(console, f"none of the {kind} match")


def format_lines(rows: Sequence[ListRow], width: int, *, with_kind: bool = False) -> list[str]:
    """Format one line per row: name, threat model if any, and as much of the phrase as fits.

    Args:
        rows: The rows.
        width: Maximum number of characters of a line.
        with_kind: Whether to include the first word of the rows' kinds.
    """
    from robustbench_local.errors import escape_unprintable

    columns = [[escape_unprintable(row.name) for row in rows], [row.threat for row in rows]]
    if with_kind:
        columns.insert(1, [", ".join(row.kinds[:1]) for row in rows])
    shown = [column for column in columns if any(column)]
    widths = [max(map(len, column)) for column in shown]
    starts = [
        "".join(column[index].ljust(size) + _GAP for column, size in zip(shown, widths, strict=True))
        for index in range(len(rows))
    ]
    return [start + _fit_phrase(row, width - len(start)) for start, row in zip(starts, rows, strict=True)]


def _fit_phrase(row: ListRow, room: int) -> str:
    """Shorten the phrase between words if it is too long, or append as many details as fit."""
    from rich.cells import cell_len, set_cell_size

    from robustbench_local.errors import escape_unprintable

    phrase = escape_unprintable(row.what)
    if cell_len(phrase) > room:
        cut = set_cell_size(phrase, max(room - 1, 0))
        return (cut[: cut.rfind(" ")] if " " in cut else cut).rstrip(" ,") + "\N{HORIZONTAL ELLIPSIS}"
    for detail in row.details:
        longer = f"{phrase}, {escape_unprintable(detail)}"
        if cell_len(longer) > room:
            break
        phrase = longer
    return phrase
