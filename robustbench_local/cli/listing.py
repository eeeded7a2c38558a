"""The rows of ``rbl list`` and its filters, without torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.cli.outside_rows import list_outside_rows
from robustbench_local.config.cards import Card, CardKind, list_cards
from robustbench_local.config.methods import (
    ATTACK_METHODS,
    CERTIFICATE_METHODS,
    DEFENSE_METHODS,
    METHODS_BY_KIND,
    UNKNOWN_METHOD,
    Method,
)
from robustbench_local.data.data_source_kinds import DATASET_SOURCES
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.example_grids import list_examples, read_example
from robustbench_local.extensions.entry_points import ExtensionKind
from robustbench_local.models.model_source_kinds import MODEL_SOURCES
from robustbench_local.models.networks.network_registry import ARCHITECTURES
from robustbench_local.models.zoo import find_zoo_card, list_zoo

_LIST_BY_CARD_KIND: Mapping[CardKind, ExtensionKind] = {
    "attack": "attacks",
    "certificate": "certificates",
    "defense": "defenses",
}
_OWN_NAMES_BY_KIND: Mapping[ExtensionKind, Collection[str]] = {
    "attacks": ATTACK_METHODS,
    "certificates": CERTIFICATE_METHODS,
    "defenses": DEFENSE_METHODS,
    "models": {"zoo", "checkpoint", *(name.partition(":")[0] for name in MODEL_SOURCES)},
    "data": {name.partition(":")[0] for name in DATASET_SOURCES},
}
"""Built-in names that no entry point can take, besides those of cards."""
_CLAUSE_ENDS, _SENTENCE_ENDS = ",.:;", ".:?"
"""Ends of the phrase of a card and of an example grid."""


@dataclass(frozen=True, kw_only=True)
class ListRow:
    """One entry of a list."""

    name: str
    """The name in a grid file."""
    what: str
    """A phrase that describes the entry."""
    details: tuple[str, ...] = ()
    """Details that follow the phrase where they fit, such as ``("steps=50", "restarts=5")``."""
    kinds: tuple[str, ...] = ()
    """Keywords of its kind, such as ``("black-box", "score-based")``."""
    threat: str = ""
    """Its threat model, such as ``Linf 8/255``; empty where it has none."""
    threat_names: frozenset[str] = frozenset()
    """Names of its threat for ``--threat``: ``linf``, ``linf-8``."""
    description: str = ""
    """The full description; empty where ``what`` is complete."""
    source: str = ""
    """Its paper or document; empty where there is none."""

    def to_json(self) -> dict[str, object]:
        """Return the row as JSON values."""
        return {
            "name": self.name,
            "kinds": list(self.kinds),
            "threat": self.threat or None,
            "what": self.what,
            "description": self.description or self.what,
            "source": self.source or None,
        }


def list_rows(kind: str, folders: Sequence[Path] = ()) -> list[ListRow]:
    """List every entry of a list.

    Args:
        kind: One of `LISTS`.
        folders: Folders with the user's cards.

    Raises:
        ConfigError: If there is no such list.
        CardError: If a card is malformed.
    """
    if kind not in LISTS:
        raise ConfigError(f"there is no list of {kind!r}", remedy=did_you_mean(kind, LISTS))
    return LISTS[kind](folders)


def filter_rows(
    rows: Sequence[ListRow], *, threat: str | None = None, kind: str | None = None, words: Sequence[str] = ()
) -> list[ListRow]:
    """Return the rows with the given threat and kind that contain every word.

    Args:
        rows: A whole list.
        threat: A norm or family such as ``linf``, or a threat model such as ``linf-8``; None for any.
        kind: One of the words of ``ListRow.kinds``; None for any.
        words: Searched in names, phrases, descriptions and sources, ignoring case.

    Raises:
        ConfigError: If no entry of the whole list has this threat or kind.
    """
    _check_choice(threat, {*(name for row in rows for name in row.threat_names)}, "--threat")
    _check_choice(kind, {name for row in rows for name in row.kinds}, "--kind")
    return [
        row
        for row in rows
        if (threat is None or threat.casefold() in row.threat_names)
        and (kind is None or kind.casefold() in row.kinds)
        and all(word.casefold() in _join_searched_text(row) for word in words)
    ]


def list_other_names() -> list[str]:
    """List the names for ``rbl show`` besides cards: shipped models, networks, model and image sources."""
    return [*(f"zoo:{name}" for name in list_zoo()), *ARCHITECTURES, *MODEL_SOURCES, *DATASET_SOURCES]


def format_threat(card: Card) -> str:
    """Format the threat model of a card briefly: ``Linf 8/255``, ``severity 3``, ``sticker 10 %``."""
    if card.threat is None:
        return ""
    norm, eps = card.threat.norm, card.threat.eps
    if norm == "Linf":
        return f"Linf {eps * 255:.4g}/255"
    if norm == "spatial":
        return f"spatial {eps:g}\N{DEGREE SIGN}"
    if norm == "corruption":
        return f"severity {eps:g}"
    if norm in ("sticker", "patch"):
        return f"{norm} {eps * 100:.3g} %"
    unit = "" if norm != "L0" else " pixel" if eps == 1 else " pixels"
    return f"{norm} {eps:g}{unit}"


def find_method(card: Card) -> Method:
    """Find the registered facts about a card's method; few for an external one."""
    return METHODS_BY_KIND[card.kind].get(card.method, UNKNOWN_METHOD)


