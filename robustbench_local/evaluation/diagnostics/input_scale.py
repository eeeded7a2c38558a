"""D19: does the model expect pixels on another scale than [0, 1]?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    TOO_SMALL_REASON,
    Diagnostic,
    Reading,
    build_unread,
)
from robustbench_local.evaluation.diagnostics.logit_scale import MAX_LOGIT_RANGE

MAX_ACCURACY_LOSS = 0.02
"""Accuracy that a model loses at most on pixels divided by 255, if it scales them by 255 itself. Sound
networks fall to 7 to 10 %; a model fed with 0 to 255 keeps all."""
MIN_IMAGES = 8
"""With fewer images a chance mistake decides."""
PASSES_SHARE = 0.05
"""Share of the budget that the check may take."""
WHITE = 255.0
"""Value of white in images of 8 bits."""


class InputScale(Diagnostic):
    """Accuracy on images divided by 255. Models that divide by each image's contrast keep it as well.

    Only together with enormous logits does it show a model that was fed with the wrong range. The opposite
    test, on images times 255, says nothing: sound networks keep .94 of .95 there.
    """

    id = "D19"
    name = "range that the model expects"
    source = "measured: sound networks fall to 7 to 10 % on pixels divided by 255"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Ask about the first images, divided by 255."""
        n = model.budget.count_images(model.passes_per_query, len(model.logits), PASSES_SHARE)
        if n < MIN_IMAGES:
            return build_unread(TOO_SMALL_REASON)
        labels = model.labels[:n]
        before = float((model.logits[:n].argmax(dim=1) == labels).float().mean())
        after = float((model.compute_logits(model.images[:n] / WHITE).argmax(dim=1) == labels).float().mean())
        scale = float((model.logits[:n].amax(dim=1) - model.logits[:n].amin(dim=1)).nanmedian())
        return self.judge_figures(before, after, scale, n)

    def judge_figures(self, before: float, after: float, scale: float, n: int) -> Reading:
        """Judge accuracies and the scale of the logits.

        Args:
            before: Accuracy on the images.
            after: Accuracy on the images divided by 255.
            scale: Median range of the logits.
            n: Number of images.
        """
        kept, limit = after >= before - MAX_ACCURACY_LOSS, before - MAX_ACCURACY_LOSS
        figures = (
            f"{after:.0%} of {n:,} images divided by 255 are classified correctly, {before:.0%} as they are"
        )
        if not kept:
            return Reading(
                status="ok",
                sentence=f"The model expects pixels in [0, 1]: {figures}.",
                value=after,
                limit=limit,
                n=n,
            )
        if scale <= MAX_LOGIT_RANGE:
            return Reading(
                status="info",
                sentence=f"The brightness of an image hardly matters to the model: {figures}.",
                value=after,
                limit=limit,
                n=n,
            )
        return Reading(
            status="fail",
            sentence=f"The model seems to be fed with the wrong range of pixels: {figures}, and its outputs "
            "are far too large.",
            value=after,
            limit=limit,
            n=n,
            action="Remove the scaling by 255 inside the model: it gets pixels in [0, 1].",
        )
