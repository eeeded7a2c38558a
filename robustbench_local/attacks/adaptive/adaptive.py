"""Adaptive: AutoAttack's strength on sound models, and on others the attack that their faults call for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.black_box_steps import compose_black_box_steps
from robustbench_local.attacks.adaptive.composition import (
    Composition,
    PilotResult,
    compose_steps,
    divide_views,
    find_black_box_answers,
    is_misled,
    list_candidate_steps,
    list_standard_steps,
    list_useful_views,
    select_trials,
)
from robustbench_local.attacks.adaptive.findings import ModelFindings
from robustbench_local.attacks.adaptive.inspection import inspect_model
from robustbench_local.attacks.adaptive.pilot import run_pilot, run_trials
from robustbench_local.attacks.adaptive.quick_check import check_quickly
from robustbench_local.attacks.adaptive.steps import AttackStep
from robustbench_local.attacks.adaptive.student import train_student
from robustbench_local.attacks.adaptive.view_spec import ViewSpec, list_trial_views
from robustbench_local.attacks.base import Attack, AttackInputs
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.attacks.ensembles.ensemble import Ensemble, Stage
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

MAX_PILOT_IMAGES = 16
"""Images of the sample on which candidate steps are tried."""
MIN_INSPECTED_IMAGES = 4
"""Unbroken images that an inspection looks at, for each of which it costs hundreds of passes; half of the
sample if that is more."""


@dataclass(frozen=True, kw_only=True)
class Adaptive(Ensemble):
    """An attack that reads the model first and composes its steps from what it finds.

    Before the first batch it looks at a few images: whether gradients agree with the answers along them,
    whether repeated answers agree, and whether a short attack succeeds. In doubt it inspects the model:
    layers that stop the gradient, saturation, random draws, classifiers inside. On a sound model it is
    AutoAttack, stage by stage and draw by draw, so that it succeeds wherever AutoAttack does. Otherwise
    further steps follow: gradients through replaced layers, of the parts, of the model without its defense,
    averaged over draws, and Square from several starts. Every success is one of the model itself.

    Source: Tramer et al. 2020, arXiv:2002.08347 (adaptive attacks); Croce & Hein 2020, arXiv:2003.01690.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    regions: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    adapts: ClassVar[bool] = True

    def build_stages(self, threat: ThreatModel, num_classes: int) -> tuple[Stage, ...]:
        """See :meth:`Ensemble.build_stages`; unadapted, the stages of AutoAttack."""
        return tuple(step.build_stage(threat) for step in list_standard_steps(threat, num_classes))

    def estimate_cost_on(self, classifier: Classifier, threat: ThreatModel) -> tuple[int, int]:
        """See :meth:`Attack.estimate_cost_on`; without gradients other steps are certain."""
        if classifier.access == "gradients":
            return self.estimate_cost(threat)
        student = ViewSpec(kind="student", label="student")
        steps = compose_black_box_steps(classifier.access, student, threat)
        forward, _ = self.estimate_stages([step.build_stage(threat) for step in steps], threat)
        return forward, 0

    def build_engine(self, inputs: AttackInputs) -> Engine:
        """See :meth:`EngineAttack.build_engine`; AutoAttack's stages draw AutoAttack's numbers."""
        stream = replace(inputs.stream, attack=repr(AutoAttack()))
        return super().build_engine(replace(inputs, stream=stream))

    def adapt(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,
        masks: Tensor | None = None,
    ) -> Attack:
        """See :meth:`Attack.adapt`."""
        if len(images) == 0 or threat.eps == 0:
            return self
        masks = masks if threat.region == "mask" else None
        inputs = AttackInputs(classifier, images, labels, threat, stream, masks)
        return AdaptedAttack(composition=_compose_for_model(inputs))

    def restore_adaptation(self, description: Mapping[str, Any]) -> Attack:
        """See :meth:`Attack.restore_adaptation`."""
        return AdaptedAttack(composition=Composition.from_json(description)) if description else self


