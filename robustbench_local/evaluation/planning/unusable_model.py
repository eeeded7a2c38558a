"""Models that cannot be used: they keep their row in the grid, and their cells are recorded as errors."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import DataError, ModelError
from robustbench_local.evaluation.grid.schema import ModelEntry
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.models.endpoint_options import is_url, remove_credentials
from robustbench_local.store.run_folder import UNKNOWN_IDENTITY

_BLACK_BOX_SOURCES = ("litert:", "openvino:", "maite:")
"""How the sources begin that give no gradients, besides services."""


class UnusableModel(nn.Module):
    """Placeholder for a model; every call raises the reason why the model cannot be used.

    Args:
        problem: The error to raise.
    """

    def __init__(self, problem: ModelError) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, _images: Tensor) -> Tensor:
        """Raise the problem."""
        raise self.problem


def make_unusable_subject(
    entry: ModelEntry, data: Dataset, problem: ModelError, device: torch.device
) -> EvaluationSubject:
    """Make the subject of a model that cannot be used.

    Args:
        entry: The model in the grid file.
        data: The images as loaded.
        problem: The reason why it cannot be used.
        device: The device that it was meant for.
    """
    black_box = is_url(entry.source) or entry.source.startswith(_BLACK_BOX_SOURCES)
    classifier = Classifier(
        UnusableModel(problem).eval(),
        num_classes=entry.num_classes or max(2, data.num_classes),
        class_names=entry.class_names,
        access=entry.access or ("scores" if black_box else "gradients"),
        name=entry.id,
        device=device,
    )
    classifier.add_note(f"cannot be used: {problem}")
    with suppress(DataError):  # the declarations about the model may be the mistake
        data = fit_labels(data, classifier.num_classes, classifier.class_names)
    about = {
        "id": entry.id,
        "name": entry.id,
        "defense": "none",
        "source": remove_credentials(entry.source),
        "digest": "",
        "num_classes": None,
        "parameters": None,
        "access": None,
        "notes": list(classifier.notes),
        "provenance": None,
        "class_names": list(data.class_names),
        "problem": str(problem),
    }
    return EvaluationSubject(
        id=entry.id,
        classifier=classifier,
        data=data,
        digest=UNKNOWN_IDENTITY,
        description=about,
        problem=problem,
    )


def add_defense_name(subject: EvaluationSubject, defense: str) -> EvaluationSubject:
    """Add a defense to an unusable model, which stays unusable.

    Args:
        subject: The unusable model.
        defense: The name of the defense.
    """
    return replace(subject, defense=defense, description={**subject.description, "defense": defense})
