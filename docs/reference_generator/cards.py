"""The pages on cards: a table of all cards of a kind, and a section for each with every parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from reference_generator.docstrings import read_parameter_docs, read_summary, to_markdown
from reference_generator.tables import render_code, render_table
from robustbench_local.attacks import ATTACKS
from robustbench_local.certification import CERTIFICATES
from robustbench_local.config.cards import Card, CardKind, CardThreat, list_cards
from robustbench_local.defenses.recipes.recipe_registry import RECIPES
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS
from robustbench_local.models.networks.network_registry import ARCHITECTURES
from robustbench_local.models.weights_card import WeightsCard
from robustbench_local.models.zoo import find_zoo_card, list_zoo

_ATTACKS_HEAD = """# Attack cards

A card is a method with its hyper-parameters, its threat model and its source. A grid names cards and may
override any value, as in `{card: pgd50-linf-8, eps: "4/255", steps: 20}`. `rbl list attacks` prints the same
list, and `rbl show CARD` prints a card.

"""
_CERTIFICATES_HEAD = """# Certificate cards

Certificates stand in the same list of a grid as attacks. See [how to certify a model](../how-to/certify.md).

"""
_DEFENSES_HEAD = """# Defense cards

A *recipe* trains a model ([how to train a defense](../how-to/train-a-defense.md)). A *wrapper* changes the
images before a model that stays as it is ([how to compare defenses](../how-to/compare-models.md)).

"""
_ZOO_HEAD = """# Zoo models

Small networks that ship with the package, for the rendered traffic signs: GTSRB's 43 class names, 25 of them
drawn, 32x32 pixels. A grid names them as `zoo:NAME`. The figures were measured on held-out signs when the
network was trained, with their exact 95% interval.

