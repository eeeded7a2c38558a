"""D30: does a step along the gradient change the output as much as the gradient promises?"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    TOO_SMALL_REASON,
    Diagnostic,
    Reading,
    build_unread,
    format_figure,
    format_images,
)

MIN_KEPT_SHARE = 0.25
"""Median share of the promised change that has to come. Sound networks give .61 or more, also with random
weights and maximum pooling; a ripple on the pixels .07, waves on the logits .03, a sawtooth less than 0."""
MAX_KEPT_SHARE = 5.0
"""Median multiple of the promised change from which on there is a warning. Sound networks give 1.02 or less;
an ensemble with detached members 6 and 12, a saturated tanh 14."""
SHORTEST_STEP, LONGEST_STEP = 0.25 / 255, 4 / 255
"""Change of each pixel. No sound network turns within a quarter of a level of 8-bit images, and all stay near
their tangents where the gradient promises little more than another class."""
PROMISED_MARGINS = 2.0
"""Between these steps, the one along which the gradient promises so many times the lead of the true class:
networks that are easily misled bend within the longest one."""
MAX_IMAGES = 8
"""Most images."""
MIN_IMAGES = 2
"""With a single image chance decides: of single ones, sound networks give .45 to 3.5."""
PASSES_PER_IMAGE = 3
"""A gradient and an answer."""
PASSES_SHARE = 0.20
"""Share of the budget that the check may take."""


class GradientReach(Diagnostic):
    """The change of the margin along a step of signs, as a share of what the gradient promises.

    D7 asks whether a gradient is the slope at a point. One of a ripple, a wave or a sawtooth is, and says
    nothing about where an attack gets with it.
    """

    id = "D30"
    name = "gradient holds for a whole step"
    source = "Athalye et al. 2018, arXiv:1802.00420 (shattered gradients); limits measured"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Ask about the first correctly classified images, one step beside each."""
        reason = _find_obstacle(model)
        if reason:
            return build_unread(reason)
        rows = model.correct_rows
        n = model.budget.count_images(
            PASSES_PER_IMAGE * model.passes_per_query, min(MAX_IMAGES, len(rows)), PASSES_SHARE
        )
        if n < MIN_IMAGES:
            few = len(rows) < MIN_IMAGES
            return build_unread("too few images are classified correctly" if few else TOO_SMALL_REASON)
        shares = _measure_kept_shares(model, rows[:n])
        if len(shares) < MIN_IMAGES:
            return build_unread("the output does not change along the gradient, which decides nothing")
        return self.judge_figures(float(shares.quantile(0.5)), len(shares))

    def judge_figures(self, share: float, n: int) -> Reading:
        """Judge the median share of the promised change.

        Args:
            share: Change as a multiple of the promised one.
            n: Number of images.
        """
        figures = f"a small step along it brings {format_figure(share)} of the change that it promises"
        where = f"median of {format_images(n, n)}"
        is_failed, is_suspect = share < MIN_KEPT_SHARE, share > MAX_KEPT_SHARE
        if not (is_failed or is_suspect):
            return Reading(
                status="ok",
                sentence=f"The gradient holds for a whole step: {figures} ({where}).",
                value=share,
                limit=MIN_KEPT_SHARE,
                n=n,
            )
        how = "holds for a point only" if is_failed else "says far less than what happens"
        return Reading(
            status="fail" if is_failed else "warn",
            sentence=f"The gradient, the direction that attacks follow, {how}: {figures}, where that of "
            f"sound models brings 0.6 to 1 ({where}).",
            value=share,
            limit=MIN_KEPT_SHARE if is_failed else MAX_KEPT_SHARE,
            n=n,
            action="Run an attack that does not rely on it: adaptive, or square with 5,000 queries.",
        )


def _measure_kept_shares(model: DiagnosedModel, rows: Tensor) -> Tensor:
    """Return, for each image whose answer changes, the change as a share of the promised one, (M,)."""
    device = model.classifier.device
    images, labels = model.images[rows].to(device), model.labels[rows].to(device)
    _, before, gradient = model.classifier.compute_gradient(
        images, lambda logits: compute_margin(logits, labels)
    )
    if model.declares_surrogate:
        # quantized pixels, whose surrogate holds on average over many, change little within shorter steps
        steps = torch.full_like(before, LONGEST_STEP)
    else:
        slopes = gradient.flatten(1).abs().sum(dim=1)
        steps = (PROMISED_MARGINS * before.abs() / slopes).nan_to_num(LONGEST_STEP)
    lengths = steps.clamp(SHORTEST_STEP, LONGEST_STEP).view(-1, *(1 for _ in images.shape[1:]))
    ends = (images + lengths.to(images) * gradient.sign().nan_to_num(0.0)).clamp(0, 1)
    with torch.no_grad():
        after = compute_margin(model.classifier(ends), labels)
    promised = (gradient.double() * (ends - images).double()).flatten(1).sum(dim=1)
    change = (after - before).double()
    is_known = (promised > 0) & promised.isfinite() & change.isfinite()
    if model.declares_surrogate:
        is_known &= change != 0
    return (change / promised)[is_known].cpu()


def _find_obstacle(model: DiagnosedModel) -> str:
    """Return why the gradient cannot be followed, or an empty text."""
    if not model.gives_gradients:
        return f"the model gives {model.classifier.access} only, and no gradients"
    if model.is_random:
        return "random answers differ by more than a small step changes them (D4)"
    if model.findings is None:
        return model.missing_findings
    if not model.findings.gradients.has_graph or model.findings.gradients.error:
        return "no gradient reaches the pixels (D6a)"
    return ""
