"""D20: does the model compute gradients inside its own forward pass?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import Diagnostic, Reading, build_unread


class InnerOptimization(Diagnostic):
    """A loop of optimization at inference hides its own gradient from attacks."""

    id = "D20"
    name = "no optimization at inference"
    source = "RobustBench, restriction 3; AutoAttack's check for dynamic defenses"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection: calls of autograd during a forward pass."""
        if model.findings is None:
            return build_unread(model.missing_findings)
        if not model.findings.optimizes_inside:
            return Reading(
                status="ok",
                sentence="The forward pass computes no gradients of its own.",
                value=0.0,
                n=model.findings.images,
            )
        return Reading(
            status="fail",
            sentence="The model computes gradients inside its own forward pass, as defenses do that optimize "
            "each image first: ordinary attacks see the result but not the loop.",
            value=1.0,
            limit=0.0,
            n=model.findings.images,
            action="Attack the network without the loop as well (adaptive does), and report the lower "
            "number.",
        )
