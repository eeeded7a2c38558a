"""The page that ``rbl show`` prints for a card, shipped model, network or kind of source, without torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from robustbench_local.cli.listing import find_method, format_threat, list_other_names, list_outside_entries
from robustbench_local.config.cards import Card, CardThreat, find_card, list_card_names
from robustbench_local.data.data_source_kinds import DATASET_SOURCES
from robustbench_local.errors import ConfigError, did_you_mean, escape_unprintable
from robustbench_local.extensions.entry_points import ExtensionKind
from robustbench_local.models.model_source_kinds import MODEL_SOURCES
from robustbench_local.models.networks.network_registry import ARCHITECTURES
from robustbench_local.models.zoo import find_zoo_card, list_zoo
from robustbench_local.threats.threat_model import BALL_NORMS

_INDENT = "  "
_ZOO_PREFIX = "zoo:"


@dataclass(frozen=True, kw_only=True)
class EntryPage:
    """One entry in the form that is printed."""

    name: str
    """The name in a grid file."""
    title: str
    """The kind of entry."""
    description: str
    """The full description."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Heading to text, in display order."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The hyper-parameters that a card sets."""
    example: str = ""
    """Lines of a grid file."""

    def to_json(self) -> dict[str, Any]:
        """Return the page as JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            **{heading.replace(" ", "_"): text for heading, text in self.facts.items()},
            "parameters": dict(self.parameters),
            "example": self.example,
        }


def describe_entry(name: str, folders: Sequence[Path] = ()) -> EntryPage:
    """Describe an entry of a list.

    Args:
        name: A card, ``zoo:NAME``, a network, or a kind of source as the lists write it.
        folders: Folders with the user's cards.

    Raises:
        ConfigError: If there is nothing of that name.
        CardError: If the card is malformed.
    """
    cards = list_card_names(extra=folders)
    if name in cards:
        return _describe_card(find_card(name, extra=folders))
    if name.removeprefix(_ZOO_PREFIX) in list_zoo():
        return _describe_zoo_model(name.removeprefix(_ZOO_PREFIX))
    if name in ARCHITECTURES:
        return _describe_network(name)
    if name in MODEL_SOURCES:
        example = f'models:\n  - {{id: my-model, source: "{name}"}}'
        return EntryPage(
            name=name, title="kind of model source", description=MODEL_SOURCES[name], example=example
        )
    if name in DATASET_SOURCES:
        example = f'data: {{source: "{name}", limit: 100}}'
        return EntryPage(
            name=name, title="kind of data source", description=DATASET_SOURCES[name], example=example
        )
    for kind in get_args(ExtensionKind):
        for row in list_outside_entries(kind):
            if row.name == name:
                title = f"from another distribution, in rbl list {kind}"
                return EntryPage(name=name, title=title, description=row.what, facts={"code": row.source})
    remedy = (
        f"{did_you_mean(name, [*cards, *list_other_names()])} See rbl list attacks, defenses, models or data"
    )
    raise ConfigError(f"there is no {name!r} to show", remedy=remedy)


def format_page(page: EntryPage, width: int) -> list[str]:
    """Format the page as lines of at most ``width`` characters, except for the example, which is copied."""
    lines = [f"{page.name}: {page.title}", "", *_wrap_text(page.description, width)]
    if page.facts:
        column = max(map(len, page.facts)) + len(_INDENT)
        lines.append("")
        for heading, text in page.facts.items():
            wrapped = _wrap_text(text, max(width - column, 20))
            lines += [
                f"{start:<{column}}{line}"
                for start, line in zip([heading, *[""] * len(wrapped)], wrapped, strict=False)
            ]
    if page.parameters:
        lines += ["", "parameters (all others keep the method's defaults)"]
        lines += [f"{_INDENT}{key}: {_format_value(value)}" for key, value in page.parameters.items()]
    if page.example:
        lines += ["", "in a grid file", *textwrap.indent(page.example, _INDENT).splitlines()]
    return [escape_unprintable(line) for line in lines]


def _wrap_text(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False) or [
        ""
    ]


