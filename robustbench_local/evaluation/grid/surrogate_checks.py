"""Checks of transfer attacks: candidates are crafted on a surrogate model and verified on another model."""

from __future__ import annotations

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.data.class_labels import describe_class_difference
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError
from robustbench_local.threats.threat_model import ThreatModel

NAIVE_NOTE = "crafted on the model without its defense (non-adaptive attack)"
"""Note for a reader of results of an attack unaware of the defense."""


def check_surrogate(
    attack: Attack, threat: ThreatModel, surrogate: Classifier, surrogate_data: Dataset, data: Dataset
) -> None:
    """Check before any work that an attack can run on a surrogate.

    The image sizes of the two models may differ, because each resizes inside; their classes may not.

    Args:
        attack: The attack that crafts the candidates; any that could attack the surrogate itself.
        threat: Budget and goal, targets as indices.
        surrogate: The attacked model.
        surrogate_data: The images with labels fitted to the surrogate.
        data: The same images with labels fitted to the model that verifies the candidates.

    Raises:
        ConfigError: If the two models do not share class indices, or the surrogate gives less access than
            the attack needs.
        ThreatError: If the attack cannot pursue the threat model on the surrogate.
    """
    difference = describe_class_difference(surrogate_data, data)
    if difference:
        raise ConfigError(
            f"nothing transfers from {surrogate.name!r}: {difference}",
            remedy="use a surrogate with the same classes",
        )
    attack.check_support(threat, surrogate)


def format_transfer_note(surrogate: str) -> str:
    """Return the note that every reader of a transfer result needs."""
    return (
        f"crafted on {surrogate} without access to this model, so no upper bound on its robust accuracy "
        "under white-box attacks"
    )
