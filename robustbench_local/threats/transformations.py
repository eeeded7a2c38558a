"""Threat models without a norm: spatial transformations and common corruptions.

Under these, an attack does not return images. It returns the *parameters* of the transformation, and the
harness checks them and applies the transformation to the original itself. So no candidate outside the family
is possible, no distance has to be measured, and a perturbation is a few numbers.

Spatial: (N, 3): the angle in degrees counterclockwise, then the shifts to the right and down as shares of the
side. Corruption: (N, 0): the threat model names the corruption, and the image's own stream draws its noise,
so there is no parameter, and every classifier gets the same corrupted images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.errors import ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.corruptions import corrupt_images
from robustbench_local.threats.threat_model import ThreatModel
from robustbench_local.threats.warp import rotate_and_translate

DEGREES_PER_SIDE = 300.0
"""Degrees that correspond to a shift by a whole side: 30 degrees go with a tenth."""
_RELATIVE_SLACK = 1 + 1e-6


def compute_limits(threat: ThreatModel) -> Tensor:
    """Return the largest magnitude of each parameter, (P,).

    Raises:
        ThreatError: If the threat model is a ball, which has no parameters.
    """
    if threat.norm == "spatial":
        shift = threat.eps / DEGREES_PER_SIDE
        return torch.tensor([threat.eps, shift, shift])
    if threat.norm == "corruption":
        return torch.zeros(0)
    raise ThreatError(f"the norm {threat.norm} bounds images, not parameters")


def find_parameter_violations(parameters: Tensor, images: Tensor, threat: ThreatModel) -> list[str | None]:
    """Check each image's parameters against the family.

    Args:
        parameters: The result of the attack.
        images: (N, C, H, W).
        threat: The family and its range.

    Returns:
        A violation or None for each image.
    """
    largest = compute_limits(threat)
    shape = (len(images), len(largest))
    if not isinstance(parameters, Tensor) or tuple(parameters.shape) != shape:
        got = tuple(parameters.shape) if isinstance(parameters, Tensor) else type(parameters).__name__
        expected = f"the parameters of the transformation, {shape}"
        return [f"the attack returned {got}; under {threat.norm} it returns {expected}"] * len(images)
    values = parameters.detach().cpu()
    inside = (values.abs() <= largest * _RELATIVE_SLACK).all(dim=1)  # false for NaN
    bounds = f"at most {threat.eps:g} degrees and {100 * threat.eps / DEGREES_PER_SIDE:g}% of the side"
    reason = f"the parameters leave the family: {bounds}"
    return [None if fits else reason for fits in inside.tolist()]


def apply_transformation(
    images: Tensor, parameters: Tensor, threat: ThreatModel, stream: RandomStream | None
) -> Tensor:
    """Apply a transformation of the family.

    Args:
        images: (N, C, H, W) in [0, 1].
        parameters: (N, P), inside the family.
        threat: The family.
        stream: The images' random numbers, for corruptions; only its seed and ids matter.

    Returns:
        Same shape, inside [0, 1]; for eps 0 the originals, bit for bit.

    Raises:
        ThreatError: If a corruption gets no random numbers.
    """
    if threat.norm == "spatial":
        return rotate_and_translate(images, parameters[:, 0].to(images), parameters[:, 1:].to(images))
    if stream is None:
        raise ThreatError(f"{threat.name} needs the images' random numbers")
    return corrupt_images(images, threat.transformation, int(threat.eps), stream)
