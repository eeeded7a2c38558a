"""Short labels for the entries of a run, derived from cards, overrides and names in the grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_local.config.cards import Card, ClassEntry
from robustbench_local.config.display_names import MAX_DISPLAY_NAME_CHARACTERS
from robustbench_local.counted_nouns import format_count
from robustbench_local.number_parser import format_radius

MAX_LABEL_CHARACTERS = 90
"""Longest label of an attack, with the attacker's knowledge."""
_MAX_VALUE_CHARACTERS = 24
"""Characters of a value or a class name inside a label."""
_COUNT_NOUNS = {
    "steps": "step",
    "restarts": "restart",
    "queries": "query",
    "views": "view",
    "draws": "draw",
    "eot_samples": "EOT sample",
}
"""Hyper-parameters that count something."""
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, kw_only=True)
class LabelledAttack:
    """The parts of the label of an attack or certificate."""

    identifier: str
    """Its name in results.json."""
    card: Card
    """The card with its overrides."""
    name: str | None = None
    """Name of the entry in the grid; None: the card's name."""
    suffix: str = ""
    """The attacker's knowledge, in brackets, where it is limited."""


def build_family_labels(attacks: Sequence[LabelledAttack], class_names: Sequence[str]) -> dict[str, str]:
    """Build labels of attacks without budget and attacker knowledge; arguments as below."""
    return {attack.identifier: _build_base_label(attack, class_names) for attack in attacks}


def build_attack_labels(attacks: Sequence[LabelledAttack], class_names: Sequence[str]) -> dict[str, str]:
    """Build a label for each attack, all different.

    Args:
        attacks: The attacks and certificates of a run, with different identifiers.
        class_names: Names of the classes by index, for goals that use indices.

    Returns:
        Identifier -> label: the title of the card or the name of the entry, then the grid's changes to the
        card. Budget, goal and card follow only where labels would be equal without them.
    """
    labels = build_family_labels(attacks, class_names)
    norms = {attack.identifier: attack.card.threat.norm if attack.card.threat else None for attack in attacks}

    def format_budget(attack: LabelledAttack) -> str:
        alike = {norms[other] for other, label in labels.items() if label == labels[attack.identifier]}
        return _format_budget(attack.card, with_norm=len(alike) > 1)

    details: list[Callable[[LabelledAttack], str]] = [
        format_budget,
        lambda attack: _format_goal(attack.card, class_names),
        lambda attack: attack.card.base_name,
    ]
    for detail in details:
        texts = {attack.identifier: detail(attack) for attack in attacks}
        labels = _add_to_equal_labels(labels, texts)
    suffixes = {attack.identifier: attack.suffix for attack in attacks}
    return make_unique({key: _join_label(label, suffixes[key]) for key, label in labels.items()})


def build_model_label(model: str, defense: str = "") -> str:
    """Build the label of a model with its defense.

    Args:
        model: Name of the model in the grid.
        defense: The label of the defense; empty without one.
    """
    parts = [shorten_text(part, MAX_DISPLAY_NAME_CHARACTERS) for part in (model, defense) if part]
    return " + ".join(parts)


def build_defense_label(card: Card, name: str | None = None) -> str:
    """Build the label of a defense: the name of its entry, or its card's with the grid's changes.

    Args:
        card: The defense's card with its overrides.
        name: Name of the grid's entry.
    """
    if name:
        return name
    return ", ".join([card.title or card.name.partition("[")[0], *_format_changes(card.changes, ())])


def make_unique(labels: Mapping[Any, str]) -> dict[Any, str]:
    """Append a number to labels that repeat an earlier one."""
    taken: set[str] = set()
    unique = {}
    for key, label in labels.items():
        candidates = (label if number == 1 else f"{label} #{number}" for number in range(1, len(labels) + 2))
        unique[key] = next(text for text in candidates if text not in taken)
        taken.add(unique[key])
    return unique


