"""Support for models that do not accept every batch size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_local.errors import ModelError

LogitsFunction = Callable[[Tensor], Tensor]


def forward_in_allowed_batches(
    answer: LogitsFunction, images: Tensor, *, fixed_size: int | None, min_size: int
) -> tuple[Tensor, bool]:
    """Return logits, (N, K), in batches of allowed sizes, and whether a single image now failed.

    Args:
        answer: The model, images to logits.
        images: (N, C, H, W).
        fixed_size: The only batch size to use; None for any.
        min_size: The smallest batch size: 1, or 2 where a single image is known to fail.
    """
    if fixed_size is not None and len(images):
        return forward_in_fixed_batches(answer, images, fixed_size), False
    if len(images) != 1:
        return answer(images), False
    if min_size > 1:
        return forward_doubled(answer, images), False
    return forward_single(answer, images)


def forward_in_fixed_batches(answer: LogitsFunction, images: Tensor, size: int) -> Tensor:
    """Return logits, (N, K), from batches of exactly ``size`` images, the last ones repeated if needed.

    Args:
        answer: The model, images to logits.
        images: (N, C, H, W), N at least 1.
        size: At least 1.
    """
    answers = []
    for part in torch.split(images, size):
        filled = part[torch.arange(size, device=part.device) % len(part)]
        answers.append(answer(filled)[: len(part)])
    return torch.cat(answers)


def forward_doubled(answer: LogitsFunction, image: Tensor) -> Tensor:
    """Return logits, (1, K), of a single image, (1, C, H, W), passed to the model twice in one batch."""
    return answer(torch.cat([image, image]))[:1]


def forward_single(answer: LogitsFunction, image: Tensor) -> tuple[Tensor, bool]:
    """Return logits, (1, K), of a single image, and whether the model accepts it only in a pair.

    Raises:
        ModelError: The model's error on the single image, if a pair fails as well.
    """
    try:
        return answer(image), False
    except ModelError:
        try:
            logits = forward_doubled(answer, image)
        except Exception:  # noqa: BLE001 - then it is not the number of images: the first error says more
            logits = None
        if logits is None:
            raise
    return logits, True
