"""Smoother backward passes of activations, for saturated and dead units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.operator_rules import OperatorCall, define_rule, measure_scale

MIN_SATURATED_SHARE = 0.5
"""Share of the units that are saturated from which an activation gets a smoother backward pass.

Measured: at most 0.1 in gates of sound networks; 0.86 to 1 in networks that mask gradients by saturation."""
SATURATION = {"sigmoid": 6.0, "tanh": 3.0}
"""Inputs beyond which the slope is below 1 % of the largest."""
SMOOTHED_OPERATORS = ("relu", "saturated sigmoid", "saturated tanh", "saturated clamp")
"""The operators that a view with smoothed activations replaces."""
_RELU_NAMES = ("relu", "relu_", "leaky_relu", "leaky_relu_", "relu6", "threshold", "threshold_", "rrelu")


@define_rule("sigmoid", "tanh", "sigmoid_", "tanh_")
def _unsaturate_activation(call: OperatorCall) -> Any:
    """Give a saturated activation the slope that it would have at a temperature matched to its inputs."""
    name = call.name.rstrip("_")
    source = call.find_source(f"saturated {name}")
    if source is None or source is not call.values[0]:
        return NotImplemented
    share = float((source.detach().abs() > SATURATION[name]).float().mean())
    if share < MIN_SATURATED_SHARE:
        return NotImplemented
    func: Callable[[Tensor], Tensor] = getattr(torch, name)
    result = call.attach_surrogate(
        f"saturated {name}", func(source.detach()), func(source / measure_scale(source))
    )
    return call.overwrite_argument(source, result) if call.name.endswith("_") else result


@define_rule("clamp", "clip", "hardtanh", "clamp_", "clip_", "hardtanh_", "clamp_min", "clamp_max")
def _unsaturate_clamp(call: OperatorCall) -> Any:
    """Give a clamp that cuts most values the gradient of the identity."""
    source = call.find_source("saturated clamp")
    if source is None or source is not call.values[0] or call.name.endswith(("_", "_min", "_max")):
        return NotImplemented
    low, high = (call.get_argument(1, "min"), call.get_argument(2, "max"))
    if call.name == "hardtanh":
        low, high = (call.get_argument(1, "min_val") or -1.0, call.get_argument(2, "max_val") or 1.0)
    if low is None or high is None:
        return NotImplemented
    values = source.detach()
    share = float(((values < low) | (values > high)).float().mean())
    if share < MIN_SATURATED_SHARE:
        return NotImplemented
    value = call.func(values, *call.values[1:], **call.named)
    return call.attach_surrogate("saturated clamp", value, source)


@define_rule(*_RELU_NAMES)
def _smooth_rectifier(call: OperatorCall) -> Any:
    """Give a rectifier the slope of a softplus, which reaches units that are off."""
    source = call.find_source("relu")
    if source is None or source is not call.values[0]:
        return NotImplemented
    in_place = call.name.endswith("_") or call.named.get("inplace", False)
    value = call.func(source.detach().clone(), *call.values[1:], **call.named)
    scale = measure_scale(source) / 2
    result = call.attach_surrogate("relu", value, scale * torch.nn.functional.softplus(source / scale))
    return call.overwrite_argument(source, result) if in_place and not source.is_leaf else result
