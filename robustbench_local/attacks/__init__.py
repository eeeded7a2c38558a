"""Attacks: one per file, looked up by name, each a frozen dataclass with the interface of ``base``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustbench_local.attacks.adapters.libraries import TORCHATTACKS_PREFIX, TorchattacksAttack
from robustbench_local.attacks.base import Attack
from robustbench_local.config import cards as catalogue
from robustbench_local.config import hyperparameters as parameters
from robustbench_local.config.cards import Card
from robustbench_local.config.hyperparameters import build_dataclass
from robustbench_local.extensions.open_registry import OpenRegistry

ATTACKS: OpenRegistry[Attack] = OpenRegistry(
    "attack",
    Attack,  # type: ignore[type-abstract]  # for subclass checks only
    {
        "adaptive": "robustbench_local.attacks.adaptive.adaptive:Adaptive",
        "apgd": "robustbench_local.attacks.apgd.apgd:APGD",
        "apgd-ce+t": "robustbench_local.attacks.ensembles.apgd_ce_t:APGDCET",
        "apgd-t": "robustbench_local.attacks.apgd.targeted:APGDT",
        "autoattack": "robustbench_local.attacks.ensembles.autoattack:AutoAttack",
        "boundary": "robustbench_local.attacks.black_box.boundary:Boundary",
        "curve": "robustbench_local.attacks.minimum_norm.curve:Curve",
        "cw": "robustbench_local.attacks.minimum_norm.cw:CW",
        "ddn": "robustbench_local.attacks.minimum_norm.ddn:DDN",
        "deepfool": "robustbench_local.attacks.minimum_norm.deepfool:DeepFool",
        "ead": "robustbench_local.attacks.minimum_norm.ead:EAD",
        "fmn": "robustbench_local.attacks.minimum_norm.fmn:FMN",
        "corruption": "robustbench_local.attacks.corruption:Corruption",
        "di-fgsm": "robustbench_local.attacks.transfer.di_fgsm:DIFGSM",
        "fab-t": "robustbench_local.attacks.minimum_norm.fab:FAB",
        "fgsm": "robustbench_local.attacks.fgsm:FGSM",
        "hopskipjump": "robustbench_local.attacks.black_box.hopskipjump:HopSkipJump",
        "mi-fgsm": "robustbench_local.attacks.transfer.mi_fgsm:MIFGSM",
        "patch": "robustbench_local.attacks.physical.patch:Patch",
        "pdpgd": "robustbench_local.attacks.minimum_norm.pdpgd:PDPGD",
        "pgd": "robustbench_local.attacks.pgd:PGD",
        "reference:autoattack": "robustbench_local.attacks.adapters.libraries:ReferenceAutoAttack",
        "sigma-zero": "robustbench_local.attacks.sparse.sigma_zero:SigmaZero",
        "sigma-zero-ball": "robustbench_local.attacks.sparse.sigma_zero:SigmaZeroBall",
        "sparse-rs": "robustbench_local.attacks.sparse.sparse_rs:SparseRS",
        "spatial": "robustbench_local.attacks.spatial:Spatial",
        "spsa": "robustbench_local.attacks.black_box.spsa:SPSA",
        "square": "robustbench_local.attacks.square.square:Square",
        "sticker": "robustbench_local.attacks.physical.sticker:Sticker",
        "ti-fgsm": "robustbench_local.attacks.transfer.ti_fgsm:TIFGSM",
        "vmi-fgsm": "robustbench_local.attacks.transfer.vmi_fgsm:VMIFGSM",
    },
    group="attacks",
)
"""Attacks by name, with those of other packages; ``torchattacks:NAME`` also names any attack of that
library."""


def make_attack(name: str, given: Mapping[str, Any] | None = None) -> Attack:
    """Build an attack from its name and hyperparameters, as on a card or in a grid file.

    Args:
        name: A name in ``ATTACKS``, or ``torchattacks:NAME``.
        given: Hyperparameters; numbers may be fractions such as ``"2/255"``. All others have their defaults.

    Raises:
        ConfigError: If the name, a parameter or a value is invalid.
    """
    given = given or {}
    if name.startswith(TORCHATTACKS_PREFIX):
        return TorchattacksAttack(name=name.removeprefix(TORCHATTACKS_PREFIX), parameters=given)
    return build_dataclass(ATTACKS[name], given, where=f"attack {name!r}")


def list_parameter_names(name: str) -> tuple[str, ...]:
    """Return the hyperparameters of an attack, by name.

    Raises:
        ConfigError: If there is no such attack.
    """
    if name.startswith(TORCHATTACKS_PREFIX):
        return TorchattacksAttack(name=name.removeprefix(TORCHATTACKS_PREFIX)).list_parameter_names()
    return parameters.list_parameter_names(ATTACKS[name])


def expand_attack_card(card: Card, overrides: Mapping[str, Any]) -> list[Card]:
    """Build the variants of an attack's card that a grid file requests, one for each eps.

    Args:
        card: An attack's card.
        overrides: Keys of its threat model (``eps`` may be a list) and hyperparameters.

    Raises:
        ConfigError: If a key is unknown or a value invalid.
    """
    cards = catalogue.expand_card(card, overrides, parameters=list_parameter_names(card.method))
    for variant in cards:
        make_attack(variant.method, variant.parameters)
    return cards
