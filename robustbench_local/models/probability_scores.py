"""Scores from probabilities: their logarithms, so that margins do not vanish where a softmax saturates."""

from __future__ import annotations

import numpy as np

MIN_PROBABILITY = float(np.finfo(np.float32).tiny)
"""Probabilities below the smallest normal float32 count as this."""


MAX_SUM_ERROR = 0.01
"""Largest distance from 1 of the sum of a row of probabilities, which may be half-precision."""


def convert_where_probabilities(values: np.ndarray) -> np.ndarray:
    """Return rows that are probabilities as `convert_probabilities` does, and other rows unchanged.

    Args:
        values: Probabilities or logits, (N, K), of a model that does not say which.

    Returns:
        (N, K), float32; the largest score of each row is where it was.
    """
    is_probability = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= MAX_SUM_ERROR)
    scores = np.asarray(values, np.float32)
    return np.where(is_probability[:, None], convert_probabilities(scores), scores)


def convert_probabilities(values: np.ndarray, step: float | None = None) -> np.ndarray:
    """Return log(p / max p) of each row: logits up to a constant for each image, the largest of them 0.

    The order of the classes stays, also between probabilities that differ in their last bit.

    Args:
        values: Probabilities, (N, K).
        step: Distance of two quantized probabilities; 0 then counts as half of it. None: they are floats.

    Returns:
        (N, K), float32. NaN stays.
    """
    floor = MIN_PROBABILITY if step is None else step / 2
    exact = np.maximum(values.astype(np.float64), floor)
    scores: np.ndarray = np.log(exact / exact.max(axis=1, keepdims=True)).astype(np.float32)
    return scores
