"""The steps against a model that gives no gradient: what its scores, or its labels alone, allow."""

from __future__ import annotations

from dataclasses import replace

from robustbench_local.attacks.adaptive.findings import Answers, StudentRecord
from robustbench_local.attacks.adaptive.steps import AttackStep
from robustbench_local.attacks.adaptive.view_spec import ViewSpec
from robustbench_local.attacks.ensembles.autoattack import SQUARE_STEPS
from robustbench_local.threats.threat_model import ThreatModel

STUDENT_STEPS = 60
"""Steps of APGD along the student's gradient; each asks the model itself once."""
STUDENT_TARGETS = 3
"""Target classes of an image."""
SCORE_STEPS, SCORE_RESTARTS = 2500, 3
"""Proposals of Square, and its starts: together as many as plain AutoAttack plans passes."""
FREE_SCORE_RESTARTS = 5
"""Starts of Square, of AutoAttack's length, where queries are free: under 30 of them a defense fell from
18.50 to 7.40 % (RobustBench's entry Xiao2020Enhancing)."""
LABEL_QUERIES = 4000
"""Queries of a search with labels alone, of which there are two."""
_RAYS = AttackStep(label="signs of rays", search="rays", steps=LABEL_QUERIES)
_HOPSKIPJUMP = AttackStep(label="HopSkipJump", search="hopskipjump", steps=LABEL_QUERIES)
_BOUNDARY = AttackStep(label="Boundary", search="boundary", steps=LABEL_QUERIES)


def build_student_view(student: StudentRecord) -> ViewSpec:
    """Return the view of a distilled network."""
    return ViewSpec(kind="student", label=f"transfer from a student of {student.answers}", student=student)


def compose_black_box_steps(
    answers: Answers,
    student: ViewSpec | None,
    threat: ThreatModel,
    draws: int = 1,
    *,
    is_service: bool = True,
) -> tuple[AttackStep, ...]:
    """Compose the steps for a model without gradients.

    Args:
        answers: What its answers say.
        student: The view of a network distilled from them; None if there is none.
        threat: Budget, goal and region.
        draws: Passes averaged per evaluation.
        is_service: Whether the model gives no access to its gradients, as a service, whose queries may cost.
    """
    steps: list[AttackStep] = []
    if student is not None:
        transfer = AttackStep(
            label=student.label, search="apgd", steps=STUDENT_STEPS, loss="margin", view=student, draws=draws
        )
        targeted = AttackStep(
            label=f"{student.label}, targeted",
            search="apgd",
            steps=STUDENT_STEPS,
            loss="margin",
            targets=STUDENT_TARGETS,
            view=student,
            draws=draws,
        )
        steps += [transfer, targeted] if answers == "scores" else [transfer]
    if threat.region != "image":
        return tuple(steps)
    if answers == "scores":
        share = "" if draws == 1 else f" over {draws} draws"
        square = AttackStep(
            label=f"square restarts{share}",
            search="square",
            steps=(SCORE_STEPS if is_service else SQUARE_STEPS) // draws,
            restarts=SCORE_RESTARTS if is_service else FREE_SCORE_RESTARTS,
            draws=draws,
        )
        return (*steps, square)
    searches = {"Linf": (_RAYS, _HOPSKIPJUMP), "L2": (_HOPSKIPJUMP, _BOUNDARY)}.get(threat.norm, ())
    return (*steps, *(replace(search, draws=draws) for search in searches))
