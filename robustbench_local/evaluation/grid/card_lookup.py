"""Lookup of attack names: a card, or a method with its threat model written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from robustbench_local.attacks import ATTACKS, expand_attack_card
from robustbench_local.attacks.adapters.libraries import TORCHATTACKS_PREFIX
from robustbench_local.certification import CERTIFICATES, expand_certificate_card
from robustbench_local.config.cards import Card, CardThreat, find_card
from robustbench_local.errors import ConfigError
from robustbench_local.extensions.open_registry import OpenRegistry
from robustbench_local.extensions.python_reference import format_reference_title
from robustbench_local.threats.threat_model import ThreatModel

_METHOD_TITLES: Mapping[str, str] = {
    "apgd": "APGD",
    "apgd-ce+t": "APGD-CE+T",
    "apgd-t": "APGD-T",
    "autoattack": "AutoAttack",
    "boundary": "Boundary attack",
    "curve": "PGD radius curve",
    "cw": "C&W",
    "ddn": "DDN",
    "deepfool": "DeepFool",
    "di-fgsm": "DI-FGSM",
    "ead": "EAD",
    "fab-t": "FAB-T",
    "fgsm": "FGSM",
    "fmn": "FMN",
    "hopskipjump": "HopSkipJump",
    "mi-fgsm": "MI-FGSM",
    "patch": "Patch",
    "pdpgd": "PDPGD",
    "pgd": "PGD",
    "reference:autoattack": "AutoAttack (reference)",
    "sigma-zero": "sigma-zero",
    "sigma-zero-ball": "sigma-zero (ball)",
    "sparse-rs": "Sparse-RS",
    "spatial": "Spatial",
    "spsa": "SPSA",
    "square": "Square",
    "sticker": "Sticker",
    "ti-fgsm": "TI-FGSM",
    "vmi-fgsm": "VMI-FGSM",
}
"""Table names of this package's methods; others are named as in the grid."""


def find_method_cards(name: str, overrides: Mapping[str, Any], folders: Sequence[Path] = ()) -> list[Card]:
    """Find the cards of an entry of a grid's ``attacks``: attacks, or certificates.

    Args:
        name: A card of either kind, or an attack's method.
        overrides: As for :func:`find_attack_cards`.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If there is no such card.
        ConfigError: If an override is unknown, impossible or missing.
    """
    if _is_method(name):
        return find_attack_cards(name, overrides, folders)
    if name in CERTIFICATES:
        return find_certificate_cards(name, overrides, folders)
    _refuse_wrong_class(name)
    card = find_card(name, extra=folders)
    find_cards = find_certificate_cards if card.kind == "certificate" else find_attack_cards
    return find_cards(name, overrides, folders)


def find_cards_per_target(
    name: str, overrides: Mapping[str, Any], folders: Sequence[Path] = ()
) -> list[Card]:
    """Find the cards of a goal with several target classes: per eps the whole goal, then each class alone.

    Args:
        name: As for :func:`find_method_cards`.
        overrides: As for :func:`find_method_cards`.
        folders: As for :func:`find_method_cards`.

    Raises:
        CardError: If there is no such card.
        ConfigError: As in :func:`find_method_cards`, or if the goal has fewer than two target classes.
    """
    whole = find_method_cards(name, overrides, folders)
    targets = cast("CardThreat", whole[0].threat).targets  # these cards always have one
    if len(targets) < 2:
        remedy = "name targets, or leave each_target out"
        raise ConfigError(f"each_target: {name!r} has no two target classes", where="attacks", remedy=remedy)
    alone = [find_method_cards(name, {**overrides, "targets": [target]}, folders) for target in targets]
    return [card for variants in zip(whole, *alone, strict=True) for card in variants]


def find_attack_cards(name: str, overrides: Mapping[str, Any], folders: Sequence[Path] = ()) -> list[Card]:
    """Find the attack cards of a name and its overrides, one for each eps.

    Args:
        name: A card such as ``pgd50-linf-8``; or a method such as ``pgd`` or ``torchattacks:MIFGSM``, whose
            overrides must then have ``norm`` and ``eps``.
        overrides: Keys of the threat model and hyper-parameters; ``eps`` may be a list.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If there is no such card.
        ConfigError: If an override is unknown, impossible or missing.
    """
    if not _is_method(name):
        _refuse_wrong_class(name)
        return expand_attack_card(find_card(name, kind="attack", extra=folders), overrides)
    return expand_attack_card(_build_method_card("attack", name, overrides), overrides)


def find_certificate_cards(
    name: str, overrides: Mapping[str, Any], folders: Sequence[Path] = ()
) -> list[Card]:
    """Find the certificate cards of a name and its overrides, one for each eps.

    Args:
        name: A card, or a method, whose overrides must then have ``norm`` and ``eps``.
        overrides: As for :func:`find_attack_cards`.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If there is no such card.
        ConfigError: If an override is unknown, impossible or missing.
    """
    if name in CERTIFICATES:
        card = _build_method_card("certificate", name, overrides)
    else:
        _refuse_wrong_class(name)
        card = find_card(name, kind="certificate", extra=folders)
    return expand_certificate_card(card, overrides)


def _build_method_card(
    kind: Literal["attack", "certificate"], name: str, overrides: Mapping[str, Any]
) -> Card:
    """Build a card for a method without one; the overrides contain the threat model."""
    missing = [key for key in ("norm", "eps") if overrides.get(key) in (None, [])]
    if missing:
        raise ConfigError(
            f"the {kind} {name!r} needs {' and '.join(missing)}", remedy="add them, or name a card"
        )
    eps = overrides["eps"]
    first = eps[0] if isinstance(eps, list | tuple) else eps
    threat = ThreatModel(
        norm=overrides["norm"], eps=first, transformation=overrides.get("transformation", "")
    )
    full = f"{name}-{threat.name}"
    registry: OpenRegistry[Any] = ATTACKS if kind == "attack" else CERTIFICATES
    return Card(
        name=full,
        base_name=name,
        kind=kind,
        version=1,
        description=f"The method {name} with parameters from the grid.",
        source=registry.describe_origin(name) if registry.is_outside(name) else "the method's own paper",
        method=name,
        parameters={},
        threat=CardThreat(norm=threat.norm, eps=threat.eps, transformation=threat.transformation),
        path=Path(full),
        title=format_reference_title(name) or _METHOD_TITLES.get(name, name),
    )


def _is_method(name: str) -> bool:
    return name in ATTACKS or name.startswith(TORCHATTACKS_PREFIX)


def _refuse_wrong_class(name: str) -> None:
    """Raise for an external object that is neither an attack nor a certificate."""
    for registry in (ATTACKS, CERTIFICATES):
        if registry.is_outside(name):
            registry[name]
