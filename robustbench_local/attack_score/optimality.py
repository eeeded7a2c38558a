"""Optimality: how near an attack's curve of robust accuracy comes to the curve of the best known distances.

Source: Cina et al. 2024, arXiv:2404.19460, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robustbench_local.statistics import Estimate

EXPLANATION = (
    "Optimality compares the distances that an attack finds with the smallest known ones: 1 means "
    "that no attack of the table found a nearer adversarial example of any image, 0 that it found none."
)
"""What the number is, in one sentence."""
_RESAMPLES = 1000
_LEVEL = 0.95
_MIN_SPAN_SHARE = 1e-9
"""Smallest area between the curves, as a share of the largest, that is more than rounding."""

FloatArray = npt.NDArray[np.float64]


def compute_envelope(distances: Sequence[Sequence[float]]) -> FloatArray:
    """Return the smallest distance of each image over all attacks, (N,); infinite where none succeeded.

    Args:
        distances: For each attack the distance of each image.
    """
    envelope: FloatArray = np.min(np.asarray(distances, dtype=np.float64), axis=0)
    return envelope


def find_distance_limit(envelope: FloatArray) -> float | None:
    """Return the radius at which the envelope's curve ends: its largest finite distance.

    None if no image has a distance above 0. The curve then falls nowhere.
    """
    reached = envelope[np.isfinite(envelope) & (envelope > 0)]
    return float(reached.max()) if len(reached) else None


def compute_optimality(distances: Sequence[float], envelope: FloatArray) -> float | None:
    """Return the local optimality of an attack on one model, from 0 to 1.

    The area under the curve of robust accuracy up to a radius D is the mean of the distances, each at most D.
    With A this area, B that of the envelope and C the clean accuracy, it is 1 - (A - B) / (C * D - B).

    Args:
        distances: Distance of each image, (N,): 0 for a misclassified clean image, infinite without success.
        envelope: Smallest known distance of each image, (N,).

    Returns:
        None if no other attack could do better or worse: all distances of the envelope are the same.
    """
    return _compute_from_arrays(np.asarray(distances, dtype=np.float64), envelope)


def estimate_optimality(
    pairs: Sequence[tuple[Sequence[float], FloatArray]], seed: int = 0
) -> Estimate | None:
    """Return the mean of the local optimality over models with its bootstrap interval over images.

    Args:
        pairs: For each model the attack's distances and the envelope.
        seed: Seed of the resampling.

    Returns:
        None if the optimality on one of the models is undefined. ``n`` is the number of images of all models.
    """
    values = [compute_optimality(distances, envelope) for distances, envelope in pairs]
    known = [value for value in values if value is not None]
    if not values or len(known) < len(values):
        return None
    generator = np.random.default_rng(seed)
    resampled = [
        _estimate_resampled_values(np.asarray(distances, dtype=np.float64), envelope, generator)
        for distances, envelope in pairs
    ]
    means = np.mean(np.stack(resampled), axis=0)
    low, high = np.nanquantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    count = sum(len(envelope) for _, envelope in pairs)
    value = float(np.mean(known))
    low, high = _clip_rounding(min(low, value)), _clip_rounding(max(high, value))
    return Estimate(value=value, low=low, high=high, n=count, level=_LEVEL)


def compute_robust_accuracies(distances: Sequence[float], radii: Sequence[float]) -> list[float]:
    """Return the curve of robust accuracy: the share of images without success within each radius."""
    array = np.asarray(distances, dtype=np.float64)
    return [float(np.mean(array > radius)) for radius in radii]


def _compute_from_arrays(distances: FloatArray, envelope: FloatArray) -> float | None:
    limit = find_distance_limit(envelope)
    if limit is None:
        return None
    area, best = np.minimum(distances, limit).mean(), np.minimum(envelope, limit).mean()
    span = float(limit * np.mean(envelope > 0) - best)
    return _clip_rounding(1 - (area - best) / span) if span > _MIN_SPAN_SHARE * limit else None


def _clip_rounding(value: float) -> float:
    """Return the value inside [0, 1], which only rounding can leave."""
    return float(min(max(value, 0.0), 1.0)) + 0.0  # not -0.0


def _estimate_resampled_values(
    distances: FloatArray, envelope: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """Return the optimality on resampled images, with the radius of the whole sample; NaN if undefined."""
    limit = find_distance_limit(envelope) or 0.0  # above 0, as the caller's optimality is defined
    rows = generator.integers(len(envelope), size=(_RESAMPLES, len(envelope)))
    area = np.minimum(distances, limit)[rows].mean(axis=1)
    best = np.minimum(envelope, limit)[rows].mean(axis=1)
    span = limit * (envelope > 0)[rows].mean(axis=1) - best
    return np.where(span > 0, 1 - (area - best) / np.where(span > 0, span, 1.0), np.nan)
