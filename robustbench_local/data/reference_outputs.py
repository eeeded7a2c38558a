"""Reference of a deployed model: its outputs on held-out images, and the statistics of these images.

A server compares what it receives with it: see `robustbench_local.serving.drift`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from robustbench_local.config.user_files import check_user_file
from robustbench_local.errors import DataError

IMAGE_STATISTICS = ("brightness", "contrast", "sharpness")
"""Statistics of an image, in this order: mean and standard deviation of its gray values, and the mean size of
their Laplacian, all of values in [0, 1]."""
MAX_REFERENCE_IMAGES = 500
"""More images make the tests of drift hardly sharper."""
MIN_REFERENCE_IMAGES = 50
"""Fewer images say too little about what is usual."""
_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class ReferenceOutputs:
    """Outputs of a model on reference images, and the images' statistics.

    Args:
        probabilities: (N, K), float32: the softmax of each image.
        statistics: (N, 3), float32: the `IMAGE_STATISTICS` of each image.
        source: Where the images come from, for readers.
        weights: SHA-256 of the weights file that the outputs are of; None if there is no such file.

    Raises:
        DataError: If shapes do not agree, a number is not finite, or there are too few images.
    """

    probabilities: Tensor
    statistics: Tensor
    source: str
    weights: str | None = None

    def __post_init__(self) -> None:
        count = len(self.probabilities)
        is_matching = self.probabilities.ndim == 2 and self.statistics.shape == (
            count,
            len(IMAGE_STATISTICS),
        )
        if not is_matching or not (self.probabilities.isfinite().all() and self.statistics.isfinite().all()):
            raise DataError("the reference is damaged", where=self.source, remedy="make it again")
        if count < MIN_REFERENCE_IMAGES:
            raise DataError(
                f"a reference of {count} images says too little",
                where=self.source,
                remedy=f"use {MIN_REFERENCE_IMAGES} or more",
            )

    def encode(self) -> bytes:
        """Return the content of a safetensors file."""
        tensors = {
            "probabilities": self.probabilities.float().contiguous(),
            "statistics": self.statistics.float().contiguous(),
        }
        return save(tensors, {"source": self.source, "weights": self.weights or ""})


def collect_reference(
    compute_probabilities: Callable[[Tensor], Tensor],
    images: Tensor,
    source: str,
    weights: str | None = None,
) -> ReferenceOutputs:
    """Compute the reference of a model.

    Args:
        compute_probabilities: Images, (N, C, H, W) in [0, 1], to the softmax of each, (N, K); rows that are
            not finite are left out.
        images: The reference images, as the model takes them.
        source: As in `ReferenceOutputs`.
        weights: As in `ReferenceOutputs`.

    Raises:
        DataError: If there are too few images.
    """
    parts = [compute_probabilities(part).float().cpu() for part in torch.split(images, _BATCH_SIZE)]
    probabilities = torch.cat(parts)
    finite = probabilities.isfinite().all(dim=1)
    return ReferenceOutputs(
        probabilities=probabilities[finite],
        statistics=compute_image_statistics(images[finite]),
        source=source,
        weights=weights,
    )


def compute_image_statistics(images: Tensor) -> Tensor:
    """Compute the `IMAGE_STATISTICS` of images.

    Args:
        images: (N, C, H, W) in [0, 1].

    Returns:
        (N, 3), float32.
    """
    gray = images.float().mean(dim=1, keepdim=True)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], device=images.device)
    edges = functional.conv2d(functional.pad(gray, (1, 1, 1, 1), mode="replicate"), kernel[None, None])
    flat = gray.flatten(1)
    return torch.stack(
        [flat.mean(dim=1), flat.std(dim=1, correction=0), edges.abs().flatten(1).mean(dim=1)], dim=1
    )


def name_reference_file(weights: Path) -> Path:
    """Return the file of the reference beside a weights file; its content is of the form safetensors."""
    return weights.with_suffix(".reference")


def read_reference(path: Path) -> ReferenceOutputs:
    """Read a reference.

    Raises:
        DataError: If the file is damaged.
    """
    check_user_file(path, where=path.name, error=DataError)
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            return ReferenceOutputs(
                probabilities=file.get_tensor("probabilities").float(),
                statistics=file.get_tensor("statistics").float(),
                source=str(about.get("source", path.name)),
                weights=about.get("weights") or None,
            )
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"the reference cannot be read: {reason}", where=path.name, remedy="remove it, or make it again"
        ) from None
