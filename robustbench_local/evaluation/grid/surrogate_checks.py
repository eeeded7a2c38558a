"""Transfer: candidates are crafted on one model, the surrogate, and judged on another."""

from __future__ import annotations

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.data.class_labels import describe_class_difference
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError
from robustbench_local.threats.threat_model import ThreatModel

NAIVE_NOTE = "crafted on the model without its defense (non-adaptive attack)"
"""The line that a reader of a naive attacker's numbers has to know."""


def check_surrogate(
    attack: Attack, threat: ThreatModel, surrogate: Classifier, surrogate_data: Dataset, data: Dataset
) -> None:
    """Find out before any work whether an attack can be carried out on a surrogate.

    The sizes of image that the two models take may differ, for each resizes inside; their classes may not.

    Args:
        attack: What crafts the candidates; any that could attack the surrogate itself.
        threat: Budget and goal, targets as indices.
        surrogate: The model that is attacked.
        surrogate_data: The images with labels fitted to the surrogate.
        data: The same images with labels fitted to the model that judges the candidates.

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
    """The line that a reader of a transfer's numbers has to know."""
    return (
        f"crafted on {surrogate} without access to this model, so no upper bound on its robust accuracy "
        "under white-box attacks"
    )
