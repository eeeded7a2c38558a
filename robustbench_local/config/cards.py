"""Cards: lookup, validation and variants.

A card is a YAML file that states a method, its parameters, its threat model and its source. The shipped
cards lie in the package (or in the checkout); users add folders of their own.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from robustbench_local.config.display_names import check_display_name
from robustbench_local.config.hyperparameters import suggest_parameter
from robustbench_local.config.strict_yaml import MAX_YAML_BYTES, StrictModel, decode_yaml, validate
from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import CardError, ConfigError, did_you_mean
from robustbench_local.threats.threat_model import Norm, Region, ThreatModel, parse_eps, parse_norm

CardKind = Literal["attack", "certificate", "defense"]
ClassEntry = int | str
"""A class by its index or by its name."""

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_VALUE_CHARACTERS = 40
"""Longest changed value that a card's name spells out."""
_FOLDER_BY_KIND: Mapping[CardKind, str] = {
    "attack": "attacks",
    "certificate": "attacks",
    "defense": "defenses",
}


class CardThreat(StrictModel):
    """The threat model of a card, in which classes may still be names.

    Attributes:
        norm: ``"Linf"``, ``"L2"``, ``"L1"``, ``"L0"``, ``"spatial"``, ``"corruption"``, ``"sticker"`` or
            ``"patch"``.
        eps: Radius in pixel units of [0, 1], largest angle in degrees, severity, or share of an area; see
            ``ThreatModel``.
        targets: Target classes of the attack, by name or index; empty means untargeted.
        sources: Classes whose images are attacked, by name or index; empty means all.
        region: ``"image"`` or ``"mask"``.
        transformation: The corruption, such as ``"fog"``, or the shape of a sticker.
    """

    model_config = ConfigDict(strict=True)

    norm: Annotated[Norm, BeforeValidator(parse_norm)]
    eps: Annotated[float, BeforeValidator(parse_eps)]
    targets: Annotated[tuple[ClassEntry, ...], Field(strict=False)] = ()
    sources: Annotated[tuple[ClassEntry, ...], Field(strict=False)] = ()
    region: Region = "image"
    transformation: str = ""

    def build_threat_model(self, targets: Collection[int] = ()) -> ThreatModel:
        """Build the threat model from targets that have been resolved to class indices.

        Raises:
            ThreatError: If the radius or a target is impossible.
        """
        return ThreatModel(
            norm=self.norm,
            eps=self.eps,
            targets=tuple(targets),
            region=self.region,
            transformation=self.transformation,
        )


class _CardFile(StrictModel):
    """The keys of a card file."""

    model_config = ConfigDict(strict=True)

    schema_: Literal[1] = Field(alias="schema")
    kind: CardKind
    name: str
    version: int = Field(ge=1)
    description: str = Field(min_length=1)
    source: str = Field(min_length=1)
    method: str = Field(min_length=1)
    title: Annotated[str, AfterValidator(check_display_name)] = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    threat: CardThreat | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """A method with its parameters, threat model and source, under a name."""

    name: str
    """Unique among the cards; includes the overrides."""
    base_name: str
    """Name of the card without overrides."""
    kind: CardKind
    """``attack``, ``certificate`` or ``defense``."""
    version: int
    """Raised whenever the effect of the card changes."""
    description: str
    """One or two sentences for the reader of a report."""
    source: str
    """Paper or document that the method and its numbers come from."""
    method: str
    """Name of the method in its registry, such as ``pgd``."""
    parameters: Mapping[str, Any]
    """Hyperparameters of the method."""
    threat: CardThreat | None
    """Threat model; an attack and a certificate always have one."""
    path: Path
    """The file."""
    title: str = ""
    """Title in tables, such as ``PGD-50``; if empty, the name is used."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of a grid, by key, except norm, eps and transformation."""

    @property
    def digest(self) -> str:
        """SHA-256 of the card's effect: kind, method, parameters, threat model, without the prose."""
        threat = self.threat.model_dump() if self.threat else None
        content = [self.kind, self.base_name, self.version, self.method, dict(self.parameters), threat]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def load_card(path: Path) -> Card:
    """Read and validate one card.

    Args:
        path: A YAML file whose name is the card's name.

    Raises:
        CardError: If it cannot be read, is not a card, or its name differs from the file's.
    """
    card = _parse_card(path, read_user_file(path, error=CardError, limit=MAX_YAML_BYTES))
    return replace(card, parameters=copy.deepcopy(card.parameters))


