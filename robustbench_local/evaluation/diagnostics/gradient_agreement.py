"""D7: does the gradient describe how the output really changes?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    format_images,
)
from robustbench_local.evaluation.diagnostics.vanishing_gradient import MAX_ZERO_SHARE

MIN_COSINE = 0.95
"""Smallest median cosine between the slopes that the gradient predicts and those measured. Sound networks
give .999 or more; k-winners-take-all .22, a loop of optimization .72."""
MIN_CALM_COSINE = 0.98
"""Median cosine below which there is a warning: networks with random weights and maximum pooling give .988,
k-winners-take-all on a network for MNIST .972."""
MAX_RELATIVE_ERROR = 0.50
"""Largest median relative error of the slopes. Trained sound networks give .06 or less, and .20 with random
weights and maximum pooling, whose kinks lie closer than the steps; rounding and straight-through gradients .8
or more. A gradient that is right in direction and wrong in length hardly hinders attacks."""
MAX_STATED_ERROR = 10.0
"""Largest relative error that the sentence states as a number."""
MIN_INFORMATIVE_SHARE = 0.25
"""Share of images whose output has to change measurably along the directions."""


class GradientAgreement(Diagnostic):
    """Central finite differences of the margin loss against its gradient."""

    id = "D7"
    name = "gradient agrees with finite differences"
    source = "Athalye et al. 2018, arXiv:1802.00420; limits measured on sound and broken networks"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection, and the probe that ran when the model was loaded."""
        reason = _find_obstacle(model)
        if reason:
            return build_unread(reason)
        if model.declares_surrogate:
            return Reading(
                status="info",
                sentence="The gradient is that of a smooth approximation, which the model or its defense "
                "declares (BPDA): it need not agree with measured slopes.",
            )
        found = model.findings.gradients  # type: ignore[union-attr]
        cosine, error, n = found.cosine or 0.0, found.relative_error or 0.0, found.images
        if cosine >= MIN_CALM_COSINE and error <= MAX_RELATIVE_ERROR:
            return Reading(
                status="ok",
                sentence=f"The gradient predicts how the output changes: its slopes and measured ones agree "
                f"on {format_images(n, n)} (cosine {cosine:.3f}, where 1 is perfect; error {error:.1%}).",
                value=cosine,
                limit=MIN_COSINE,
                n=n,
            )
        by_cosine = cosine < MIN_COSINE or error <= MAX_RELATIVE_ERROR
        is_failed = cosine < MIN_COSINE or error > MAX_RELATIVE_ERROR
        how = "does not describe the model" if is_failed else "describes the model only roughly"
        return Reading(
            status="fail" if is_failed else "warn",
            sentence=f"The gradient, the direction that attacks follow, {how}: slopes that it predicts and "
            f"measured ones agree only to {cosine:.2f}, where 1 is perfect, and are off by "
            f"{_format_error(error)}, on {format_images(n, n)}.",
            value=cosine if by_cosine else error,
            limit=MIN_COSINE if by_cosine else MAX_RELATIVE_ERROR,
            n=n,
            action="Run an attack that does not rely on it: adaptive, or square with 5,000 queries.",
        )


def _format_error(error: float) -> str:
    """Format a relative error; huge ones, where hardly anything changes, as such."""
    return f"{error:.0%}" if error <= MAX_STATED_ERROR else f"more than {MAX_STATED_ERROR:.0%}"


def _find_obstacle(model: DiagnosedModel) -> str:
    """Return why the gradient cannot be compared, or an empty text."""
    if not model.gives_gradients:
        return f"the model gives {model.classifier.access} only, and no gradients"
    if model.is_random:
        return "random answers differ by more than a small step changes them (D4)"
    if model.findings is None:
        return model.missing_findings
    found = model.findings.gradients
    if not found.has_graph or found.error or found.zero_margin_share >= MAX_ZERO_SHARE:
        return "the gradient is missing altogether (D6a, D6b)"
    if found.cosine is None or found.informative_share < MIN_INFORMATIVE_SHARE:
        return "the output hardly changes along small steps, which decides nothing"
    return ""
