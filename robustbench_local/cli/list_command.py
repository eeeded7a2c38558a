"""``rbl list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustbench_local.cli.terminal_output import plain, say_json
from robustbench_local.config.cards import Card, Kind, list_cards
from robustbench_local.data.data_sources import SOURCES
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.schema import example, examples
from robustbench_local.models.networks.network_registry import ARCHITECTURES
from robustbench_local.models.zoo import find_zoo, list_zoo
from robustbench_local.reports.formatting.text import budget

Row = dict[str, str]


def command(
    kind: Annotated[str, typer.Argument(help="attacks, defenses, models, data or examples.")],
    cards: Annotated[
        list[Path] | None,
        typer.Option(envvar="RBL_CARDS", help="Folder with cards of your own; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", envvar="RBL_JSON", help="As JSON.")] = False,
) -> None:
    """List attacks and certificates, defenses, models, data sources or example grids."""
    kinds: dict[str, Callable[[], list[Row]]] = {
        "attacks": lambda: [*_cards("attack", cards or []), *_cards("certificate", cards or [])],
        "defenses": lambda: _defenses(cards or []),
        "models": _models,
        "data": lambda: [{"name": name, "what": what} for name, what in SOURCES.items()],
        "examples": lambda: [{"name": name, "what": _headline(example(name))} for name in examples()],
    }
    if kind not in kinds:
        raise ConfigError(f"there is no list of {kind!r}", remedy=did_you_mean(kind, kinds))
    rows = kinds[kind]()
    if as_json:
        say_json(Console(), rows, indent=2)
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(*map(plain, row.values()))
    Console().print(table)


def _cards(kind: Kind, folders: list[Path]) -> list[Row]:
    return [
        {"name": card.name, "threat": _threat(card), "what": card.description, "source": card.source}
        for card in list_cards(kind, folders)
    ]


def _defenses(folders: list[Path]) -> list[Row]:
    """The cards of defenses, with what each does to a model: train another one, or stand around it."""
    rows = zip(_cards("defense", folders), list_cards("defense", folders), strict=True)
    return [{"name": row["name"], "kind": _kind(card), **row} for row, card in rows]


def _kind(card: Card) -> str:
    if card.method not in WRAPPERS:
        return "recipe"
    return "wrapper, random" if WRAPPERS[card.method].randomness else "wrapper"


def _models() -> list[Row]:
    zoo = [
        {"name": f"zoo:{name}", "what": f"{find_zoo(name).architecture}, shipped with the package"}
        for name in list_zoo()
    ]
    own = [
        {"name": f"checkpoint:FILE, architecture: {name}", "what": "your weights in this network"}
        for name in ARCHITECTURES
    ]
    return [*zoo, *own, *({"name": name, "what": what} for name, what in _SOURCES.items())]


def _threat(card: Card) -> str:
    if card.threat is None:
        return "-"
    targets = f", {len(card.threat.targets)} targets" if card.threat.targets else ""
    return budget(card.threat.norm, card.threat.eps) + targets


def _headline(text: str) -> str:
    """The first comment of a grid file."""
    return text.splitlines()[0].lstrip("# ")


_SOURCES = {
    "torchvision:NAME": "any classifier of torchvision, with weights: DEFAULT, a local file, or none",
    "timm:NAME": "any classifier of timm (extra)",
    "onnx:FILE.onnx": "a black box that gives scores, run by onnxruntime (extra)",
    "http://HOST/PATH": "a service that gives scores or labels, asked with JSON or PNG",
    "python:FILE.py:NAME": "your own code, only with --allow-code",
}
