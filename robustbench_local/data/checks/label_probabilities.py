"""Out-of-sample probabilities of classes from frozen features: kernel ridge regression, cross-validated.

The kernel is approximated by landmarks, so that time grows linearly with the number of images.

Sources: Williams and Seeger 2001, "Using the Nystrom method to speed up kernel machines", NeurIPS; Guo et al.
2017, "On calibration of modern neural networks", ICML (the temperature).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from robustbench_local.randomness import derive_seed

FOLDS = 5
_MAX_LANDMARKS = 1500
_RIDGE = 0.1
_LOG_TEMPERATURES = (-3.0, 5.0)


def compute_label_probabilities(
    features: Tensor, labels: NDArray[np.int64], num_classes: int, *, seed: int
) -> NDArray[np.float64]:
    """Return each image's probabilities under a model that was fitted without it.

    Args:
        features: (N, D).
        labels: (N,), in ``range(num_classes)``; every class has at least ``FOLDS`` images.
        num_classes: Number of classes, at least 2.
        seed: Seed of folds and landmarks.

    Returns:
        (N, num_classes), each row sums to 1. One temperature, the likeliest, is fitted to all of them.
    """
    generator = np.random.default_rng(derive_seed(seed, "label probabilities"))
    mapped = _map_features(features, generator)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), num_classes).double()
    folds = torch.from_numpy(_assign_folds(labels, generator))
    whole_gram, whole_moment = mapped.T @ mapped, mapped.T @ targets
    scores = torch.empty_like(targets)
    for fold in range(FOLDS):
        held_out = folds == fold
        part, part_targets = mapped[held_out], targets[held_out]
        gram = whole_gram - part.T @ part
        gram.diagonal().add_(_RIDGE)
        weights = torch.linalg.solve(gram, whole_moment - part.T @ part_targets)
        scores[held_out] = part @ weights
    return _calibrate_scores(scores, torch.from_numpy(labels)).numpy()


def _map_features(features: Tensor, generator: np.random.Generator) -> Tensor:
    """Return (N, M) vectors whose products approximate a Gaussian kernel, and a constant."""
    features = features.double()
    count = min(len(features), _MAX_LANDMARKS)
    landmarks = features[torch.from_numpy(generator.choice(len(features), count, replace=False))]
    distances = torch.cdist(landmarks, landmarks).square()
    width = distances.median().clamp_min(1e-12)
    kernel = torch.exp(-distances / width)
    kernel.diagonal().add_(1e-6)
    factor = torch.linalg.cholesky(kernel)
    across = torch.exp(-torch.cdist(features, landmarks).square() / width)
    mapped = torch.linalg.solve_triangular(factor, across.T, upper=False).T
    return torch.cat([mapped, torch.ones(len(mapped), 1, dtype=torch.float64)], dim=1)


def _assign_folds(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Assign the images of each class evenly to the folds."""
    folds = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        folds[rows] = (np.arange(len(rows)) + generator.integers(FOLDS)) % FOLDS
    return folds


def _calibrate_scores(scores: Tensor, labels: Tensor) -> Tensor:
    def compute_loss(log_scale: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores * np.exp(log_scale), labels))

    best = minimize_scalar(compute_loss, bounds=_LOG_TEMPERATURES, method="bounded").x
    return (scores * float(np.exp(best))).softmax(dim=1)