def _describe_card(card: Card) -> EntryPage:
    kinds = (*find_method(card).kinds, *(["targeted"] if card.threat and card.threat.targets else []))
    facts = {
        "method": card.method,
        "kinds": ", ".join(kinds),
        **_describe_threat(card),
        "source": card.source,
    }
    return EntryPage(
        name=card.name,
        title=f"{card.kind}, version {card.version}",
        description=card.description,
        facts={heading: text for heading, text in facts.items() if text},
        parameters=card.parameters,
        example=_write_card_example(card),
    )


def _describe_threat(card: Card) -> dict[str, str]:
    """Describe the threat model under its own headings."""
    threat = card.threat
    if threat is None:
        return {}
    what = f" ({threat.transformation})" if threat.transformation else ""
    return {
        "threat": f"{format_threat(card)}{what}; in gates {threat.build_threat_model().name}",
        "only images of": ", ".join(map(str, threat.sources)),
        "towards": ", ".join(map(str, threat.targets)),
        "region": "each image's mask" if threat.region == "mask" else "",
    }


def _write_card_example(card: Card) -> str:
    """Write example entries of a grid file: the card as it is, and with an override."""
    if card.threat is not None and card.kind != "defense":
        changes = f"limit: 100{_write_half_radius(card.threat)}"
        return f"attacks:\n  - {card.name}\n  - {{card: {card.name}, {changes}}}"
    if "recipe" in find_method(card).kinds:
        return f'training: {{source: "folder:photos"}}\ndefenses: [none, {card.name}]'
    return f"defenses: [none, {card.name}]"


def _write_half_radius(threat: CardThreat) -> str:
    """Write half of a ball's radius, as an override in a grid's entry; nothing for other threats."""
    if threat.norm == "Linf":
        return f", eps: {threat.eps / 2 * 255:.4g}/255"
    if threat.norm == "L0":
        return f", eps: {max(1, threat.eps // 2):g}"
    return f", eps: {threat.eps / 2:g}" if threat.norm in BALL_NORMS else ""


def _format_value(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _describe_zoo_model(name: str) -> EntryPage:
    card = find_zoo_card(name)
    facts = {
        "architecture": card.architecture,
        "classes": str(card.num_classes),
        "weights": card.weights,
        "sha256": card.sha256,
        "trained by": str(card.provenance.get("defense", {}).get("card", "")),
        "measured": "; ".join(map(_format_measurement, card.provenance.get("measured", ()))),
    }
    return EntryPage(
        name=f"{_ZOO_PREFIX}{name}",
        title="model with shipped weights",
        description=f"The network {card.architecture} with weights that come with the package.",
        facts={heading: text for heading, text in facts.items() if text},
        example=f'models:\n  - {{id: {name}, source: "{_ZOO_PREFIX}{name}"}}',
    )


def _format_measurement(row: Mapping[str, Any]) -> str:
    """Format one figure of a shipped model: ``pgd Linf 8/255: 2.0 % (n = 1,000)``."""
    threat = ""
    if "norm" in row:
        size = f"{row['eps'] * 255:.4g}/255" if row["norm"] == "Linf" else f"{row['eps']:g}"
        threat = f" {row['norm']} {size}"
    loss = f" on the {row['loss']}" if "loss" in row else ""
    if "certificate" in row:
        name = f"certified by {row['certificate']}{threat}"
    else:
        name = "clean" if row["attack"] == "none" else f"{row['attack']}{loss}{threat}"
    return f"{name} {100 * row['accuracy']:.1f} % (n = {row['n']:,})"


def _describe_network(name: str) -> EntryPage:
    network = ARCHITECTURES[name]
    shape = " x ".join(map(str, network.input_shape))
    return EntryPage(
        name=name,
        title="network",
        description="A network of the package for weights of yours.",
        facts={
            "images": f"{shape} (channels, height, width)",
            "published for": f"{network.num_classes} classes",
        },
        example=f'models:\n  - {{id: mine, source: "checkpoint:net.safetensors", architecture: {name}}}',
    )
