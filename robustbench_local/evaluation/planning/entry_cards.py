"""The entries of a grid's ``attacks:``, each with its cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.certification import make_certificate
from robustbench_local.certification.base import Certificate
from robustbench_local.config.cards import Card
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.card_lookup import find_cards_per_target, find_method_cards
from robustbench_local.evaluation.grid.schema import AttackEntry, Grid


def resolve_entry_cards(grid: Grid, folders: Sequence[Path]) -> list[tuple[AttackEntry, Card]]:
    """Resolve every attack and certificate of the grid: its entry, and its card with overrides, in order.

    Args:
        grid: The grid.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If a card is unknown or malformed.
        ConfigError: If an override is wrong, or two entries mean the same cell.
    """
    resolved: list[tuple[AttackEntry, Card]] = []
    names: set[str] = set()
    for entry in grid.attacks:
        find_cards = find_cards_per_target if entry.each_target else find_method_cards
        for card in find_cards(entry.card, entry.overrides, folders):
            _check_settings(entry, card)
            name = format_method_name(card, entry)
            if name in names:
                raise ConfigError(f"the {card.kind} {name!r} is listed twice", where="attacks")
            names.add(name)
            resolved.append((entry, card))
    return resolved


def make_method(card: Card) -> Attack | Certificate:
    """Make the attack or the certificate of a card.

    Args:
        card: The card, with its overrides.

    Raises:
        ConfigError: If the method, a parameter or a value is wrong.
    """
    if card.kind == "certificate":
        return make_certificate(card.method, card.parameters)
    return make_attack(card.method, card.parameters)


def format_method_name(card: Card, entry: AttackEntry, *, is_naive: bool = False) -> str:
    """Return the card's name; with the surrogate if candidates are not crafted on the model itself."""
    if is_naive:
        return f"{card.name}[naive]"
    return f"{card.name}[from={entry.transfer_from}]" if entry.transfer_from else card.name


def _check_settings(entry: AttackEntry, card: Card) -> None:
    """Refuse settings of stickers and patches in other entries, and attack settings in certificates."""
    has_views = make_method(card).measure == "views"
    if entry.test_views is not None and not has_views:
        remedy = "leave test_views out: it is for stickers and patches"
        raise ConfigError(f"{card.name!r} has no views to test", where="attacks", remedy=remedy)
    if entry.transfer_from is None:
        return
    if card.kind == "certificate":
        raise ConfigError(f"the certificate {card.name!r} has nothing to transfer", where="attacks")
    if has_views:
        remedy = "leave transfer_from out"
        raise ConfigError(f"{card.name!r} is evaluated on its own model only", where="attacks", remedy=remedy)
