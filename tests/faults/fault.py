"""What a fault is: something that goes wrong, and what the tool has to do then."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from workplace import FaultWorkspace

FaultTrial = Callable[[FaultWorkspace, random.Random], None]
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
    trial: FaultTrial
    has_variants: bool


FAULTS: list[Fault] = []
"""All kinds, in the order of their files."""


def register_fault(family: str, *, has_variants: bool = False) -> Callable[[FaultTrial], FaultTrial]:
    """Register a trial; its name, with spaces, is the fault's.

    Args:
        family: Its family.
        has_variants: See `Fault`.
    """

    def register(trial: FaultTrial) -> FaultTrial:
        FAULTS.append(Fault(family, trial.__name__.replace("_", " "), trial, has_variants))
        return trial

    return register


def add_variants(family: str, prefix: str, variants: dict[str, FaultTrial]) -> None:
    """Register trials that differ in one thing, which their names say."""
    for name, trial in variants.items():
        FAULTS.append(Fault(family, f"{prefix} {name}", trial, has_variants=False))
