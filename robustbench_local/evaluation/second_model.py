"""Checks of the second model of an evaluation: a surrogate to craft candidates on, or a float twin."""

from __future__ import annotations

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.data.class_labels import describe_class_difference, fit_labels
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.surrogate_checks import check_surrogate
from robustbench_local.evaluation.harness.twin_agreement import (
    compare_clean_labels,
    format_low_agreement,
    format_twin_note,
)
from robustbench_local.threats.threat_model import ThreatModel


def view_twin(
    classifier: Classifier,
    twin: Classifier | None,
    surrogate: Classifier | None,
    original_data: Dataset,
    fitted_data: Dataset,
) -> TwinView | None:
    """Move the twin to the classifier's device, check that it fits, and return the view that attacks have."""
    if twin is None:
        return None
    if surrogate is not None:
        raise ConfigError("a surrogate and a twin are given", remedy="leave one of them out")
    own = fit_labels(original_data, twin.num_classes, twin.class_names)
    if difference := describe_class_difference(own, fitted_data):
        remedy = "use the network that the classifier was made from"
        raise ConfigError(f"{twin.name!r} is no twin: {difference}", remedy=remedy)
    return TwinView(classifier, twin.to(classifier.device))


def list_twin_notes(view: TwinView | None, method: Attack, data: Dataset) -> list[str]:
    """List the notes on a result that a twin takes part in."""
    if view is None:
        return []
    agreement = compare_clean_labels(view.inner, view.twin, data.images)
    return [format_low_agreement(agreement, view.twin.name), format_twin_note(view.twin.name, method)]


def check_transfer(
    attack: Attack,
    threat: ThreatModel,
    classifier: Classifier,
    surrogate: Classifier,
    original_data: Dataset,
    fitted_data: Dataset,
) -> None:
    """Move the surrogate to the classifier's device and check that the attack can run on it."""
    if attack.measure == "views":
        raise ConfigError(
            f"{type(attack).__name__} is evaluated on its own model only", remedy="leave surrogate out"
        )
    if surrogate is classifier:
        raise ConfigError("the surrogate is the classifier itself", remedy="leave surrogate out")
    own = fit_labels(original_data, surrogate.num_classes, surrogate.class_names)
    check_surrogate(attack, threat, surrogate.to(classifier.device), own, fitted_data)
