"""How far the outputs of an artefact and its twin are apart on the same images."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import is_logarithm, is_probability


def compute_differences(artefact: Classifier, twin: Classifier, images: Tensor) -> list[float | None]:
    """Return each image's largest absolute difference between the outputs of two models.

    Args:
        artefact: The artefact; if it returns probabilities or their logarithms, these are compared.
        twin: The twin.
        images: (N, C, H, W) in [0, 1].

    Returns:
        N differences of logits or probabilities; None where an output is not finite, and for labels.
    """
    if artefact.access == "labels":
        return [None] * len(images)
    with torch.no_grad():
        classes = artefact.num_classes
        own, other = artefact(images)[:, :classes].cpu(), twin(images)[:, :classes].cpu()
    logarithms, probabilities = is_logarithm(own)[:, None], is_probability(own)[:, None]
    own = torch.where(logarithms, own.softmax(dim=1), own)
    other = torch.where(logarithms | probabilities, other.softmax(dim=1), other)
    differences = (own.double() - other.double()).abs().amax(dim=1)
    return [value if value < torch.inf else None for value in differences.tolist()]
