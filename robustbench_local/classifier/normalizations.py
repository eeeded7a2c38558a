"""Channel means and standard deviations: those of published weights by name, and those a user writes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robustbench_local.errors import ConfigError, did_you_mean

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

_IMAGENET_NORMALIZATION: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

NORMALIZATIONS: dict[str, Normalization] = {
    "imagenet": _IMAGENET_NORMALIZATION,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "gtsrb": ((0.3337, 0.3064, 0.3171), (0.2672, 0.2564, 0.2629)),
    "mnist": ((0.1307,), (0.3081,)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5,), (0.5,)),
}
"""Channel means and standard deviations by their usual names, in pixel units of [0, 1]."""


def parse_normalization(
    normalize: tuple[Sequence[float], Sequence[float]] | str | None, channels: int | None = None
) -> Normalization | None:
    """Parse a normalization: a name, ``(mean, std)``, or ``None`` or ``"none"`` for none.

    Args:
        normalize: One of `NORMALIZATIONS`, or per-channel (or single) means and standard deviations.
        channels: Number of channels that the model takes, where known.

    Raises:
        ConfigError: If the name is unknown, the lengths do not fit, a mean is not finite, or a deviation is
            not positive.
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
    if not all(0 < value < math.inf for value in std):
        raise ConfigError(f"normalize needs standard deviations above 0, got {list(std)}")
    if not all(map(math.isfinite, mean)):
        raise ConfigError(f"normalize needs finite means, got {list(mean)}")
    return mean, std


def _find_normalization(name: str) -> Normalization:
    known = NORMALIZATIONS.get(name.lower())
    if known is None:
        remedy = did_you_mean(name, [*NORMALIZATIONS, "none"])
        raise ConfigError(f"unknown normalization {name!r}", remedy=remedy)
    return known
