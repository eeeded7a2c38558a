"""D5: does the model give probabilities instead of logits?"""

from __future__ import annotations

from torch import Tensor

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    format_images,
)


def has_sigmoid_form(outputs: Tensor) -> bool:
    """Return whether all outputs, (N, K), lie in [0, 1]; logits of a few images hardly ever do."""
    return len(outputs) > 0 and bool(((outputs >= 0) & (outputs <= 1)).all())


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
        count = len(model.logits)
        if has_sigmoid_form(model.logits) and not model.findings.logits.are_probabilities:
            return Reading(
                status="warn",
                sentence=f"The outputs for {format_images(count, count)} lie between 0 "
                "and 1, as after a sigmoid: where one is almost 0 or 1, the slope that attacks follow almost "
                "vanishes.",
                value=1.0,
                limit=0.0,
                n=count,
                action="Take the sigmoid out of the model, or attack the margin loss, as autoattack does.",
            )
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
