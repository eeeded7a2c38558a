"""D6c: does the softmax saturate, so that the cross-entropy has no gradient although the model has one?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    format_images,
)
from robustbench_local.evaluation.diagnostics.vanishing_gradient import MAX_ZERO_SHARE

MAX_LOST_SHARE = 0.50
"""Share of images from which on a cross-entropy gradient of exactly zero fails. Measured: 0 on eleven sound
networks and 33 % on one whose logits are multiplied by 10, which margin losses still attack; distillation at
temperature 100 88.6 to 100 %, pixels of 0 to 255 98.9 %, logits times 1,000 all."""
MAX_TINY_SHARE = 0.50
"""Share of images from which on a gradient below 1e-10 is worth a remark. Sound networks that are sure of
themselves have it on up to 25 % (a network for GTSRB) and 13 % (one trained with interval bounds)."""


class SaturatedSoftmax(Diagnostic):
    """Logits so large that softmax gives exactly 0 and 1 in float32."""

    id = "D6c"
    name = "cross-entropy has a gradient"
    source = "Carlini & Wagner 2016, arXiv:1607.04311 (distillation); limit measured"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection."""
        if not model.gives_gradients:
            return build_unread(f"the model gives {model.classifier.access} only, and no gradients")
        if model.findings is None:
            return build_unread(model.missing_findings)
        found, n = model.findings.gradients, model.findings.gradients.images
        if not found.has_graph or found.error or found.zero_margin_share >= MAX_ZERO_SHARE:
            return build_unread("the gradient is missing altogether (D6a, D6b)")
        # a network whose outputs hardly differ has tiny gradients as well, and is not sure of anything
        saturated = model.findings.logits.saturated_share
        lost = min(found.zero_cross_entropy_share, saturated)
        tiny = min(found.tiny_cross_entropy_share, saturated)
        if lost < MAX_LOST_SHARE and tiny < MAX_TINY_SHARE:
            return Reading(
                status="ok",
                sentence="The cross-entropy, the usual loss of attacks, has a gradient of exactly zero on "
                f"{format_images(round(lost * n), n)}.",
                value=lost,
                limit=MAX_LOST_SHARE,
                n=n,
            )
        is_lost = lost >= MAX_LOST_SHARE
        return Reading(
            status="fail" if is_lost else "info",
            sentence=f"On {format_images(round((lost if is_lost else tiny) * n), n)} the model is so sure of "
            f"itself that the gradient of the cross-entropy, the usual loss of attacks, "
            f"{'vanishes in rounding: such attacks stand still' if is_lost else 'nearly vanishes'}.",
            value=lost if is_lost else tiny,
            limit=MAX_LOST_SHARE if is_lost else MAX_TINY_SHARE,
            n=n,
            action="Divide the logits by a constant inside the model, or use attacks on the margin loss "
            "(autoattack, adaptive).",
        )
