"""A model with its defense: the subject of cells, worst cases and comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustbench_local.store.run_labels import RunLabels


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model together with its defense."""

    model: str
    """Model id from the grid file."""
    defense: str
    """Defense name, or ``none``."""
    label: str = field(default="", compare=False)
    """Label in tables; empty: its ids."""

    def __str__(self) -> str:
        return self.label or RunLabels().get_model_label(self.model, self.defense)
