"""What a user may call an attack: a card of the catalogue, or a method with its threat model written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from robustbench_local import certification
from robustbench_local.attacks import ATTACKS, expand_attack_card
from robustbench_local.attacks.adapters.libraries import TORCHATTACKS_PREFIX
from robustbench_local.config.cards import Card, CardThreat, find_card
from robustbench_local.errors import ConfigError
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
    "pgd": "PGD",
    "reference:autoattack": "AutoAttack (reference)",
    "spatial": "Spatial",
    "spsa": "SPSA",
    "square": "Square",
    "sticker": "Sticker",
    "ti-fgsm": "TI-FGSM",
    "vmi-fgsm": "VMI-FGSM",
}
"""What tables call our methods; others are called as the grid writes them."""


def find_method_cards(name: str, overrides: Mapping[str, Any], folders: Sequence[Path] = ()) -> list[Card]:
    """The cards that an entry of a grid's ``attack_cells`` means: attacks, or certificates.

    Args:
        name: A card of either kind, or an attack's method.
        overrides: As for :func:`find_attack_cards`.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If there is no such card.
        ConfigError: If an override is unknown, impossible or missing.
    """
    if not _is_method(name):
        card = find_card(name, extra=folders)
        if card.kind == "certificate":
            return certification.expand_certificate_card(card, overrides)
    return find_attack_cards(name, overrides, folders)


def find_cards_per_target(
    name: str, overrides: Mapping[str, Any], folders: Sequence[Path] = ()
) -> list[Card]:
    """The cards of a goal with several target classes: for each eps the goal itself, then each class alone.

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
    """The cards that a name and its overrides mean, one for each eps.

    Args:
        name: A card such as ``pgd50-linf-8``; or a method such as ``pgd`` or ``torchattacks:MIFGSM``, whose
            overrides must then have ``norm`` and ``compute_eps``.
        overrides: Keys of the threat model and hyper-parameters; ``compute_eps`` may be a list.
        folders: Folders with the user's own cards.

    Raises:
        CardError: If there is no such card.
        ConfigError: If an override is unknown, impossible or missing.
    """
    if not _is_method(name):
        return expand_attack_card(find_card(name, kind="attack", extra=folders), overrides)
    missing = [key for key in ("norm", "eps") if overrides.get(key) in (None, [])]
    if missing:
        raise ConfigError(
            f"the attack {name!r} needs {' and '.join(missing)}", remedy="add them, or name a card"
        )
    eps = overrides["eps"]
    first = eps[0] if isinstance(eps, list | tuple) else eps
    threat = ThreatModel(
        norm=overrides["norm"], eps=first, transformation=overrides.get("transformation", "")
    )
    full = f"{name}-{threat.name}"
    card = Card(
        name=full,
        base_name=name,
        kind="attack",
        version=1,
        description=f"The method {name} with parameters from the grid.",
        source="the method's own paper",
        method=name,
        parameters={},
        threat=CardThreat(norm=threat.norm, eps=threat.eps, transformation=threat.transformation),
        path=Path(full),
        title=_METHOD_TITLES.get(name, name),
    )
    return expand_attack_card(card, overrides)


def _is_method(name: str) -> bool:
    return name in ATTACKS or name.startswith(TORCHATTACKS_PREFIX)
