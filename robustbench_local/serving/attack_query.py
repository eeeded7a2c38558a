"""The query of ``/attack``: from its texts to an attack."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.errors import did_you_mean
from robustbench_local.serving.api_schema import (
    ATTACKS,
    BALLS,
    DEFAULT_SEVERITY,
    DEFAULT_STEPS,
    MAX_EPS,
    MAX_SEED,
    MAX_SEVERITY,
    MAX_TARGETS,
)
from robustbench_local.serving.problems import ProblemError
from robustbench_local.threats.threat_model import CORRUPTIONS

QUERY_NAMES = ("threat", "attack", "eps", "severity", "steps", "label", "target", "seed")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_FRACTION = re.compile(r"([0-9]{1,3})/255", re.ASCII)
_NUMBER = re.compile(r"\+?[0-9]{0,12}\.?[0-9]{0,400}([eE][-+]?[0-9]{1,3})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class AttackQuery:
    """The attack that a query asks for; every part has been checked."""

    threat: str
    """The norm of a ball, or a corruption."""
    attack: str
    """The method inside a ball."""
    eps: float
    """Radius of the ball in pixel units of [0, 1], or severity of the corruption."""
    steps: int
    """Steps of PGD."""
    label: int | None
    """The true class; None for the predicted one."""
    targets: tuple[int, ...]
    """Target classes; empty for any other class."""
    seed: int
    """Seed of every random draw."""

    @property
    def is_ball(self) -> bool:
        """Whether the perturbation is bounded by a norm."""
        return self.threat in BALLS


def parse_attack_query(
    fields: Mapping[str, Sequence[str]], class_names: Sequence[str], max_steps: int
) -> AttackQuery:
    """Parse the parts of a query.

    Args:
        fields: Name -> its values.
        class_names: Names of the model's classes.
        max_steps: Largest number of steps.

    Raises:
        ProblemError: 422, naming the part.
    """
    check_query_names(fields, QUERY_NAMES)
    for name, values in fields.items():
        if len(values) > 1 and name != "target":
            raise ProblemError(422, f"{name} is given {len(values)} times; give it once")
    single = {name: values[0] for name, values in fields.items() if values}
    threat = _choose_name("threat", single.get("threat", "Linf"), (*BALLS, *CORRUPTIONS))
    eps = _parse_eps(single.get("eps", "8/255"))
    severity = _parse_whole("severity", single.get("severity", str(DEFAULT_SEVERITY)), 1, MAX_SEVERITY)
    targets = [target for target in fields.get("target", ()) if target != ""]
    if len(targets) > MAX_TARGETS:
        raise ProblemError(422, f"there are {len(targets)} targets; give at most {MAX_TARGETS}")
    label = single.get("label", "")
    return AttackQuery(
        threat=threat,
        attack=_choose_name("attack", single.get("attack", "pgd"), ATTACKS),
        eps=eps if threat in BALLS else float(severity),
        steps=_parse_whole("steps", single.get("steps", str(min(DEFAULT_STEPS, max_steps))), 1, max_steps),
        label=None if label == "" else find_class("label", label, class_names),
        targets=tuple(sorted({find_class("target", target, class_names) for target in targets})),
        seed=_parse_whole("seed", single.get("seed", "0"), 0, MAX_SEED),
    )


def check_query_names(given: Iterable[str], known: Collection[str]) -> None:
    """Refuse a query with a part that does not exist, such as a misspelled one.

    Raises:
        ProblemError: 422, naming the part.
    """
    for name in given:
        if name not in known:
            raise ProblemError(
                422, f"there is no parameter {name[:100]!r}; {did_you_mean(name[:100], known)}"
            )


def find_class(field: str, text: str, class_names: Sequence[str]) -> int:
    """Find a class by its name or index.

    Raises:
        ProblemError: 422 if there is none.
    """
    if text in class_names:
        return class_names.index(text)
    if _WHOLE_NUMBER.fullmatch(text) and int(text) < len(class_names):
        return int(text)
    raise ProblemError(
        422, f"{field}: there is no class {text[:100]!r}; {did_you_mean(text[:100], class_names)}"
    )


def _choose_name(field: str, text: str, names: Sequence[str]) -> str:
    if text not in names:
        raise ProblemError(422, f"{field} is {text[:100]!r}; {did_you_mean(text[:100], names)}")
    return text


def _parse_whole(field: str, text: str, least: int, most: int) -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise ProblemError(422, f"{field} is {text[:40]!r}; give a whole number from {least} to {most}")
    return int(text)


def _parse_eps(text: str) -> float:
    """Parse a radius: a number, or N/255."""
    fraction = _FRACTION.fullmatch(text)
    if fraction and int(fraction[1]) <= 255:
        return int(fraction[1]) / 255
    if _NUMBER.fullmatch(text) and any(letter.isdigit() for letter in text):
        value = float(text)
        if 0 <= value <= MAX_EPS:
            return value
    raise ProblemError(422, f"eps is {text[:40]!r}; give a number from 0 to {MAX_EPS:g}, or N/255")
