"""Preprocessing from pixels in [0, 1] to a network's input: differentiable resizing and normalization."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.classifier.normalizations import NORMALIZATIONS, Normalization
from robustbench_local.errors import ConfigError, did_you_mean


def parse_normalization(
    normalize: tuple[Sequence[float], Sequence[float]] | str | None, channels: int | None = None
) -> Normalization | None:
    """Parse a normalization: a name, ``(mean, std)``, or ``None`` or ``"none"`` for none.

    Args:
        normalize: One of `NORMALIZATIONS`, or per-channel (or single) means and standard deviations.
        channels: Number of channels that the model takes, where known.

    Raises:
        ConfigError: If the name is unknown, the lengths do not fit, or a deviation is not positive.
    """
    if normalize is None or normalize == "none":
        return None
    if isinstance(normalize, str):
        return _find_normalization(normalize)
    try:
        mean, std = (tuple(float(value) for value in part) for part in normalize)
    except (TypeError, ValueError):
        raise ConfigError(
            f"cannot read normalize {normalize!r}",
            remedy="write a name such as imagenet, or two lists: means and standard deviations",
        ) from None
    if len(mean) != len(std) or not mean or (channels is not None and len(mean) not in (1, channels)):
        raise ConfigError(
            f"normalize has {len(mean)} means and {len(std)} standard deviations",
            remedy="give one of each, or as many of each as the model has channels",
        )
    if not all(value > 0 for value in std):
        raise ConfigError(f"normalize needs standard deviations above 0, got {list(std)}")
    return mean, std


def _find_normalization(name: str) -> Normalization:
    known = NORMALIZATIONS.get(name.lower())
    if known is None:
        remedy = did_you_mean(name, [*NORMALIZATIONS, "none"])
        raise ConfigError(f"unknown normalization {name!r}", remedy=remedy)
    return known


class Preprocessing:
    """Resizes, normalizes, and converts to the model's own dtype.

    Args:
        normalization: Means and standard deviations, or None.
        input_size: (H, W) that the model takes, or None for any.
        device: Device of the images.
        dtype: Data type of the model's computation.
    """

    def __init__(
        self,
        normalization: Normalization | None,
        input_size: tuple[int, int] | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.normalization, self.input_size, self._dtype = normalization, input_size, dtype
        # Stored on the device: building them at every call would wait for a copy from the host.
        self._mean_and_std = [
            torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            for values in normalization or ()
        ]

    @property
    def channels(self) -> int | None:
        """Number of image channels, where the normalization defines it; one value fits any number."""
        count = 0 if self.normalization is None else len(self.normalization[0])
        return count if count > 1 else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the model's input for images (N, C, H, W) in [0, 1]; the images if nothing is to do."""
        if self.input_size is not None and images.shape[-2:] != self.input_size:
            images = functional.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        if self._mean_and_std:
            mean, std = self._mean_and_std
            images = (images - mean) / std
        return images.to(self._dtype)
