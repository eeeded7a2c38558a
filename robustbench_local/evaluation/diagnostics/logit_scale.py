"""D18: are the logits so large that losses lose their precision?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    format_figure,
    format_images,
)

MAX_LOGIT_RANGE = 500.0
"""Largest ordinary range of an image's logits. Measured: sound networks 8 to 77, times ten where someone
scales them; distillation 1,950, pixels of 0 to 255 4,730, logits times 1,000 20,600."""
MIN_LOGIT_RANGE = 0.05
"""Smallest ordinary range. Measured: sound networks 7 and more, 0.7 where someone divides them by ten, 0.1
with random weights; logits times 1e-4 0.0007."""


class LogitScale(Diagnostic):
    """The median difference between an image's largest and smallest logit."""

    id = "D18"
    name = "scale of the logits"
    source = "limit measured on sound and broken networks"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection."""
        if model.findings is None:
            return build_unread(model.missing_findings)
        scale, n = model.findings.logits.range, model.findings.images
        if scale < MIN_LOGIT_RANGE:
            return Reading(
                status="warn",
                sentence=f"The logits of an image span only {format_figure(scale)}, where ordinary ones span "
                "several units: rounding then hides what attacks follow.",
                value=scale,
                limit=MIN_LOGIT_RANGE,
                n=n,
                action="Multiply the logits by a constant inside the model; its classes stay the same.",
            )
        if scale <= MAX_LOGIT_RANGE:
            return Reading(
                status="ok",
                sentence=f"The logits of an image span {format_figure(scale)} (median of "
                f"{format_images(n, n)}).",
                value=scale,
                limit=MAX_LOGIT_RANGE,
                n=n,
            )
        return Reading(
            status="warn",
            sentence=f"The logits of an image span {format_figure(scale)}, where ordinary networks stay "
            f"below {MAX_LOGIT_RANGE:g}: rounding then swallows the slope of the cross-entropy.",
            value=scale,
            limit=MAX_LOGIT_RANGE,
            n=n,
            action="Divide the logits by a constant inside the model; its classes stay the same.",
        )
