"""Likely wrong labels by confident learning.

Source: Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", JAIR
70: the off-diagonal entries of the confident joint (their method ``C_confusion`` without thresholds by hand).
cleanlab's ``filter_by="confident_learning"`` marks the same images, which a test checks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def find_confident_classes(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the class that each image confidently belongs to.

    A class counts for an image if its probability reaches the class's threshold: the mean probability of the
    class over the images that are labelled so. Of several such classes the likeliest is taken.

    Args:
        probabilities: (N, K), out-of-sample.
        labels: (N,), in ``range(K)``; every class occurs.

    Returns:
        (N,): the class, or the given label where no class reaches its threshold.
    """
    num_classes = probabilities.shape[1]
    thresholds = np.array([probabilities[labels == label, label].mean() for label in range(num_classes)])
    reaching = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    return np.where(reaching.max(axis=1) >= 0, reaching.argmax(axis=1), labels).astype(np.int64)