def _check_choice(choice: str | None, known: Collection[str], flag: str) -> None:
    if choice is not None and choice.casefold() not in known:
        remedy = (
            did_you_mean(choice, known) if known else f"leave {flag} out: it says nothing about this list"
        )
        raise ConfigError(f"no entry of this list is {choice!r}", where=flag, remedy=remedy)


def _join_searched_text(row: ListRow) -> str:
    return f"{row.name} {row.what} {row.description} {row.source}".casefold()


def list_outside_entries(kind: ExtensionKind) -> list[ListRow]:
    """List the entries of installed distributions, including those that cannot be used.

    Args:
        kind: The list that they belong to.
    """
    return [
        ListRow(name=row.name, what=row.what, kinds=("outside",), source=row.target)
        for row in list_outside_rows(kind, _OWN_NAMES_BY_KIND[kind])
    ]


def _list_card_rows(kind: CardKind, folders: Sequence[Path]) -> list[ListRow]:
    return [
        *(_build_card_row(card) for card in list_cards(kind, folders)),
        *list_outside_entries(_LIST_BY_CARD_KIND[kind]),
    ]


def _build_card_row(card: Card) -> ListRow:
    method = find_method(card)
    targeted = ("targeted",) if card.threat is not None and card.threat.targets else ()
    return ListRow(
        name=card.name,
        what=method.phrase or _select_first_clause(card.description, _CLAUSE_ENDS),
        details=_format_details(card, method),
        kinds=(*method.kinds, *targeted),
        threat=format_threat(card),
        threat_names=_list_threat_names(card),
        description=card.description,
        source=card.source,
    )


def _format_details(card: Card, method: Method) -> tuple[str, ...]:
    """Format the parameters that the card sets; those of a recipe are too many."""
    if "recipe" in method.kinds:
        return ()
    return tuple(f"{key}={_format_value(value)}" for key, value in card.parameters.items())


def _select_first_clause(text: str, ends: str) -> str:
    """Return a text up to the first of some punctuation marks."""
    return re.split(rf"[{ends}](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def _format_value(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _list_threat_names(card: Card) -> frozenset[str]:
    if card.threat is None:
        return frozenset()
    name = card.threat.build_threat_model().name
    return frozenset({card.threat.norm.casefold(), name, name.rpartition("-")[0]})


def _list_model_rows(_folders: Sequence[Path]) -> list[ListRow]:
    zoo = [
        ListRow(
            name=f"zoo:{name}",
            what=f"shipped weights of {find_zoo_card(name).architecture}",
            kinds=("shipped",),
        )
        for name in list_zoo()
    ]
    networks = [
        ListRow(name=name, what="a network for weights of yours: checkpoint:FILE", kinds=("network",))
        for name in ARCHITECTURES
    ]
    sources = [ListRow(name=name, what=what, kinds=("source",)) for name, what in MODEL_SOURCES.items()]
    return [*zoo, *networks, *sources, *list_outside_entries("models")]


def _list_data_rows(_folders: Sequence[Path]) -> list[ListRow]:
    own = [ListRow(name=name, what=what) for name, what in DATASET_SOURCES.items()]
    return [*own, *list_outside_entries("data")]


def _list_example_rows(_folders: Sequence[Path]) -> list[ListRow]:
    comments = {name: _read_first_comment(read_example(name)) for name in list_examples()}
    return [
        ListRow(name=name, what=_select_first_clause(comment, _SENTENCE_ENDS), description=comment)
        for name, comment in comments.items()
    ]


def _read_first_comment(text: str) -> str:
    """Return the comment at the beginning of a grid file."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


LISTS: Mapping[str, Callable[[Sequence[Path]], list[ListRow]]] = {
    "attacks": lambda folders: _list_card_rows("attack", folders),
    "certificates": lambda folders: _list_card_rows("certificate", folders),
    "defenses": lambda folders: _list_card_rows("defense", folders),
    "models": _list_model_rows,
    "data": _list_data_rows,
    "examples": _list_example_rows,
}
"""The lists of ``rbl list``."""
