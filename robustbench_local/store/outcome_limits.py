"""Limits on outcomes from which on a diagnostic fires, in a report and in a single evaluation alike."""

from __future__ import annotations

from robustbench_local.statistics import Estimate

MIN_EXCESS_IMAGES = 3
MIN_EXCESS_SHARE = 0.01
"""Share of images that sound models do not exceed (diagnostics D8 and D9)."""
MAX_LOSS_GAP_SHARE = 0.05
"""Share of the images on which, for sound models, the margin loss may succeed and cross-entropy fail
(D17), and the same for a start at the image against one beside it."""
MIN_CHANCE_RATIO = 2.0
"""Clean accuracy, as a multiple of guessing, below which a warning appears (D22)."""
MIN_GUESSING_IMAGES = 20
"""Images from which on a clean accuracy near chance blocks (D22): fewer cannot tell good models from bad."""
MIN_BINARY_ACCURACY = 0.75
"""The same of two classes, half way between guessing and never erring (D22)."""


def exceeds_chance(count: int, images: int) -> bool:
    """Return whether the count exceeds what sound models show."""
    return count >= max(MIN_EXCESS_IMAGES, MIN_EXCESS_SHARE * images)


def is_guessing_accuracy(clean: Estimate, classes: int) -> bool:
    """Return whether a clean accuracy is not significantly better than guessing, on enough images (D22)."""
    return (
        clean.is_known
        and clean.n >= MIN_GUESSING_IMAGES
        and classes > 1
        and clean.low <= 1 / classes
        and clean.value < get_least_accuracy(classes)
    )


def get_least_accuracy(classes: int) -> float:
    """Return the least ordinary clean accuracy for a number of classes."""
    return MIN_BINARY_ACCURACY if classes <= MIN_CHANCE_RATIO else MIN_CHANCE_RATIO / classes
