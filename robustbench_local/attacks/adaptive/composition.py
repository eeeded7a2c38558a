"""The composition of an adapted attack: AutoAttack's stages, and further ones that the findings call for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from robustbench_local.attacks.adaptive.black_box_steps import build_student_view, compose_black_box_steps
from robustbench_local.attacks.adaptive.findings import Answers, ModelFindings, StudentRecord
from robustbench_local.attacks.adaptive.random_steps import compose_random_steps
from robustbench_local.attacks.adaptive.steps import AttackStep
from robustbench_local.attacks.adaptive.view_spec import (
    ViewSpec,
    declares_surrogates,
    has_unsound_gradients,
    list_trial_views,
    list_views,
)
from robustbench_local.attacks.apgd.targeted import select_targeted_loss
from robustbench_local.attacks.ensembles.autoattack import GRADIENT_STEPS, SQUARE_STEPS
from robustbench_local.threats.threat_model import ThreatModel

EXTRA_SQUARE_LABEL = "square restarts"
"""Label of the step of further restarts of Square."""
EXTRA_SQUARE_RESTARTS = 4
"""Further restarts of Square where the gradients are wrong: under it a defense fell from 18.50 to 7.40 % with
30 restarts (RobustBench's entry Xiao2020Enhancing)."""


MIN_MISLED_IMAGES = 2
MIN_MISLED_SHARE = 0.25
"""Images, and their share, from which own gradients mislead if a trial view succeeds where they do not."""
MAX_TRIAL_STEPS = 1
"""Trial steps behind the stages of AutoAttack, where one had a success that makes no gradient suspect."""
MAX_TARGETED_VIEWS = 2
"""Views whose gradients also follow targets: each target costs as much as the view's first step."""
MAX_TARGETS = 9
"""Target classes of an image, as in AutoAttack."""


@dataclass(frozen=True, kw_only=True)
class PilotResult:
    """A short version of a candidate step on the sample."""

    label: str
    """Name of the step."""
    images: int
    """Number of images that it ran on."""
    broken: int
    """Number of images on which it succeeded."""
    passes: int
    """Forward and backward passes that it took."""
    problem: str = ""
    """Reason, in one line, why the step cannot run; empty if it can."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """What an adapted attack knows about a model, and the steps that it runs."""

    steps: tuple[AttackStep, ...]
    """In order."""
    doubts: tuple[str, ...] = ()
    """What the quick check found; empty if it found the model sound."""
    findings: ModelFindings | None = None
    """What the inspection found; None if the quick check was enough."""
    pilot: tuple[PilotResult, ...] = ()
    """Short versions of the candidate steps on the sample, in the order in which they were tried."""
    student: StudentRecord | None = None
    """A network distilled from the model's answers, where there is no gradient."""

    @property
    def draws(self) -> int:
        """Passes averaged per evaluation: 1 for a model that repeats its answers."""
        return max((step.draws for step in self.steps), default=1)

    def to_json(self) -> dict[str, Any]:
        """Return the composition as JSON values."""
        return {
            "steps": [step.to_json() for step in self.steps],
            "doubts": list(self.doubts),
            "findings": None if self.findings is None else self.findings.to_json(),
            "pilot": [asdict(result) for result in self.pilot],
            "student": None if self.student is None else asdict(self.student),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the composition of `to_json`."""
        findings = None if values["findings"] is None else ModelFindings.from_json(values["findings"])
        student = None if values.get("student") is None else StudentRecord(**values["student"])
        views = () if findings is None else (*list_useful_views(findings), *list_trial_views(findings))
        views = (*views, *([] if student is None else [build_student_view(student)]))
        return cls(
            steps=tuple(AttackStep.from_json(step, views) for step in values["steps"]),
            doubts=tuple(values["doubts"]),
            findings=findings,
            pilot=tuple(PilotResult(**result) for result in values["pilot"]),
            student=student,
        )


def list_standard_steps(threat: ThreatModel, num_classes: int) -> tuple[AttackStep, ...]:
    """Return the steps of the standard AutoAttack; without Square where only a mask may change."""
    sparse = threat.norm == "L1"
    targeted = AttackStep(
        label="apgd-t",
        search="apgd",
        steps=GRADIENT_STEPS,
        loss=select_targeted_loss(num_classes),
        targets=5 if sparse else 9,
    )
    steps = (
        AttackStep(label="apgd-ce", search="apgd", steps=GRADIENT_STEPS, restarts=5 if sparse else 1),
        targeted,
        AttackStep(label="fab-t", search="fab", steps=GRADIENT_STEPS, targets=9),
        AttackStep(label="square", search="square", steps=SQUARE_STEPS),
    )
    return steps if threat.region == "image" else steps[:-1]


def list_useful_views(findings: ModelFindings) -> tuple[ViewSpec, ...]:
    """Return the views that the findings call for, and one through every operator if some are replaced."""
    views = list_views(findings)
    if not any(view.kind == "bpda" and view.paths for view in views):
        return views
    everywhere = ViewSpec(kind="bpda", label="BPDA through every operator", draws=findings.randomness.draws)
    return (*views, everywhere)


def divide_views(
    findings: ModelFindings, *, is_steep: bool
) -> tuple[tuple[ViewSpec, ...], tuple[ViewSpec, ...]]:
    """Divide the views into those that the findings call for, and those on trial.

    Where the model's own gradients are of use, or those that it declares, the parts of a model are on trial
    as well: only an ensemble that chooses among its members is known to hide them.

    Args:
        findings: What the inspection found.
        is_steep: Whether functions inside have other slopes over an interval.
    """
    views = list_useful_views(findings)
    known = {view.label for view in views}
    trials = tuple(view for view in list_trial_views(findings) if view.label not in known)
    is_unsound = is_steep or has_unsound_gradients(findings)
    if is_unsound and not declares_surrogates(findings):
        return (*views, *trials), ()
    needed = tuple(view for view in views if not _is_on_trial(view, findings))
    return needed, (*(view for view in views if view not in needed), *trials)


def _is_on_trial(view: ViewSpec, findings: ModelFindings) -> bool:
    if view.kind == "part":
        return not findings.selections or any(part.role != "member" for part in view.parts)
    return view.kind in {"undefended", "bpda"}


def list_candidate_steps(views: Sequence[ViewSpec], draws: int = 1) -> tuple[AttackStep, ...]:
    """Return a step of APGD on the margin for each view of the gradients, the most promising first.

    One that averages over a neighborhood has fewer steps, each of which costs several gradients.

    Args:
        views: The views.
        draws: Passes averaged per evaluation.
    """
    return tuple(
        AttackStep(
            label=view.label,
            search="apgd",
            steps=max(1, GRADIENT_STEPS // 4) if view.kind == "neighborhood" else GRADIENT_STEPS,
            loss="margin",
            view=view,
            draws=draws,
        )
        for view in views
    )


def is_misled(trials: Sequence[PilotResult]) -> bool:
    """Check whether the model's own gradients fail where those of a trial view succeed, on several images."""
    return any(
        result.broken >= MIN_MISLED_IMAGES and result.broken >= MIN_MISLED_SHARE * result.images
        for result in trials
    )


def select_trials(candidates: Sequence[AttackStep], trials: Sequence[PilotResult]) -> tuple[AttackStep, ...]:
    """Return the best trial steps that had a success at all; the first ones of equals."""
    broken = {result.label: result.broken for result in trials if result.broken}
    successful = [step for step in candidates if step.label in broken]
    return tuple(sorted(successful, key=lambda step: -broken[step.label])[:MAX_TRIAL_STEPS])


def compose_steps(
    findings: ModelFindings,
    candidates: Sequence[AttackStep],
    pilot: Sequence[PilotResult],
    threat: ThreatModel,
    num_classes: int,
    student: StudentRecord | None = None,
) -> tuple[AttackStep, ...]:
    """Compose the steps for a model whose gradients need help.

    The own gradient's cheap step comes first. Then follow the candidates, by successes per pass in the pilot,
    targeted versions of the best ones, and the rest of AutoAttack. Where gradients are wrong and no candidate
    had a success, Square starts again.

    Args:
        findings: What the inspection found.
        candidates: The candidate steps, the most promising first.
        pilot: Their short versions.
        threat: Budget, goal and region.
        num_classes: K.
        student: A network distilled from its answers, where it has no gradient.
    """
    results = {result.label: result for result in pilot}
    usable = [step for step in candidates if not results[step.label].problem]
    order = sorted(usable, key=lambda step: -_compute_yield(results[step.label]))
    targeted = [
        replace(step, label=f"{step.label}, targeted", targets=MAX_TARGETS if step.draws == 1 else 1)
        for step in order[:MAX_TARGETED_VIEWS]
        if step.view is None or step.view.kind != "rescaled"  # the loss of AutoAttack's targets has no scale
    ]
    draws, answers = findings.randomness.draws, find_black_box_answers(findings, pilot)
    if answers is not None:
        view = None if student is None else build_student_view(student)
        is_service = not findings.gradients.has_access
        black_box = compose_black_box_steps(answers, view, threat, draws, is_service=is_service)
        return (*order, *targeted, *black_box)
    if findings.randomness.is_random:
        follows = _has_usable_gradient(findings)
        return compose_random_steps(order, draws, threat, follows_gradients=follows)
    standard = list_standard_steps(threat, num_classes)
    if not _has_usable_gradient(findings):
        standard = tuple(step for step in standard if step.search == "square")
    cheap = [step for step in standard[:1] if step.search == "apgd"]
    steps = (*cheap, *order, *targeted, *standard[len(cheap) :])
    is_repaired = any(result.broken for result in pilot)
    if threat.region == "mask" or is_repaired or not has_unsound_gradients(findings):
        return steps
    again = AttackStep(
        label=EXTRA_SQUARE_LABEL,
        search="square",
        steps=SQUARE_STEPS,
        restarts=EXTRA_SQUARE_RESTARTS,
        first_restart=1,
    )
    return (*steps, again)


def _compute_yield(result: PilotResult) -> float:
    """Return the successes per pass of a short version."""
    return result.broken / max(result.passes, 1)


def find_black_box_answers(findings: ModelFindings, pilot: Sequence[PilotResult]) -> Answers | None:
    """Return what the answers say of a model without any gradient; None if a gradient helps the attack."""
    if _has_usable_gradient(findings) or any(result.broken for result in pilot):
        return None
    return "labels" if findings.logits.are_labels else "scores"


def _has_usable_gradient(findings: ModelFindings) -> bool:
    """Check whether the model's own gradients exist and are not zero everywhere."""
    gradients = findings.gradients
    return gradients.has_graph and not gradients.error and gradients.zero_margin_share < 1
