"""Gradients at the pixels: missing, zero, tiny, not finite, or contradicted by finite differences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.adaptive.findings import GradientFindings
from robustbench_local.attacks.adaptive.fixed_draws import fix_draws
from robustbench_local.attacks.core.losses import compute_cross_entropy, compute_margin
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ModelError
from robustbench_local.randomness import RandomStream

DIRECTIONS = 8
"""Number of random sign directions of the finite differences."""
STEP_SIZES = (4e-3, 5e-4)
"""Pixel changes of the finite differences. Networks with kinks curve within the larger one, and the rounding
of float32 shows at the smaller one: the better agreement counts."""
TINY_GRADIENT = 1e-10
"""Largest entry of a gradient that has effectively vanished: far below what float32 sums resolve."""
MIN_CHANGE_PER_NOISE = 20.0
"""Norm of the measured differences, in units of their rounding, from which they are informative."""


ROUNDING_SHARE = 1e-6
"""Rounding of a difference of logits in float32, as a share of the largest logit."""
JITTER = 0.4 / 255
"""Largest change of the pixels before the comparison: it breaks the ties between neighbors on the 8-bit grid,
at which a median or a maximum has no gradient."""


@dataclass(frozen=True)
class SlopeAgreement:
    """The slopes of one image's loss as measured and as predicted, over all directions."""

    cosine: Tensor
    """(N,), NaN where nothing is informative."""
    relative_error: Tensor
    """(N,), likewise."""


def check_gradients(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> GradientFindings:
    """Check the gradients of a classifier at the pixels.

    Args:
        classifier: In evaluation mode.
        images: (N, C, H, W) in [0, 1], correctly classified where there are such.
        labels: (N,).
        stream: The images' random numbers.

    Returns:
        The findings; a model without a gradient has no shares.
    """
    if classifier.access != "gradients":
        return GradientFindings(
            has_graph=False, has_access=False, error=f"gives {classifier.access} only", images=len(images)
        )
    with fix_draws(classifier, stream) as seed_draws:
        try:
            seed_draws()
            with classifier.count_passes(len(images)) as counter:
                _, _, margin = classifier.compute_gradient(
                    images, lambda logits: compute_margin(logits, labels)
                )
            _copy_counts(classifier, counter.total_passes, len(images))
            seed_draws()
            _, _, entropy = classifier.compute_gradient(
                images, lambda logits: compute_cross_entropy(logits, labels)
            )
        except ModelError as error:
            has_graph = "no gradient path" not in error.what
            text = error.what if has_graph else ""
            return GradientFindings(has_graph=has_graph, error=text, images=len(images))
    nonfinite = [counts.nonfinite_steps > 0 for counts in counter.gradient_counts]
    agreement = compare_with_differences(classifier, images, labels, stream)
    informative = ~agreement.cosine.isnan()
    some = bool(informative.any())
    peaks = [gradient.flatten(1).abs().amax(dim=1) for gradient in (margin, entropy)]
    return GradientFindings(
        has_graph=True,
        zero_margin_share=_compute_mean(peaks[0] == 0),
        tiny_margin_share=_compute_mean(peaks[0] < TINY_GRADIENT),
        zero_cross_entropy_share=_compute_mean(peaks[1] == 0),
        tiny_cross_entropy_share=_compute_mean(peaks[1] < TINY_GRADIENT),
        nonfinite_share=sum(nonfinite) / max(1, len(nonfinite)),
        cosine=float(agreement.cosine[informative].median()) if some else None,
        relative_error=float(agreement.relative_error[informative].median()) if some else None,
        informative_share=_compute_mean(informative),
        images=len(images),
    )


def compare_with_differences(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> SlopeAgreement:
    """Compare gradients of the margin loss with its central differences along random sign directions.

    Args:
        classifier: In evaluation mode.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        stream: The images' random numbers, which the directions are drawn from.
    """
    noise_draw = stream.sample_uniform(images.shape[1:], draw="jitter", device=images.device)
    images = (images + JITTER * (2 * noise_draw - 1)).clamp(0, 1)
    gradient = compute_margin_gradient(classifier, images, labels, stream)
    measured, predicted, noise = [], [], []
    with fix_draws(classifier, stream) as seed_draws, torch.no_grad():
        for number in range(DIRECTIONS):
            signs = stream.sample_uniform(images.shape[1:], draw=f"sign {number}", device=images.device)
            direction = torch.where(signs < 0.5, -1.0, 1.0)
            for step in STEP_SIZES:
                ends = [(images + side * step * direction).clamp(0, 1) for side in (1, -1)]
                losses, sizes = [], []
                for end in ends:
                    seed_draws()
                    logits = classifier(end)
                    losses.append(compute_margin(logits, labels).double())
                    sizes.append(logits.abs().amax(dim=1).double())
                measured.append(losses[0] - losses[1])
                predicted.append((gradient.double() * (ends[0] - ends[1]).double()).flatten(1).sum(dim=1))
                noise.append(ROUNDING_SHARE * torch.maximum(*sizes))
    return _compare_slopes(
        *(
            torch.stack(part).view(DIRECTIONS, len(STEP_SIZES), -1).permute(1, 2, 0)
            for part in (measured, predicted, noise)
        )
    )


def _compare_slopes(measured: Tensor, predicted: Tensor, noise: Tensor) -> SlopeAgreement:
    """Compare slopes, (S, N, D): S step sizes, D directions; the better step size of each image counts."""
    size = measured.norm(dim=2)
    known = (size > MIN_CHANGE_PER_NOISE * noise.norm(dim=2)) | (
        predicted.norm(dim=2) > MIN_CHANGE_PER_NOISE * noise.norm(dim=2)
    )
    tiny = torch.finfo(torch.float64).tiny
    cosine = (measured * predicted).sum(dim=2) / (size * predicted.norm(dim=2)).clamp_min(tiny)
    error = (measured - predicted).norm(dim=2) / size.clamp_min(tiny)
    error = torch.where(known, error.clamp_max(1e6), torch.inf)
    best = error.argmin(dim=0, keepdim=True)
    unknown = ~known.any(dim=0)
    return SlopeAgreement(
        cosine=cosine.gather(0, best)[0].masked_fill(unknown, torch.nan),
        relative_error=error.gather(0, best)[0].masked_fill(unknown, torch.nan),
    )


def compute_margin_gradient(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> Tensor:
    """Compute the gradient of the margin loss with fixed draws, (N, C, H, W)."""
    with fix_draws(classifier, stream) as seed_draws:
        seed_draws()
        return classifier.compute_gradient(images, lambda logits: compute_margin(logits, labels))[2]


def compute_median_cosine(first: Tensor, second: Tensor) -> float:
    """Return the median cosine of the rows of two tensors; that with a zero row is 0, of two zero rows 1."""
    ours, theirs = (values.flatten(1).double() for values in (first, second))
    cosine = F.cosine_similarity(ours, theirs, dim=1)
    both_zero = (ours == 0).all(dim=1) & (theirs == 0).all(dim=1)
    return float(cosine.masked_fill(both_zero, 1.0).median())


def _copy_counts(classifier: Classifier, passes: int, count: int) -> None:
    """Count the passes of an inner counter in the open one: half of them are forward."""
    outer = classifier.open_counter
    if outer is not None:
        for _ in range(passes // (2 * max(1, count))):
            outer.add_forward(None, count)
            outer.add_backward(None, count)


def _compute_mean(marks: Tensor) -> float:
    return float(marks.float().mean()) if len(marks) else 0.0
