"""The record of a run that stops early: its rule, the random order of images, and the costs of cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

STOP_KEY = "stop"
"""Metadata key of the record; missing in runs over all images, and in older runs."""


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """When a run ends before its last image."""

    decided: bool = False
    """Once every gate has the verdict that all images would give."""
    precision: float | None = None
    """Once the interval of every worst case is this narrow: its half-width, in (0, 1); None: any width."""


@dataclass(frozen=True, kw_only=True)
class StopCell:
    """What the order of the work depends on in one cell."""

    cost: float
    """Most passes for an image."""
    obstacle: str = ""
    """Reason, in one line, why the cell cannot run on a random part of its images; empty if it can."""


@dataclass(frozen=True, kw_only=True)
class StopRecord:
    """The rule of a run that stops early, and everything else its verdicts depend on."""

    rule: StopRule
    """When the run ends."""
    order: tuple[str, ...] = ()
    """Ids of all images, in random order."""
    cells: Mapping[str, StopCell] = field(default_factory=dict)
    """Key of each cell -> its part in the run."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "rule": asdict(self.rule),
            "order": list(self.order),
            "cells": {key: asdict(cell) for key, cell in self.cells.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build the record from its stored form."""
        return cls(
            rule=StopRule(**values["rule"]),
            order=tuple(values["order"]),
            cells={key: StopCell(**cell) for key, cell in values["cells"].items()},
        )