@lru_cache(maxsize=1024)
def _parse_card(path: Path, content: bytes) -> Card:
    """Parse a card once per process as long as its content stays: a list of all cards reads a hundred."""
    where = str(path)
    card = validate(
        _CardFile, decode_yaml(content, where=where, error=CardError), where=where, error=CardError
    )
    if card.name != path.stem or not _NAME_PATTERN.fullmatch(card.name):
        raise CardError(
            f"the card is called {card.name!r}",
            where=where,
            remedy="give the file the card's name, with .yaml",
        )
    if card.kind != "defense" and card.threat is None:
        what = f"a card of kind {card.kind} needs a threat model"
        raise CardError(what, where=where, remedy="add threat: {norm: ..., eps: ...}")
    values = {name: getattr(card, name) for name in _CardFile.model_fields if name != "schema_"}
    return Card(**values, base_name=card.name, path=path)


def find_card(name: str, *, kind: CardKind | None = None, extra: Sequence[Path] = ()) -> Card:
    """Return the card of that name.

    Args:
        name: The card's name, without ``.yaml``.
        kind: Only look among attacks, certificates or defenses.
        extra: Folders of the user's own cards.

    Raises:
        CardError: If there is none, or more than one.
    """
    files = list_card_files(kind, extra)
    matches = [path for path in files if path.stem == name]
    if not matches:
        remedy = did_you_mean(name, {path.stem for path in files})
        raise CardError(f"there is no card {name!r}", remedy=remedy)
    if len(matches) > 1:
        raise _build_duplicate_error(name, *matches)
    card = load_card(matches[0])
    if kind is not None and card.kind != kind:
        raise CardError(f"the card {name!r} is of kind {card.kind}, not {kind}", where=str(card.path))
    return card


@cache
def list_shipped_names() -> frozenset[str]:
    """Return the names of all cards that ship with the package."""
    return frozenset(path.stem for path in list_card_files(None, ()))


def list_cards(kind: CardKind, extra: Sequence[Path] = ()) -> list[Card]:
    """Return all cards of a kind, sorted by name.

    Args:
        kind: Attacks, certificates or defenses.
        extra: Folders of the user's own cards, of any kind.

    Raises:
        CardError: If a card is malformed or a name is used twice.
    """
    cards: dict[str, Card] = {}
    for path in list_card_files(kind, extra):
        card = load_card(path)
        if card.name in cards:
            raise _build_duplicate_error(card.name, cards[card.name].path, path)
        cards[card.name] = card
    return [card for _, card in sorted(cards.items()) if card.kind == kind]


def list_card_names(kind: CardKind | None = None, extra: Sequence[Path] = ()) -> list[str]:
    """The names of all card files, sorted, without a look into them.

    Args:
        kind: Only from the shipped folder in which cards of this kind lie; None: from both.
        extra: Folders of the user's own cards.

    Raises:
        CardError: If there is no such folder.
    """
    return sorted({path.stem for path in list_card_files(kind, extra)})


def expand_card(card: Card, overrides: Mapping[str, Any], *, parameters: Collection[str]) -> list[Card]:
    """Return the variants of a card that a grid file asks for.

    Args:
        card: A card without overrides.
        overrides: Keys of the threat model (``eps`` may be a list: one card per radius) and of the method.
        parameters: Names of the method's hyperparameters.

    Returns:
        One card per eps, whose name shows the differences: ``pgd50-linf-2``, ``pgd50-linf-8[steps=20]``.

    Raises:
        ConfigError: If a key is unknown, a value is impossible or a radius is listed twice.
    """
    known = set(CardThreat.model_fields) if card.threat else set()
    for key in overrides:
        if key not in known | set(parameters):
            remedy = suggest_parameter(key, known | set(parameters))
            raise ConfigError(f"card {card.name!r} has no key {key!r}", remedy=remedy)
    changed = {key: value for key, value in overrides.items() if key not in known}
    eps = overrides.get("eps")
    radii = list(eps) if isinstance(eps, list | tuple) else [eps]
    cards = [_build_variant(card, {**overrides, "eps": radius}, changed) for radius in radii]
    for first, second in itertools.combinations(cards, 2):
        if first.name == second.name:
            raise ConfigError(
                f"card {card.name!r}: the radius of {first.name} is listed twice", remedy="remove one"
            )
    if not cards:
        raise ConfigError(f"card {card.name!r}: the list of eps is empty", remedy="name at least one radius")
    return cards