def shorten_text(text: str, length: int) -> str:
    """Return at most ``length`` characters on one line; an ellipsis replaces the rest."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + _ELLIPSIS


def _build_base_label(attack: LabelledAttack, class_names: Sequence[str]) -> str:
    if attack.name:
        return attack.name
    card = attack.card
    title = card.title or shorten_text(_get_untitled_name(card), MAX_DISPLAY_NAME_CHARACTERS)
    return ", ".join([title, *_format_changes(card.changes, class_names)])


def _get_untitled_name(card: Card) -> str:
    """Return the name of a card without its threat model and the grid's changes."""
    name = card.name.partition("[")[0]
    threat = card.threat.build_threat_model().name if card.threat else ""
    return name.removesuffix(f"-{threat}") or name


def _add_to_equal_labels(labels: Mapping[str, str], details: Mapping[str, str]) -> dict[str, str]:
    """Append details to equal labels, where the details differ."""
    count = Counter(labels.values())
    kinds = {
        label: {details[key] for key, other in labels.items() if other == label}
        for label, number in count.items()
        if number > 1
    }
    return {
        key: f"{label}, {details[key]}" if details[key] and len(kinds.get(label, ())) > 1 else label
        for key, label in labels.items()
    }


def _join_label(label: str, suffix: str) -> str:
    end = f" ({suffix})" if suffix else ""
    return shorten_text(label, MAX_LABEL_CHARACTERS - len(end)) + end


def _format_changes(changes: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    return [_format_change(key, value, class_names) for key, value in changes.items()]


def _format_change(key: str, value: Any, class_names: Sequence[str]) -> str:
    if key in ("targets", "sources"):
        return _format_classes({"targets": "to", "sources": "from"}[key], value, class_names)
    if key in _COUNT_NOUNS and isinstance(value, int) and not isinstance(value, bool):
        noun = _COUNT_NOUNS[key]
        plural = "queries" if noun == "query" else f"{noun}s"
        return f"{value:,} {noun if value == 1 else plural}"
    if key == "region":
        return f"in the {value}"
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    several = isinstance(value, list | tuple)
    text = f"{len(value)} values" if several and len(value) > 3 else _format_value(value)
    return f"{words} {shorten_text(text, _MAX_VALUE_CHARACTERS)}"


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _format_goal(card: Card, class_names: Sequence[str]) -> str:
    """Format the goal briefly: the classes, or their number."""
    if card.threat is None:
        return ""
    parts = {"from": card.threat.sources, "to": card.threat.targets}
    return " ".join(_format_classes(word, classes, class_names) for word, classes in parts.items() if classes)


def _format_classes(word: str, classes: Iterable[ClassEntry], class_names: Sequence[str]) -> str:
    named = list(classes)
    if len(named) != 1:
        return f"{word} {format_count(len(named), 'class')}" if named else f"{word} any class"
    [entry] = named
    if isinstance(entry, int):
        known = class_names[entry] if 0 <= entry < len(class_names) else str(entry)
        entry = f"class {entry}" if known == str(entry) else known
    return f"{word} {shorten_text(entry, _MAX_VALUE_CHARACTERS)}"


def _format_budget(card: Card, *, with_norm: bool) -> str:
    """Format the parts of the budget that differ between attacks of one title."""
    if card.threat is None:
        return ""
    norm, eps = card.threat.norm, card.threat.eps
    if norm == "corruption":
        severity = f"severity {format_radius(eps)}"
        return f"{card.threat.transformation} {severity}" if with_norm else severity
    if norm == "spatial":
        return f"up to {format_radius(eps)} degrees"
    if norm in ("sticker", "patch"):
        return f"{100 * eps:.3g}% of the {'sign' if norm == 'sticker' else 'image'}"
    if norm == "L0":
        return f"{eps:g} {'pixel' if eps == 1 else 'pixels'}"
    return f"{norm} eps {format_radius(eps)}" if with_norm else f"eps {format_radius(eps)}"
