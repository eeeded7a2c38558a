"""Smoother backward passes of activations, for saturated and dead units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.operator_rules import OperatorCall, define_rule, measure_scale
from robustbench_local.attacks.adaptive.rank_rules import CHOSEN_SCORES, CHOSEN_VALUES
from robustbench_local.attacks.adaptive.straight_through import carries_gradient

MIN_SATURATED_SHARE = 0.5
"""Share of the units that are saturated from which an activation is reported and gets another gradient.

Measured: at most 0.1 in gates of sound networks; 0.86 to 1 in networks that mask gradients by saturation."""
SATURATION = {"sigmoid": 6.0, "tanh": 3.0}
"""Inputs beyond which the slope is below 1 % of the largest."""
GENTLE_OPERATORS = frozenset({"relu", "sigmoid", "tanh", "clamp", "softmax", CHOSEN_VALUES, CHOSEN_SCORES})
"""Operators that are sound as they are: only views with smoother backward passes replace them."""
SMOOTHED_OPERATORS = GENTLE_OPERATORS | {"saturated sigmoid", "saturated tanh", "saturated clamp"}
"""The operators that a view with smoothed activations replaces."""
_RELU_NAMES = ("relu", "relu_", "leaky_relu", "leaky_relu_", "relu6", "threshold", "threshold_", "rrelu")


def _name_activation(name: str, is_saturated: Tensor) -> str:
    """Return the name of an activation as an operator, by the share of its units that are saturated."""
    return f"saturated {name}" if float(is_saturated.float().mean()) >= MIN_SATURATED_SHARE else name


@define_rule("sigmoid", "tanh", "sigmoid_", "tanh_")
def _unsaturate_activation(call: OperatorCall) -> Any:
    """Give an activation the slope that it would have at a temperature matched to its inputs."""
    name, values = call.name.rstrip("_"), call.values[0]
    if not carries_gradient(values):
        return NotImplemented
    operator = _name_activation(name, values.detach().abs() > SATURATION[name])
    if not call.mode.is_active(operator):
        return NotImplemented
    func: Callable[[Tensor], Tensor] = getattr(torch, name)
    result = call.attach_surrogate(operator, func(values.detach()), func(values / measure_scale(values)))
    return call.overwrite_argument(values, result) if call.name.endswith("_") else result


@define_rule("clamp", "clip", "hardtanh", "clamp_min", "clamp_max", "clip_min", "clip_max")
def _unsaturate_clamp(call: OperatorCall) -> Any:
    """Give a clamp the gradient of the identity."""
    values = call.values[0]
    low, high = _read_bounds(call)
    if not carries_gradient(values) or isinstance(low, Tensor) or isinstance(high, Tensor):
        return NotImplemented
    plain = values.detach()
    is_cut = torch.zeros_like(plain, dtype=torch.bool)
    # with one bound, or those of relu6, it is a rectifier, which cuts half of the values
    if low is not None and high is not None and not (low == 0 and high >= 6):
        is_cut = (plain < low) | (plain > high)
    operator = _name_activation("clamp", is_cut)
    if not call.mode.is_active(operator):
        return NotImplemented
    return call.attach_surrogate(operator, call.func(plain, *call.values[1:], **call.named), values)


def _read_bounds(call: OperatorCall) -> tuple[Any, Any]:
    if call.name == "hardtanh":
        low, high = call.get_argument(1, "min_val"), call.get_argument(2, "max_val")
        return (-1.0 if low is None else low), (1.0 if high is None else high)
    if call.name.endswith("_min"):
        return call.get_argument(1, "min"), None
    if call.name.endswith("_max"):
        return None, call.get_argument(1, "max")
    return call.get_argument(1, "min"), call.get_argument(2, "max")


@define_rule("softmax")
def _unsaturate_softmax(call: OperatorCall) -> Any:
    """Give a softmax the slope that it would have at a temperature matched to its inputs."""
    values, dim = call.values[0], call.get_argument(1, "dim")
    if not carries_gradient(values) or not isinstance(dim, int) or not call.mode.is_active("softmax"):
        return NotImplemented
    scale = measure_scale(values - values.detach().amax(dim=dim, keepdim=True))
    value = call.func(values.detach(), *call.values[1:], **call.named)
    return call.attach_surrogate("softmax", value, torch.softmax(values / scale, dim=dim))


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
