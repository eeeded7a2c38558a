"""Reasons why a cell cannot run on its model; an attack that cannot run on any model raises instead."""

from __future__ import annotations

from robustbench_local.attacks.base import Attack
from robustbench_local.certification.base import Certificate
from robustbench_local.errors import RobustbenchError, ThreatError
from robustbench_local.evaluation.grid.surrogate_checks import check_surrogate
from robustbench_local.evaluation.harness.attack_goal import AttackGoal
from robustbench_local.evaluation.planning.plan import EvaluationSubject

TWIN_CERTIFICATE_REASON = "a certificate of its float twin would say nothing about this model"
"""Addition to the reason why a certificate is skipped on a model with a twin."""


def find_attack_obstacle(
    attack: Attack,
    goal: AttackGoal,
    subject: EvaluationSubject,
    surrogate: EvaluationSubject | None,
    *,
    is_naive: bool,
) -> str | None:
    """Return why an attack is skipped on a model; None if it can run, or if the model itself fails.

    Args:
        attack: The attack.
        goal: Its threat model and images.
        subject: The model with its defense.
        surrogate: The model that candidates are crafted on; None: the one under test.
        is_naive: Whether the surrogate is the model without its defense.

    Raises:
        RobustbenchError: If the attack could not run on any model like this one.
    """
    if subject.problem or (surrogate and surrogate.problem):
        return None
    if obstacle := _find_obstacle(attack, goal, subject):
        return obstacle
    if surrogate:
        if not is_naive and (surrogate.id == subject.id or surrogate.digest == subject.digest):
            return "the candidates are crafted on this model itself, which is no transfer"
        check_surrogate(attack, goal.threat, surrogate.classifier, surrogate.data, subject.data)
        return None
    try:
        attack.check_support(goal.threat, subject.attacked_classifier)
    except RobustbenchError as problem:
        if subject.attacked_classifier.access == "gradients":
            raise
        return str(problem)
    return None


def _find_obstacle(attack: Attack, goal: AttackGoal, subject: EvaluationSubject) -> str | None:
    """Return what the data lack for an attack with this goal, or that the model may reject views."""
    if attack.measure == "views" and subject.classifier.abstention is not None:
        return "the model may reject images, and views are not evaluated on such a model"
    if not len(goal.positions):
        return "the goal applies to no image: none is of a source class outside the targets"
    if goal.threat.region == "mask" and subject.data.masks is None:
        return "the threat model needs masks, and the data have none"
    return None


def find_certificate_obstacle(
    certificate: Certificate, goal: AttackGoal, subject: EvaluationSubject
) -> str | None:
    """Return why a certificate is skipped on a model; None if it can run, or if the model itself fails.

    Args:
        certificate: The certificate.
        goal: Its threat model and images.
        subject: The model with its defense.

    Raises:
        ThreatError: If the certificate does not apply to the threat model on any model.
    """
    if subject.problem:
        return None
    if not len(goal.positions):
        return "no image of the data is of a source class"
    try:
        certificate.check_support(goal.threat, subject.classifier)
    except ThreatError:
        raise
    except RobustbenchError as problem:
        return f"{problem}; {TWIN_CERTIFICATE_REASON}" if subject.twin else str(problem)
    return None
