"""Hyperparameters from a card or a grid file, validated against the dataclass that takes them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from robustbench_local.errors import ConfigError, RobustbenchError, did_you_mean
from robustbench_local.number_parser import parse_number

T = TypeVar("T")

_PACKAGE_NAME = __name__.partition(".")[0]
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
"""Parameter names of other libraries, and this package's name for each."""


def list_parameter_names(kind: type[Any]) -> tuple[str, ...]:
    """Return the names of a dataclass's fields."""
    return tuple(field.name for field in fields(kind))


def suggest_parameter(wrong: str, known: Collection[str]) -> str:
    """Suggest a replacement for a parameter that does not exist; names of other libraries are known.

    Args:
        wrong: What the user wrote.
        known: The names that exist.
    """
    own_name = _NAMES_ELSEWHERE.get(wrong)
    return f"did you mean {own_name}?" if own_name in known else did_you_mean(wrong, known)


def validate_value(where: str, value: Any, hint: Any) -> Any:
    """Convert a value to the type of the field that takes it.

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
    if isinstance(value, list) and any(get_origin(part) is tuple for part in (hint, *get_args(hint))):
        is_float_tuple = tuple[float, ...] in (hint, *get_args(hint))
        value = tuple(
            _parse_number(where, item) if is_float_tuple and isinstance(item, str) else item for item in value
        )
    _check_finite(where, value)
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{where}: {problem[:1].lower()}{problem[1:]}, got {value!r}") from None


def build_dataclass(kind: type[T], given: Mapping[str, Any], *, where: str) -> T:
    """Build a dataclass from values, each checked against its field's type.

    Args:
        kind: A dataclass whose fields all have defaults.
        given: Values by name; numbers may be fractions such as ``"2/255"``. Other fields keep their defaults.
        where: The values' owner, for messages: ``"attack 'pgd'"``.

    Raises:
        ConfigError: If a name or a value is wrong, or one without a default is missing.
    """
    hints, known = get_type_hints(kind) if given else {}, list_parameter_names(kind)
    values = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{where} has no parameter {key!r}", remedy=suggest_parameter(key, known))
        values[key] = validate_value(f"{where}, {key}", value, hints[key])
    if missing := [name for name in _list_required_names(kind) if name not in values]:
        raise ConfigError(f"{where} needs {' and '.join(missing)}", remedy="add them")
    try:
        return kind(**values)
    except Exception as error:
        if isinstance(error, RobustbenchError) or kind.__module__.partition(".")[0] == _PACKAGE_NAME:
            raise
        what = f"raised {type(error).__name__} over its parameters: {' '.join(str(error).split())}"
        raise ConfigError(what, where=where) from error


def _list_required_names(kind: type[Any]) -> list[str]:
    return [
        field.name
        for field in fields(kind)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]


def _parse_number(where: str, text: str) -> float:
    """Parse a number or a fraction; raise ConfigError for anything else."""
    try:
        return parse_number(text)
    except ValueError:
        remedy = 'write a number or a fraction such as "2/255"'
        raise ConfigError(f"{where}: cannot read the number {text!r}", remedy=remedy) from None


def _check_finite(where: str, value: Any) -> None:
    """Refuse NaN and infinity, which YAML writes ``.nan`` and ``.inf``."""
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{where}: must be finite, got {value!r}")
