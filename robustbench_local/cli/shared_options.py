"""Options that several commands have: one flag, one variable and one help text for all of them."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.evaluation.options import Executor

DeviceOption = Annotated[str, typer.Option(envvar="RBL_DEVICE", help="cpu, cuda, mps or auto.")]
CardsOption = Annotated[
    list[Path] | None, typer.Option(envvar="RBL_CARDS", help="Folder with your own cards; may be repeated.")
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code", envvar="RBL_ALLOW_CODE", help="Allow python: code and exported programs to run."
    ),
]
ExecutorOption = Annotated[
    Executor,
    typer.Option(envvar="RBL_EXECUTOR", help="local, or ray: a cluster, or several GPUs of this machine."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="RBL_ADDRESS",
        help="A running Ray cluster, HOST:PORT or auto; by default one on this machine for the run alone.",
    ),
]
