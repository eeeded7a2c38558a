"""Hyper-parameters as a card or a grid file gives them, checked against the dataclass that takes them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.number_parser import parse_number

T = TypeVar("T")

_NAMES_ELSEWHERE = {
    "abs_stepsize": "step_size",
    "alpha": "step_size",
    "epsilon": "eps",
    "epsilons": "eps",
    "iterations": "steps",
    "max_iter": "steps",
    "n_queries": "queries",
    "n_restarts": "restarts",
    "nb_iter": "steps",
    "num_iter": "steps",
    "num_steps": "steps",
    "random_init": "random_start",
    "stepsize": "step_size",
}
"""What other libraries call a parameter, and what it is called here."""


def list_parameter_names(kind: type[Any]) -> tuple[str, ...]:
    """The names of a dataclass's fields."""
    return tuple(field.name for field in fields(kind))


def suggest_parameter(wrong: str, known: Collection[str]) -> str:
    """What to write instead of a parameter that does not exist; knows what other libraries call it.

    Args:
        wrong: What the user wrote.
        known: The names that exist.
    """
    here = _NAMES_ELSEWHERE.get(wrong)
    return f"did you mean {here}?" if here in known else did_you_mean(wrong, known)


def validate_value(where: str, value: Any, hint: Any) -> Any:
    """A value as the type of the field that takes it.

    Args:
        where: The field, for messages: ``"attack 'pgd', steps"``.
        value: As a card or a grid file gives it; numbers may be fractions such as ``"2/255"``, and a mapping
            becomes the dataclass that the field takes.
        hint: The field's type.

    Raises:
        ConfigError: If the value is not of that type.
    """
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build_dataclass(hint, value, where=where)
    if isinstance(value, str) and float in (hint, *get_args(hint)):
        value = _parse_number(where, value)
    if isinstance(value, list) and any(get_origin(one) is tuple for one in (hint, *get_args(hint))):
        floats = tuple[float, ...] in (hint, *get_args(hint))
        value = tuple(
            _parse_number(where, each) if floats and isinstance(each, str) else each for each in value
        )
    _check_finite(where, value)
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{where}: {problem[:1].lower()}{problem[1:]}, got {value!r}") from None


def build_dataclass(kind: type[T], given: Mapping[str, Any], *, where: str) -> T:
    """An instance of a dataclass, every given value checked against its field's type.

    Args:
        kind: A dataclass whose fields all have defaults.
        given: Values by name; numbers may be fractions such as ``"2/255"``. The rest keep their defaults.
        where: What they belong to, for messages: ``"attack 'pgd'"``.

    Raises:
        ConfigError: If a name or a value is wrong.
    """
    hints, known = get_type_hints(kind) if given else {}, list_parameter_names(kind)
    values = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{where} has no parameter {key!r}", remedy=suggest_parameter(key, known))
        values[key] = validate_value(f"{where}, {key}", value, hints[key])
    return kind(**values)


def _parse_number(where: str, text: str) -> float:
    """A number or a fraction, or a ConfigError."""
    try:
        return parse_number(text)
    except ValueError:
        remedy = 'write a number or a fraction such as "2/255"'
        raise ConfigError(f"{where}: cannot read the number {text!r}", remedy=remedy) from None


def _check_finite(where: str, value: Any) -> None:
    """Refuse NaN and infinity, which YAML writes ``.nan`` and ``.inf``."""
    for each in value if isinstance(value, tuple | list) else (value,):
        if isinstance(each, float) and not math.isfinite(each):
            raise ConfigError(f"{where}: must be finite, got {value!r}")
