"""``rbl view``: a local web application over a folder of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths


def command(
    folder: Annotated[
        Path, typer.Argument(help="Folder with runs, at any depth.", autocompletion=complete_paths)
    ] = Path(),
    host: Annotated[
        str, typer.Option(envvar="RBL_VIEW_HOST", help="Loopback address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, envvar="RBL_VIEW_PORT", help="Port; 0 for any free one."),
    ] = 8765,
    opens_browser: Annotated[bool, typer.Option("--open", help="Open the list in a browser.")] = False,
) -> int:
    """Show the runs of a folder in a browser: list, trends, comparison, every image (extra: web); reads only.

    Only this machine can reach the pages. Ctrl-C ends the server.
    """
    from robustbench_local.cli.viewing_run import view_runs

    return view_runs(folder, host=host, port=port, opens_browser=opens_browser)
