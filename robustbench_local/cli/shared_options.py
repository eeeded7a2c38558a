"""Options that several commands have: one flag, one variable and one help text for all of them."""

from pathlib import Path
from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option(envvar="RBL_DEVICE", help="cpu, cuda or auto.")]
CardsOption = Annotated[
    list[Path] | None, typer.Option(envvar="RBL_CARDS", help="Folder with your own cards; may be repeated.")
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code", envvar="RBL_ALLOW_CODE", help="Allow python: code and exported programs to run."
    ),
]
