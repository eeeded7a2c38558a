"""The recipes by name, and their construction from a card."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from robustbench_local.config.cards import Card
from robustbench_local.config.hyperparameters import validate_value
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.errors import CardError, did_you_mean
from robustbench_local.extensions.open_registry import OpenRegistry

RECIPES: OpenRegistry[Recipe] = OpenRegistry(
    "training recipe",
    Recipe,  # type: ignore[type-abstract]  # for subclass checks only
    {
        "ard": "robustbench_local.defenses.recipes.ard:ARD",
        "crown-ibp": "robustbench_local.defenses.recipes.crown_ibp:CrownIBP",
        "distillation": "robustbench_local.defenses.recipes.distillation:Distillation",
        "fast-at": "robustbench_local.defenses.recipes.fast_at:FastTraining",
        "free-at": "robustbench_local.defenses.recipes.free_at:FreeTraining",
        "gaussian": "robustbench_local.defenses.recipes.gaussian:GaussianAugmentation",
        "ibp": "robustbench_local.defenses.recipes.ibp_training:IBPTraining",
        "macer": "robustbench_local.defenses.recipes.macer:MACER",
        "mart": "robustbench_local.defenses.recipes.mart:MART",
        "pgd-at": "robustbench_local.defenses.recipes.pgd_at:PGDTraining",
        "rslad": "robustbench_local.defenses.recipes.rslad:RSLAD",
        "smoothadv": "robustbench_local.defenses.recipes.smoothadv:SmoothAdv",
        "standard": "robustbench_local.defenses.recipes.standard:Standard",
        "trades": "robustbench_local.defenses.recipes.trades:Trades",
    },
    group="defenses",
)
"""Recipes by the ``method`` of a card."""

_THREAT_FIELD = "threat"


def list_parameter_names(method: str) -> tuple[str, ...]:
    """Return the hyperparameters of a recipe, by name.

    Raises:
        ConfigError: If there is no such recipe.
    """
    return tuple(parameter.name for parameter in fields(RECIPES[method]) if parameter.name != _THREAT_FIELD)


def read_recipe(card: Card) -> Recipe:
    """Read the recipe of a defense's card.

    Raises:
        CardError: If the card's method is not a training recipe, or a parameter is missing, unknown or
            invalid.
        ConfigError: If a parameter is of the wrong type.
    """
    where = f"card {card.name}"
    if card.method not in RECIPES:
        raise CardError(
            f"{card.method!r} is not a training recipe",
            where=where,
            remedy=did_you_mean(card.method, RECIPES),
        )
    kind = RECIPES[card.method]
    fields_by_name = {parameter.name: parameter for parameter in fields(kind)}
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    if _THREAT_FIELD in fields_by_name:
        if card.threat is None:
            raise CardError(
                f"{card.method} needs a threat model", where=where, remedy="add threat: to the card"
            )
        values[_THREAT_FIELD] = card.threat.build_threat_model()
    for name, value in card.parameters.items():
        if name not in fields_by_name or name == _THREAT_FIELD:
            raise CardError(
                f"unknown parameter {name!r}", where=where, remedy=did_you_mean(name, fields_by_name)
            )
        values[name] = validate_value(f"{where}, {name}", value, hints[name])
    if missing := sorted(
        name for name, parameter in fields_by_name.items() if _is_required(parameter) and name not in values
    ):
        raise CardError(f"parameter {missing[0]!r} is missing", where=where)
    try:
        return kind(**values)
    except CardError as error:
        raise CardError(error.what, where=where) from None


def _is_required(parameter: Field[Any]) -> bool:
    return parameter.default is MISSING and parameter.default_factory is MISSING
