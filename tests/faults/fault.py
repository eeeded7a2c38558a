"""What a fault is: something that goes wrong, and what the tool has to do then."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from workplace import Workplace

Trial = Callable[[Workplace, random.Random], None]
"""Makes the fault in a workplace and raises DeviationError where the tool does not do as specified."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        family: Faults of one kind of cause.
        name: What goes wrong.
        trial: Tries it once; draws differ from trial to trial where the kind has variants.
        repeats: Whether further trials draw other variants, so that spare time is worth spending on it.
    """

    family: str
    name: str
    trial: Trial
    repeats: bool


FAULTS: list[Fault] = []
"""All kinds, in the order of their files."""


def fault(family: str, *, repeats: bool = False) -> Callable[[Trial], Trial]:
    """Register a trial; its name, with spaces, is the fault's.

    Args:
        family: Its family.
        repeats: See `Fault`.
    """

    def register(trial: Trial) -> Trial:
        FAULTS.append(Fault(family, trial.__name__.replace("_", " "), trial, repeats))
        return trial

    return register


def add_variants(family: str, prefix: str, variants: dict[str, Trial]) -> None:
    """Register trials that differ in one thing, which their names say."""
    for name, trial in variants.items():
        FAULTS.append(Fault(family, f"{prefix} {name}", trial, repeats=False))
