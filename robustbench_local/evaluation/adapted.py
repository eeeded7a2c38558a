"""How an attack is carried out on a classifier that draws random numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.parameters import parameter_names
from robustbench_local.randomized import RandomizedClassifier

_PATIENT: dict[str, Any] = {"early_stop": False, "draws": 1}
"""What an attack needs where a first success may be luck, and where the classifier averages by itself."""


def adapted(attack: Attack, classifier: Classifier) -> Attack:
    """The attack as it has to be carried out on a classifier.

    On one that draws random numbers, the first point that fools one look's draws may not fool the verdict's.
    An attack that can goes on to the end of its path there, and returns its best point. Looks are averages
    already, so it takes one of them a step.

    Args:
        attack: The attack of a card.
        classifier: What it is carried out on: for a transfer, the surrogate.
    """
    if not isinstance(classifier, RandomizedClassifier):
        return attack
    known = parameter_names(type(attack))
    return replace(attack, **{name: value for name, value in _PATIENT.items() if name in known})