@dataclass(frozen=True, kw_only=True, repr=False)
class AdaptedAttack(Adaptive):
    """The adaptive attack after its look at a model; it has the identity of the original."""

    composition: Composition
    """What it found, and its steps."""

    def __repr__(self) -> str:
        return repr(Adaptive())

    def __str__(self) -> str:
        return str(Adaptive())

    @property
    def eot_samples(self) -> int:
        """See :attr:`Attack.eot_samples`; as many as the variance of the answers asks for."""
        return self.composition.draws

    def build_stages(self, threat: ThreatModel, num_classes: int) -> tuple[Stage, ...]:  # noqa: ARG002 - decided before
        """See :meth:`Ensemble.build_stages`; the composed steps."""
        return tuple(step.build_stage(threat) for step in self.composition.steps)

    def estimate_cost_on(self, classifier: Classifier, threat: ThreatModel) -> tuple[int, int]:
        """See :meth:`Attack.estimate_cost_on`."""
        forward, backward = self.estimate_cost(threat)
        return forward, backward if classifier.access == "gradients" else 0

    def describe_adaptation(self) -> dict[str, Any]:
        """See :meth:`Attack.describe_adaptation`."""
        return self.composition.to_json()


def _compose_for_model(inputs: AttackInputs) -> Composition:
    """Look at the model with the sample's images, as far as doubts go, and compose the steps."""
    threat, num_classes = inputs.threat, inputs.classifier.num_classes
    check = check_quickly(inputs)
    standard = list_standard_steps(threat, num_classes)
    if check.is_sound:
        return Composition(steps=standard)
    # a few unbroken images show what misleads the attack; an inspection costs hundreds of passes for each
    rows = (~check.broken).nonzero().flatten()
    rows = rows if len(rows) else torch.arange(len(check.broken), device=rows.device)
    probed = rows[: max(MIN_INSPECTED_IMAGES, len(inputs.images) // 2)]
    findings = inspect_model(
        inputs.classifier, inputs.images[probed], inputs.labels[probed], inputs.stream.select_images(probed)
    )
    if not _has_standard_gradient(findings):
        candidates = _list_all_steps(findings)
        pilot = run_pilot(inputs, candidates, rows[:MAX_PILOT_IMAGES])
        return _compose_without_gradient(inputs, findings, candidates, pilot, check.doubts)
    needed, on_trial = divide_views(findings, is_steep=check.is_steep)
    candidates, trials = list_candidate_steps(needed), list_candidate_steps(on_trial)
    pilot = run_pilot(inputs, candidates, rows)
    if find_black_box_answers(findings, pilot) is not None:
        return _compose_without_gradient(inputs, findings, candidates, pilot, check.doubts)
    trial_results = run_trials(inputs, trials, rows)
    if is_misled(trial_results):
        candidates, pilot = (*candidates, *trials), (*pilot, *trial_results)
        steps = compose_steps(findings, candidates, pilot, threat, num_classes)
    else:
        steps = compose_steps(findings, candidates, pilot, threat, num_classes) if candidates else standard
        steps, pilot = (*steps, *select_trials(trials, trial_results)), (*pilot, *trial_results)
    return Composition(steps=steps, doubts=check.doubts, findings=findings, pilot=pilot)


def _compose_without_gradient(
    inputs: AttackInputs,
    findings: ModelFindings,
    candidates: Sequence[AttackStep],
    pilot: tuple[PilotResult, ...],
    doubts: tuple[str, ...],
) -> Composition:
    """Compose the steps for a model without a gradient that helps, or whose answers vary by chance."""
    answers = find_black_box_answers(findings, pilot)
    student = None if answers is None else train_student(inputs, answers)
    num_classes = inputs.classifier.num_classes
    steps = compose_steps(findings, candidates, pilot, inputs.threat, num_classes, student)
    return Composition(steps=steps, doubts=doubts, findings=findings, pilot=pilot, student=student)


def _list_all_steps(findings: ModelFindings) -> tuple[AttackStep, ...]:
    """Return a step for each view that may help where the own gradients are missing or vary by chance."""
    has_gradients = findings.gradients.has_graph or not findings.gradients.has_access
    views = (*list_useful_views(findings), *(() if has_gradients else list_trial_views(findings)))
    return list_candidate_steps(views, findings.randomness.draws)


def _has_standard_gradient(findings: ModelFindings) -> bool:
    """Check whether AutoAttack's stages have what they need: gradients, and the same answers each time."""
    gradients = findings.gradients
    return gradients.has_access and gradients.has_graph and not findings.randomness.is_random
