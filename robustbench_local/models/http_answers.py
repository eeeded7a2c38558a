"""Answers of a model's service: scores or labels in JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError


def select_entry(answer: Any, key: str, *, where: str) -> Any:
    """Select the part of an answer that a dotted key names.

    Args:
        answer: The parsed JSON.
        key: Names of the steps, with dots between them.
        where: The service, for messages.

    Raises:
        ModelError: If there is no such part.
    """
    for step in key.split("."):
        if not isinstance(answer, dict) or step not in answer:
            available = f"the keys {', '.join(map(str, answer))}" if isinstance(answer, dict) else "no keys"
            raise ModelError(
                f"the answer has no {key!r}, at {step!r} there are {available}",
                where=where,
                remedy="set endpoint: {key: ...} to their path in the answer",
            )
        answer = answer[step]
    return answer


def parse_outputs(value: Any, count: int, access: str, *, key: str, where: str) -> np.ndarray:
    """Parse scores as float32 (N, K), or labels as int64 (N,); the classifier checks their shape.

    Args:
        value: The part of the answer that holds them.
        count: Number of images, N.
        access: ``"scores"`` or ``"labels"``.
        key: Name of the part, for messages.
        where: The service, for messages.

    Raises:
        ModelError: If it holds no numbers, or not those of N images.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise ModelError(f"{key!r} of the answer holds {str(value)[:60]!r}, not numbers", where=where)
    ndim = 1 if access == "labels" and array.dtype.kind != "f" else 2
    if count == 1 and array.ndim == ndim - 1:
        array = array[None]  # a single image may be answered without a list around it
    if array.ndim == 0 or len(array) != count:
        images = format_count(count, "image")
        raise ModelError(f"{key!r} of the answer has the shape {array.shape} for {images}", where=where)
    return array.astype(np.int64 if ndim == 1 else np.float32)
