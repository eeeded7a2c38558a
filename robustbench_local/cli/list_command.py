"""``rbl list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustbench_local.cli.terminal_output import escape_text, print_json
from robustbench_local.config.cards import Card, CardKind, list_cards
from robustbench_local.data.source_kinds import DATASET_SOURCES
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.schema import list_examples, read_example
from robustbench_local.models.networks.network_registry import ARCHITECTURES
from robustbench_local.models.zoo import find_zoo_card, list_zoo
from robustbench_local.reports.formatting.text import format_budget

TableRow = dict[str, str]


def command(
    kind: Annotated[str, typer.Argument(help="attacks, defenses, models, data or examples.")],
    cards: Annotated[
        list[Path] | None,
        typer.Option(envvar="RBL_CARDS", help="Folder with cards of your own; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", envvar="RBL_JSON", help="As JSON.")] = False,
) -> None:
    """List attacks and certificates, defenses, models, data sources or example grids."""
    kinds: dict[str, Callable[[], list[TableRow]]] = {
        "attacks": lambda: [
            *_list_card_rows("attack", cards or []),
            *_list_card_rows("certificate", cards or []),
        ],
        "defenses": lambda: _list_defense_rows(cards or []),
        "models": _list_model_rows,
        "data": lambda: [{"name": name, "what": what} for name, what in DATASET_SOURCES.items()],
        "examples": lambda: [
            {"name": name, "what": _read_first_comment(read_example(name))} for name in list_examples()
        ],
    }
    if kind not in kinds:
        raise ConfigError(f"there is no list of {kind!r}", remedy=did_you_mean(kind, kinds))
    rows = kinds[kind]()
    if as_json:
        print_json(Console(), rows, indent=2)
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(*map(escape_text, row.values()))
    Console().print(table)


def _list_card_rows(kind: CardKind, folders: list[Path]) -> list[TableRow]:
    return [
        {"name": card.name, "threat": _format_threat(card), "what": card.description, "source": card.source}
        for card in list_cards(kind, folders)
    ]


def _list_defense_rows(folders: list[Path]) -> list[TableRow]:
    """The cards of defenses, with what each does to a model: train another one, or stand around it."""
    rows = zip(_list_card_rows("defense", folders), list_cards("defense", folders), strict=True)
    return [{"name": row["name"], "kind": _format_defense_kind(card), **row} for row, card in rows]


def _format_defense_kind(card: Card) -> str:
    if card.method not in WRAPPERS:
        return "recipe"
    return "wrapper, random" if WRAPPERS[card.method].is_random else "wrapper"


def _list_model_rows() -> list[TableRow]:
    zoo = [
        {"name": f"zoo:{name}", "what": f"{find_zoo_card(name).architecture}, shipped with the package"}
        for name in list_zoo()
    ]
    own = [
        {"name": f"checkpoint:FILE, architecture: {name}", "what": "your weights in this network"}
        for name in ARCHITECTURES
    ]
    return [*zoo, *own, *({"name": name, "what": what} for name, what in _MODEL_SOURCES.items())]


def _format_threat(card: Card) -> str:
    if card.threat is None:
        return "-"
    targets = f", {len(card.threat.targets)} targets" if card.threat.targets else ""
    return format_budget(card.threat.norm, card.threat.eps) + targets


def _read_first_comment(text: str) -> str:
    """The first comment of a grid file."""
    return text.splitlines()[0].lstrip("# ")


_MODEL_SOURCES = {
    "torchvision:NAME": "any classifier of torchvision, with weights: DEFAULT, a local file, or none",
    "timm:NAME": "any classifier of timm (extra)",
    "onnx:FILE.onnx": "a black box that gives scores, run by onnxruntime (extra)",
    "http://HOST/PATH": "a service that gives scores or labels, asked with JSON or PNG",
    "python:FILE.py:NAME": "your own code, only with --allow-code",
}