def _build_variant(card: Card, overrides: Mapping[str, Any], changed: Mapping[str, Any]) -> Card:
    if card.threat is None:
        parameters = {**card.parameters, **changed}
        changes = _find_changes(card.parameters, parameters)
        name = card.name + _format_changes(changes)
        return replace(card, name=name, parameters=parameters, changes=changes)
    fields = {key: value for key, value in overrides.items() if key not in changed and value is not None}
    values = {**card.threat.model_dump(), **fields}
    threat = validate(CardThreat, values, where=f"card {card.name!r}", error=ConfigError)
    name = _replace_threat_name(
        card.name, card.threat.build_threat_model().name, threat.build_threat_model().name
    )
    named = {"norm", "eps", "transformation"}
    before = {**card.threat.model_dump(exclude=named), **card.parameters}
    after = {**threat.model_dump(exclude=named), **card.parameters, **changed}
    changes = _find_changes(before, after)
    name += _format_changes(changes)
    parameters = {**card.parameters, **changed}
    return replace(card, name=name, parameters=parameters, threat=threat, changes=changes)


def _find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in after.items() if value != before.get(key)}


def _format_changes(changes: Mapping[str, Any]) -> str:
    """Format the differences as a suffix of a card's name."""
    details = [f"{key}={_shorten_value(key, value)}" for key, value in changes.items()]
    return f"[{','.join(details)}]" if details else ""


def _replace_threat_name(name: str, old: str, new: str) -> str:
    """Replace the threat model's name in a card's name, or append the new one."""
    if old == new:
        return name
    if name == old or name.endswith(f"-{old}"):
        return name.removesuffix(old) + new
    return f"{name}@{new}"


def _shorten_value(key: str, value: Any) -> str:
    """Format a value as part of a name; a long value becomes its size and a short hash.

    Names are short: eight spelled-out classes would fill a line. The full value is in the report's list of
    methods, in results.json and in the grid.
    """
    is_list = isinstance(value, list | tuple)
    text = "+".join(str(item) for item in value) if is_list else str(value)
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    short_hash = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:4]
    noun = "classes" if key in ("targets", "sources") else "values"
    if is_list and len(value) > 1:
        return f"{len(value)} {noun} #{short_hash}"
    return f"{text[: MAX_VALUE_CHARACTERS // 2].rstrip()}\N{HORIZONTAL ELLIPSIS} #{short_hash}"


def list_card_files(kind: CardKind | None, extra: Sequence[Path]) -> list[Path]:
    """The shipped card files and those of the user's folders, each file once.

    Args:
        kind: Only from the shipped folder in which cards of this kind lie; None: from both.
        extra: Folders of the user's own cards.

    Raises:
        CardError: If there is no such folder.
    """
    shipped = {_find_shipped_folder(name): None for name in ((kind,) if kind else _FOLDER_BY_KIND)}
    for folder in extra:
        if not Path(folder).is_dir():
            raise CardError("there is no such folder of cards", where=str(folder))
    files = [path for folder in (*shipped, *map(Path, extra)) for path in sorted(folder.glob("*.yaml"))]
    if not extra:
        return files  # the shipped folders differ
    by_resolved_path: dict[Path, Path] = {}
    for path in files:
        by_resolved_path.setdefault(path.resolve(), path)
    return list(by_resolved_path.values())


def _find_shipped_folder(kind: CardKind) -> Path:
    """Return the packaged folder of cards if it exists, else the checkout's."""
    package = Path(__file__).parents[1]
    packaged = package / "_cards"
    return (packaged if packaged.is_dir() else package.parent) / _FOLDER_BY_KIND[kind]


def _build_duplicate_error(name: str, first: Path, second: Path, *_: Path) -> CardError:
    return CardError(f"two cards are called {name!r}: {first} and {second}", remedy="rename one")
