"""Certificates: one method per file, each a frozen dataclass with the interface of ``base``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustbench_local.certification.base import Certificate
from robustbench_local.config import cards as catalogue
from robustbench_local.config.cards import Card
from robustbench_local.config.hyperparameters import build_dataclass, list_parameter_names
from robustbench_local.extensions.open_registry import OpenRegistry

CERTIFICATES: OpenRegistry[Certificate] = OpenRegistry(
    "certificate",
    Certificate,  # type: ignore[type-abstract]  # for subclass checks only
    {
        "crown": "robustbench_local.certification.bound_propagation.crown:CROWN",
        "ibp": "robustbench_local.certification.bound_propagation.ibp:IBP",
        "smoothing": "robustbench_local.certification.randomized_smoothing.smoothing_certificate:Smoothing",
    },
    group="certificates",
)
"""Certification methods by the ``method`` of a card."""


def make_certificate(name: str, given: Mapping[str, Any] | None = None) -> Certificate:
    """Build a certificate from its name and hyperparameters, as on a card or in a grid file.

    Args:
        name: A name in ``CERTIFICATES``.
        given: Hyperparameters; all others have their defaults.

    Raises:
        ConfigError: If the name, a parameter or a value is invalid.
    """
    return build_dataclass(CERTIFICATES[name], given or {}, where=f"certificate {name!r}")


def expand_certificate_card(card: Card, overrides: Mapping[str, Any]) -> list[Card]:
    """Build the variants of a certificate's card that a grid file requests, one for each eps.

    Args:
        card: A certificate's card.
        overrides: Keys of its threat model (``eps`` may be a list) and hyperparameters.

    Raises:
        ConfigError: If a key is unknown or a value invalid.
    """
    cards = catalogue.expand_card(card, overrides, parameters=list_parameter_names(CERTIFICATES[card.method]))
    for variant in cards:
        make_certificate(variant.method, variant.parameters)
    return cards
