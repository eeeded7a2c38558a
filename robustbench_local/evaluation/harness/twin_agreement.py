"""The comparison of an artefact and its twin on clean images, before any attack: is it the right network?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import is_logarithm, is_probability
from robustbench_local.counted_nouns import format_count

MAX_COMPARED_IMAGES = 64
"""Clean images that both models are asked about before the attacks."""
MIN_TWIN_AGREEMENT = 0.9
"""Share of clean images with the same label below which a network is hardly the artefact's twin; 8-bit
quantisation changes 0 to 2 % of the labels."""


@dataclass(frozen=True, kw_only=True)
class TwinAgreement:
    """How many clean images an artefact and its twin give the same label."""

    same: int
    """Images with the same label."""
    compared: int
    """Images that both were asked about."""
    outputs: str
    """What the artefact returns: ``logits``, ``probabilities`` or ``labels``."""

    @property
    def is_low(self) -> bool:
        """Whether the network is hardly the twin of the artefact."""
        return self.same < MIN_TWIN_AGREEMENT * self.compared


def compare_clean_labels(artefact: Classifier, twin: Classifier, images: Tensor) -> TwinAgreement:
    """Compare the labels that two models give the first clean images.

    Args:
        artefact: The artefact.
        twin: Its twin.
        images: (N, C, H, W) in [0, 1].
    """
    images = images[:MAX_COMPARED_IMAGES]
    with artefact.evaluation_mode(), twin.evaluation_mode(), torch.no_grad():
        own, other = _compute_logits(artefact, images), _compute_logits(twin, images)
    outputs = "probabilities" if bool((is_probability(own) | is_logarithm(own)).all()) else "logits"
    return TwinAgreement(
        same=int((own.argmax(dim=1) == other.argmax(dim=1)).sum()),
        compared=len(images),
        outputs="labels" if artefact.access == "labels" else outputs,
    )


def format_low_agreement(agreement: TwinAgreement, twin: str) -> str:
    """Return the warning about a network that is hardly the twin; empty where labels agree."""
    if not agreement.is_low:
        return ""
    return (
        f"gives only {agreement.same} of {format_count(agreement.compared, 'clean image')} the same label as "
        f"its twin {twin}, whose gradients then mislead the attacks: robust accuracy may be too high. Check "
        "that it is the network the model was made from, with the same preprocessing and class order"
    )


def format_twin_note(twin: str, attack: Attack) -> str:
    """Return the note of a cell for a reader of its results."""
    if attack.access == "gradients":
        return f"searched on the gradients of {twin}; every success is decided by this model"
    return f"run on this model, and for comparison on its twin {twin}"


def _compute_logits(classifier: Classifier, images: Tensor) -> Tensor:
    size = compute_default_batch_size(images)
    return torch.cat([classifier(part.to(classifier.device)).cpu() for part in torch.split(images, size)])
