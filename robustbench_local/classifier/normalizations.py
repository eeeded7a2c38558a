"""Channel means and standard deviations for published weights."""

from __future__ import annotations

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
