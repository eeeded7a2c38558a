"""Adaptive: AutoAttack's strength on sound models, and on others the attack that their faults call for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.composition import (
    Composition,
    compose_steps,
    divide_views,
    is_misled,
    list_candidate_steps,
    list_standard_steps,
    select_trials,
)
from robustbench_local.attacks.adaptive.inspection import inspect_model
from robustbench_local.attacks.adaptive.pilot import run_pilot, run_trials
from robustbench_local.attacks.adaptive.quick_check import check_quickly
from robustbench_local.attacks.base import Attack, AttackInputs
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.attacks.ensembles.ensemble import Ensemble, Stage
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

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

    def build_stages(self, threat: ThreatModel, num_classes: int) -> tuple[Stage, ...]:  # noqa: ARG002 - decided before
        """See :meth:`Ensemble.build_stages`; the composed steps."""
        return tuple(step.build_stage(threat) for step in self.composition.steps)

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
    needed, on_trial = divide_views(findings, is_steep=check.is_steep)
    candidates, trials = list_candidate_steps(needed), list_candidate_steps(on_trial)
    pilot = run_pilot(inputs, candidates, rows)
    trial_results = run_trials(inputs, trials, rows)
    if is_misled(trial_results):
        candidates, pilot = (*candidates, *trials), (*pilot, *trial_results)
        steps = compose_steps(findings, candidates, pilot, threat, num_classes)
    else:
        steps = compose_steps(findings, candidates, pilot, threat, num_classes) if candidates else standard
        steps, pilot = (*steps, *select_trials(trials, trial_results)), (*pilot, *trial_results)
    return Composition(steps=steps, doubts=check.doubts, findings=findings, pilot=pilot)
