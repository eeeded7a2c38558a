"""Gradients at the pixels: missing, zero, tiny, not finite, or contradicted by finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.adaptive.answer_rounding import (
    AIMED_CHANGES_PER_NOISE,
    MIN_CHANGE_PER_MEASURED_NOISE,
    compute_agreement,
    follow_gradient,
    measure_rounding,
)
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


FOLLOWING_DIRECTIONS = 4
"""Directions that follow the gradient in half precision, where others hardly rise above the noise."""
MIN_RANDOM_COSINE = 0.85
"""Smallest cosine along the other directions, over all images, for a gradient in half precision that leaves
nothing out."""


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
    with fix_draws(classifier, stream) as seed_draws:
        seed_draws()
        logits, _, gradient = classifier.compute_gradient(
            images, lambda logits: compute_margin(logits, labels)
        )
    largest = logits.abs().amax(dim=1)
    rounding = measure_rounding(classifier, images, labels, stream)
    changes: list[list[Tensor]] = [[], [], []]
    for number in range(DIRECTIONS):
        direction = draw_signs(images, stream, number)
        steps: Sequence[float | Tensor] = rounding.random_steps if rounding.is_coarse else STEP_SIZES
        if rounding.is_coarse and number < FOLLOWING_DIRECTIONS:
            direction = follow_gradient(gradient, direction, stream, f"direction {number}")
            steps = [rounding.choose_step(gradient, largest, aimed) for aimed in AIMED_CHANGES_PER_NOISE]
        for step in steps:
            parts = measure_change(classifier, images, labels, stream, gradient, step * direction)
            for values, kept in zip(parts, changes, strict=True):
                kept.append(values)
    measured, predicted, sizes = (
        torch.stack(part).view(DIRECTIONS, len(STEP_SIZES), -1).permute(1, 2, 0) for part in changes
    )
    if not rounding.is_coarse:
        return _compare_slopes(measured, predicted, ROUNDING_SHARE * sizes)
    noise = rounding.compute_noise(sizes)
    return _compare_coarse_slopes(measured, predicted, noise)


def draw_signs(images: Tensor, stream: RandomStream, number: int) -> Tensor:
    """Draw a random direction of signs for each image, (N, C, H, W)."""
    draw = stream.sample_uniform(images.shape[1:], draw=f"sign {number}", device=images.device)
    return torch.where(draw < 0.5, -1.0, 1.0)


def measure_change(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    stream: RandomStream,
    gradient: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure a central difference of the margin loss.

    Args:
        classifier: In evaluation mode.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        stream: The images' random numbers.
        gradient: Of the loss, (N, C, H, W).
        offset: From the images to one of the two points, likewise.

    Returns:
        The change of the loss, the change that the gradient predicts, and the largest logit; (N,) each.
    """
    ends = [(images + side * offset).clamp(0, 1) for side in (1, -1)]
    losses, sizes = [], []
    with fix_draws(classifier, stream) as seed_draws, torch.no_grad():
        for end in ends:
            seed_draws()
            logits = classifier(end)
            losses.append(compute_margin(logits, labels).double())
            sizes.append(logits.abs().amax(dim=1).double())
    predicted = (gradient.double() * (ends[0] - ends[1]).double()).flatten(1).sum(dim=1)
    return losses[0] - losses[1], predicted, torch.maximum(*sizes)


def _compare_slopes(
    measured: Tensor, predicted: Tensor, noise: Tensor, *, is_measured: bool = False
) -> SlopeAgreement:
    """Compare slopes, (S, N, D): S step sizes, D directions; the better step size of each image counts.

    Noise that was measured is subtracted, and less of a change then informs.
    """
    limit = (MIN_CHANGE_PER_MEASURED_NOISE if is_measured else MIN_CHANGE_PER_NOISE) * noise.norm(dim=2)
    known = (measured.norm(dim=2) > limit) | (predicted.norm(dim=2) > limit)
    subtracted = noise if is_measured else torch.zeros_like(noise)
    cosine, error = compute_agreement(measured, predicted, subtracted)
    error = torch.where(known, error.clamp_max(1e6), torch.inf)
    best = error.argmin(dim=0, keepdim=True)
    unknown = ~known.any(dim=0)
    return SlopeAgreement(
        cosine=cosine.gather(0, best)[0].masked_fill(unknown, torch.nan),
        relative_error=error.gather(0, best)[0].masked_fill(unknown, torch.nan),
    )


def _compare_coarse_slopes(measured: Tensor, predicted: Tensor, noise: Tensor) -> SlopeAgreement:
    """Compare slopes of a model in half precision, (S, N, D).

    The first directions follow the gradient and do not show what it leaves out; the others are random, and
    their noise shrinks where all images are taken together.
    """
    parts = (measured, predicted, noise)
    found = _compare_slopes(*(part[..., :FOLLOWING_DIRECTIONS] for part in parts), is_measured=True)
    rest = [
        (part / noise.clamp_min(1e-300))[..., FOLLOWING_DIRECTIONS:].flatten(1)[:, None] for part in parts
    ]
    cosine = float(_compare_slopes(*rest, is_measured=True).cosine.nan_to_num(1.0)[0])
    if cosine >= MIN_RANDOM_COSINE:
        return found
    return SlopeAgreement(cosine=found.cosine.clamp_max(cosine), relative_error=found.relative_error)


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
