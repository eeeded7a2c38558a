"""``rbl show``: the details of one card, model or source, with an entry for a grid file."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_names
from robustbench_local.cli.shared_options import CardsOption


def command(
    name: Annotated[str, typer.Argument(help="A name that rbl list shows.", autocompletion=complete_names)],
    cards: CardsOption = None,
    as_json: Annotated[bool, typer.Option("--json", envvar="RBL_JSON", help="As JSON.")] = False,
) -> None:
    """Show a whole card: its description, threat model, parameters and source, and a grid entry for it."""
    from rich.console import Console

    from robustbench_local.cli.entry_page import describe_entry, format_page
    from robustbench_local.cli.terminal_output import print_json, print_line

    page, console = describe_entry(name, cards or ()), Console()
    if as_json:
        print_json(console, page.to_json(), indent=2)
        return
    for line in format_page(page, console.width):
        print_line(console, line)
