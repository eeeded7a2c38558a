"""D5: does the model give probabilities instead of logits?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    format_images,
)


class ProbabilityOutput(Diagnostic):
    """Rows in [0, 1] that sum to 1: a softmax at the end, which flattens the gradient."""

    id = "D5"
    name = "logits or probabilities"
    source = "AutoAttack's check of the output's range"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection."""
        if model.findings is None:
            return build_unread(model.missing_findings)
        n = model.findings.images
        if not model.findings.logits.are_probabilities:
            return Reading(status="ok", sentence=f"The outputs for {format_images(n, n)} are logits.", n=n)
        return Reading(
            status="warn",
            sentence=f"The outputs for {format_images(n, n)} are probabilities instead of logits: where one "
            "of them is almost 1, the slope that attacks follow almost vanishes.",
            value=1.0,
            limit=0.0,
            n=n,
            action="Take the softmax out of the model, or use attacks on the margin loss such as autoattack.",
        )
