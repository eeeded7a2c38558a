"""The severity of misclassifications: the grid's own table, or a convention for the German stop sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.gtsrb import CLASS_NAMES
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.planning.plan import EvaluationSubject

_STOP_SIGN = "Stop"
_MAX_SPEED_KMH = 120
_SPEED_LIMITS_KMH = {name: int(name[13:-5]) for name in CLASS_NAMES if name.startswith("Speed limit (")}
_OTHER_SPEEDS_KMH = {
    "End of speed limit (80km/h)": 100,
    "Priority road": 100,
    "End of all speed and passing limits": 120,
}
"""Speeds that a driver may reach past these signs, in km/h: the limit outside towns, or none."""
_YIELD_SEVERITY, _OTHER_SIGN_SEVERITY = 0.05, 0.01

STOP_SIGN_RULE = (
    "of a misclassified stop sign: (predicted speed limit / 120 km/h) squared, where priority road and the "
    "end of 80 km/h count as 100 km/h and the end of all limits as 120 km/h; 0.05 for yield, 0.01 for every "
    "other sign; a convention and not an accident statistic"
)
"""The rule in words: kinetic energy."""
OWN_TABLE_RULE = "from the grid file; a class that it does not name has severity 0"


def resolve_severity(grid: Grid, subjects: Sequence[EvaluationSubject]) -> dict[str, Any] | None:
    """Resolve the severities to the stored form, in each model's class indices.

    Args:
        grid: The grid; without a table of its own, the convention is used for German traffic signs.
        subjects: The models with the data fitted to them.

    Returns:
        ``{"rule": in words, "models": {id: {"costs": {index: severity}, "sources": [indices]}}}``, where
        empty sources mean images of any class; None if no severity is defined.

    Raises:
        ConfigError: If the grid names a class that the data do not have.
    """
    names = {subject.id: subject.data.class_names for subject in subjects}
    if grid.severity is not None:
        own = {
            model: _build_entry(_resolve_own_costs(grid.severity, known), ())
            for model, known in names.items()
        }
        return {"rule": OWN_TABLE_RULE, "models": own}
    signs = {model: known for model, known in names.items() if {_STOP_SIGN, *_SPEED_LIMITS_KMH} <= set(known)}
    if not signs:
        return None
    entries = {
        model: _build_entry(_compute_stop_costs(known), (known.index(_STOP_SIGN),))
        for model, known in signs.items()
    }
    return {"rule": STOP_SIGN_RULE, "models": entries}


def _build_entry(costs: Mapping[int, float], sources: Sequence[int]) -> dict[str, Any]:
    return {"costs": {str(index): cost for index, cost in costs.items()}, "sources": list(sources)}


def _resolve_own_costs(table: Mapping[int | str, float], names: Sequence[str]) -> dict[int, float]:
    return {resolve_classes([entry], names)[0]: cost for entry, cost in table.items()}


def _compute_stop_costs(names: Sequence[str]) -> dict[int, float]:
    return {index: compute_stop_severity(name) for index, name in enumerate(names) if name != _STOP_SIGN}


def compute_stop_severity(name: str) -> float:
    """Return the severity, in [0, 1], of a German stop sign misclassified as the named sign."""
    speed = {**_SPEED_LIMITS_KMH, **_OTHER_SPEEDS_KMH}.get(name)
    if speed is not None:
        return (speed / _MAX_SPEED_KMH) ** 2
    return 0.0 if name == _STOP_SIGN else _YIELD_SEVERITY if name == "Yield" else _OTHER_SIGN_SEVERITY