"""


def write_attack_page() -> str:
    """All attack cards, and the hyper-parameters of all attacks."""
    return _ATTACKS_HEAD + _write_cards(list_cards("attack")) + _write_methods("attack", ATTACKS)


def write_certificate_page() -> str:
    """All certificate cards, and the parameters of all certificates."""
    cards = _write_cards(list_cards("certificate"))
    return _CERTIFICATES_HEAD + cards + _write_methods("certificate", CERTIFICATES)


def write_defense_page() -> str:
    """All defense cards, and the parameters of all recipes and wrappers."""
    methods = {name: WRAPPERS[name] if name in WRAPPERS else RECIPES[name] for name in (*RECIPES, *WRAPPERS)}
    return _DEFENSES_HEAD + _write_cards(list_cards("defense")) + _write_methods("defense", methods)


def write_zoo_page() -> str:
    """The shipped networks with their measured figures, and the architectures that checkpoints may name."""
    models = [(name, find_zoo_card(name)) for name in list_zoo()]
    sections = [_write_zoo_model(name, card) for name, card in models]
    rows = [
        (f"[`{name}`](#{_slug(name)})", _find_recipe(card.provenance), card.architecture)
        for name, card in models
    ]
    table = render_table(("model", "trained by", "architecture"), rows)
    names = ", ".join(f"`{name}`" for name in sorted(ARCHITECTURES))
    return f"{_ZOO_HEAD}{table}\n{''.join(sections)}## Architectures\n\nA checkpoint may name: {names}.\n"


def _write_cards(cards: list[Card]) -> str:
    rows = [
        (
            f"[`{card.name}`](#{_slug(card.name)})",
            _describe_kind(card) if card.kind == "defense" else _describe_threat(card.threat),
            card.description,
        )
        for card in cards
    ]
    second = "kind" if cards and cards[0].kind == "defense" else "threat model"
    table = render_table(("card", second, "description"), rows)
    return f"{table}\n## Each card\n" + "".join(map(_write_card, cards))


def _write_card(card: Card) -> str:
    parameters = "; ".join(f"{name} = {_format_value(value)}" for name, value in card.parameters.items())
    rows = [
        *([("title", card.title)] if card.title else []),
        ("method", f"[`{card.method}`](#{card.kind}-method-{_slug(card.method)})"),
        *([("kind", _describe_kind(card))] if card.kind == "defense" else []),
        *([("threat model", _describe_threat(card.threat))] if card.threat else []),
        *_list_classes(card.threat),
        ("parameters", parameters or "the method's defaults"),
        ("source", card.source),
        ("version", str(card.version)),
    ]
    return f"\n### {card.name}\n\n{card.description}\n\n{render_table(('', ''), rows)}"


def _write_methods(kind: CardKind, methods: Mapping[str, type]) -> str:
    return "\n## Methods\n" + "".join(_write_method(kind, name, methods[name]) for name in sorted(methods))


def _write_method(kind: CardKind, name: str, method: type) -> str:
    docs = read_parameter_docs(method)
    rows = [
        (render_code(field.name), _format_default(field), docs.get(field.name, ""))
        for field in dataclasses.fields(method)
    ]
    table = render_table(("parameter", "default", "meaning"), rows) if rows else "No parameters.\n"
    summary = f"{to_markdown(read_summary(method))} {_describe_capabilities(method)}".strip()
    return f"\n({kind}-method-{_slug(name)})=\n### {name}\n\n{summary}\n\n{table}"


def _describe_capabilities(method: type) -> str:
    """What an attack or certificate supports and needs, or how a wrapper behaves, in one sentence."""
    parts = []
    if norms := getattr(method, "norms", ()):
        parts.append(f"Norms: {', '.join(sorted(norms))}.")
    if access := getattr(method, "access", ""):
        parts.append(f"Needs {access}.")
    if hasattr(method, "gradient_mode"):
        parts.append(f"Gradients: {method.gradient_mode or 'none'}.")
    return " ".join(parts)


def _write_zoo_model(name: str, card: WeightsCard) -> str:
    made = card.provenance.get("made", {})
    rows = [_describe_measurement(one) for one in card.provenance.get("measured", [])]
    table = render_table(("measured under", "n", "accuracy (95% interval)"), rows)
    return (
        f"## {name}\n\nTrained by {_find_recipe(card.provenance)} on {made.get('date', 'an unknown day')}, "
        f"architecture `{card.architecture}`. The command that made it:\n\n"
        f"```text\n{made.get('command', '')}\n```\n\n{table}\n"
    )


def _find_recipe(provenance: Mapping[str, Any]) -> str:
    name = provenance["defense"]["card"]
    return f"[`{name}`](defense-cards.md#{_slug(name)})"


def _describe_measurement(figure: Mapping[str, Any]) -> tuple[str, str, str]:
    known = {"attack", "n", "right", "accuracy", "low", "high", "images", "norm", "eps", "certificate"}
    method = figure.get("attack") or figure.get("certificate") or "none"
    ball = f" {figure['norm']} {_format_radius(figure['norm'], figure['eps'])}" if "norm" in figure else ""
    details = ", ".join(f"{key} {value}" for key, value in figure.items() if key not in known)
    name = "no attack" if method == "none" else f"{method}{ball}" + (f" ({details})" if details else "")
    interval = f"{figure['accuracy']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"
    return name, str(figure["n"]), interval


def _describe_threat(threat: CardThreat | None) -> str:
    if threat is None:
        return ""
    words = f"{threat.norm} {_format_radius(threat.norm, threat.eps)}"
    return f"{words}, {threat.transformation}" if threat.transformation else words


def _list_classes(threat: CardThreat | None) -> list[tuple[str, str]]:
    """Rows on the source and target classes of a targeted card."""
    named = [] if threat is None else [("source classes", threat.sources), ("target classes", threat.targets)]
    return [(name, ", ".join(map(str, classes))) for name, classes in named if classes]


def _describe_kind(card: Card) -> str:
    if card.method not in WRAPPERS:
        return "recipe"
    return "wrapper, random" if WRAPPERS[card.method].is_random else "wrapper"


def _format_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return "" if field.default is None else render_code(_format_value(field.default))
    factory: Callable[[], Any] | Any = field.default_factory
    return "required" if factory is dataclasses.MISSING else render_code(_format_value(factory()))


def _format_radius(norm: str, radius: float) -> str:
    """A radius as a card writes it: under Linf as a fraction of 255."""
    return f"{radius * 255:.3g}/255" if norm == "Linf" else _format_value(radius)


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _slug(name: str) -> str:
    """The anchor of a heading, as MyST makes it."""
    return name.lower().replace(".", "").replace(":", "").replace("+", "")
