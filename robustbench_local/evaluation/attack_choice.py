"""Resolution of an attack argument (card, method, class or instance) and its threat model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.config.cards import CardThreat
from robustbench_local.config.hyperparameters import build_dataclass, list_parameter_names, suggest_parameter
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.card_lookup import find_attack_cards
from robustbench_local.threats.threat_model import ThreatModel

_NEAR = "did you mean"


@dataclass(frozen=True)
class ChosenAttack:
    """An attack and the threat model it runs under."""

    attack: Attack
    """The attack and its hyper-parameters."""
    threat: CardThreat
    """Budget and goal; classes may still be names."""


def choose_attack(
    attack: str | Attack | type[Attack],
    threat: Mapping[str, Any],
    parameters: Mapping[str, Any],
    folders: Sequence[Path],
    options: Sequence[str] = (),
) -> ChosenAttack:
    """Resolve a caller's attack argument to an attack and its threat model.

    Args:
        attack: A card, a method, a class, or an attack.
        threat: Given keys of the threat model: ``norm``, ``eps``, ``targets``, ...
        parameters: Given hyper-parameters, by name.
        folders: Folders with the user's own cards.
        options: Further names that the caller accepts, for suggestions on a misspelled parameter.

    Raises:
        CardError: If there is no such card.
        ConfigError: If a parameter is unknown or impossible, or norm or eps is missing.
    """
    if isinstance(attack, str):
        return _choose_by_name(attack, threat, parameters, folders, options)
    if isinstance(attack, type) and issubclass(attack, Attack):
        _check_parameter_names(attack.__name__, parameters, list_parameter_names(attack), options)
        chosen = _build_attack(attack, parameters)
    elif isinstance(attack, Attack):
        if parameters:
            name, listed = type(attack).__name__, ", ".join(parameters)
            raise ConfigError(
                f"{name} has its parameters already, got {listed}", remedy="set them where it is made"
            )
        chosen = attack
    else:
        what = f"an attack is a card, a method, a class or an instance, got {type(attack).__name__}"
        raise ConfigError(what, remedy='name one, such as "pgd50-linf-8"')
    name = type(chosen).__name__
    if missing := [key for key in ("norm", "eps") if key not in threat]:
        raise ConfigError(
            f"{name} needs {' and '.join(missing)}", remedy='add norm="Linf", eps="8/255", or name a card'
        )
    if isinstance(threat["eps"], list | tuple):
        raise ConfigError("there can be one eps at a time", remedy="use run_grid for several")
    checked = ThreatModel(
        norm=threat["norm"], eps=threat["eps"], transformation=threat.get("transformation", "")
    )
    rules = CardThreat.model_validate({**threat, "norm": checked.norm, "eps": checked.eps})
    return ChosenAttack(chosen, rules)


def _choose_by_name(
    name: str,
    threat: Mapping[str, Any],
    parameters: Mapping[str, Any],
    folders: Sequence[Path],
    options: Sequence[str],
) -> ChosenAttack:
    try:
        cards = find_attack_cards(name, {**threat, **parameters}, folders)
    except ConfigError as problem:
        remedy = problem.remedy or ""
        for key in parameters:  # a misspelt option of the call arrives here as a parameter
            nearest = did_you_mean(key, options)
            if repr(key) in problem.what and _NEAR not in remedy and nearest.startswith(_NEAR):
                raise ConfigError(problem.what, where=problem.where, remedy=nearest) from None
        raise
    if len(cards) > 1:
        raise ConfigError("there can be one eps at a time", remedy="use run_grid for several")
    return ChosenAttack(
        make_attack(cards[0].method, cards[0].parameters), cast("CardThreat", cards[0].threat)
    )


def _build_attack(kind: type[Attack], parameters: Mapping[str, Any]) -> Attack:
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise ConfigError(f"{kind.__name__} is no complete attack: it lacks {missing}")
    return build_dataclass(kind, parameters, where=kind.__name__)


def _check_parameter_names(
    name: str, parameters: Mapping[str, Any], known: Sequence[str], options: Sequence[str]
) -> None:
    for key in parameters:
        if key not in known:
            remedy = suggest_parameter(key, {*known, *options})
            raise ConfigError(f"{name} has no parameter {key!r}", remedy=remedy)
