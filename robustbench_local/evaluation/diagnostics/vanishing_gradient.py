"""D6b: is the gradient of the margin loss exactly zero, or not a number, on some images?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    format_images,
)

MAX_ZERO_SHARE = 0.01
"""Share of images from which on zero gradients fail. Measured: sound networks 0, a sigmoid that saturates
1.1 %, rounding and a cut graph 100 %."""


class VanishingGradient(Diagnostic):
    """Rounding, thresholds and saturated layers give a gradient of exactly zero: attacks stand still."""

    id = "D6b"
    name = "gradient is not zero"
    source = "Athalye et al. 2018, arXiv:1802.00420; limit measured on sound and broken networks"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection."""
        if not model.gives_gradients:
            return build_unread(f"the model gives {model.classifier.access} only, and no gradients")
        if model.findings is None:
            return build_unread(model.missing_findings)
        found = model.findings.gradients
        if not found.has_graph or found.error:
            return build_unread("no gradient reaches the pixels (D6a)")
        n = found.images
        share = max(found.zero_margin_share, found.nonfinite_share)
        if share < MAX_ZERO_SHARE:
            return Reading(
                status="ok",
                sentence=f"The gradient is a nonzero number on {format_images(n, n)}.",
                value=share,
                limit=MAX_ZERO_SHARE,
                n=n,
            )
        count = round(share * n)
        # a gradient of NaN alone is zero after its repair, and counts as both
        what = "exactly zero" if found.zero_margin_share > found.nonfinite_share else "NaN or infinite"
        return Reading(
            status="fail",
            sentence=f"On {format_images(count, n)} the gradient, the direction that attacks follow, is "
            f"{what}: there they stand still whether or not the model is robust.",
            value=share,
            limit=MAX_ZERO_SHARE,
            n=n,
            action="Run an attack that works without it: adaptive, or square with 5,000 queries.",
        )
