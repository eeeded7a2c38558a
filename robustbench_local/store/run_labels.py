"""Labels of a run's attacks and models in tables and figures; the identifiers are kept beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LABELS_KEY = "labels"
"""Key of the metadata under which a run keeps its labels."""


@dataclass(frozen=True, kw_only=True)
class RunLabels:
    """Short display names, each of them unique in a run."""

    attacks: Mapping[str, str] = field(default_factory=dict)
    """Identifier of an attack or certificate -> its label."""
    families: Mapping[str, str] = field(default_factory=dict)
    """Identifier -> the label without the budget, which attacks at several radii share."""
    models: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Model id and name of its defense -> their label."""

    def get_attack_label(self, attack: str) -> str:
        """Return the label of an attack; in runs older than labels, its identifier."""
        return self.attacks.get(attack, attack)

    def get_model_label(self, model: str, defense: str) -> str:
        """Return the label of a model with its defense; in runs older than labels, built from their ids."""
        return self.models.get((model, defense), model if defense == "none" else f"{model} + {defense}")

    def to_metadata(self) -> dict[str, Any]:
        """Return the labels in their stored form."""
        models = [{"model": key[0], "defense": key[1], "label": label} for key, label in self.models.items()]
        return {"attacks": dict(self.attacks), "families": dict(self.families), "models": models}

    @classmethod
    def from_metadata(cls, content: Any) -> RunLabels:
        """Build the labels from their stored form; empty if the run has none."""
        if not isinstance(content, dict):
            return cls()
        models = {(row["model"], row["defense"]): row["label"] for row in content["models"]}
        return cls(attacks=content["attacks"], families=content["families"], models=models)
