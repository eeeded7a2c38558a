"""Surrogates of comparisons: masks, binary images, gates and conditions computed from them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.operator_rules import OperatorCall, define_rule, measure_scale
from robustbench_local.attacks.adaptive.straight_through import attach_gradient, can_carry_gradient

_SIGNS = {
    "gt": 1,
    "ge": 1,
    "greater": 1,
    "greater_equal": 1,
    "lt": -1,
    "le": -1,
    "less": -1,
    "less_equal": -1,
}


@define_rule(*_SIGNS)
def _replace_comparison(call: OperatorCall) -> Any:
    distance = _subtract_arguments(call)
    if distance is None:
        return NotImplemented
    distance = distance * _SIGNS[call.name]
    surrogate = torch.sigmoid(distance / measure_scale(distance))
    return call.attach_surrogate("threshold", call.run_plainly(), surrogate, distance)


@define_rule("eq", "__eq__", "ne", "__ne__")
def _replace_equality(call: OperatorCall) -> Any:
    """Equality with a maximum or a level is a threshold from both sides."""
    distance = _subtract_arguments(call)
    if distance is None:
        return NotImplemented
    closeness = torch.exp(-distance.abs() / measure_scale(distance))
    surrogate = closeness if "eq" in call.name else 1 - closeness
    return call.attach_surrogate("threshold", call.run_plainly(), surrogate, distance)


def _subtract_arguments(call: OperatorCall) -> Tensor | None:
    """Return the difference of two compared values, with a gradient; None if it has none."""
    carriers = [call.find_source("threshold", position) for position in (0, 1)]
    if len(call.values) < 2 or all(carrier is None for carrier in carriers):
        return None
    first, second = (
        value if carrier is None else carrier for value, carrier in zip(call.values, carriers, strict=True)
    )
    if not all(isinstance(value, Tensor | int | float) for value in (first, second)):
        return None
    difference: Tensor = first - second
    return difference


@define_rule("logical_not", "bitwise_not", "__invert__")
def _invert_mask(call: OperatorCall) -> Any:
    shadow = call.mode.get_shadow(call.values[0])
    if shadow is None:
        return NotImplemented
    value = call.run_plainly()
    call.mode.set_shadow(value, 1 - shadow if value.dtype == torch.bool else -shadow)
    return value


@define_rule(
    "logical_and", "bitwise_and", "__and__", "__rand__", "logical_or", "bitwise_or", "__or__", "__ror__",
    "logical_xor", "bitwise_xor", "__xor__", "__rxor__",
)  # fmt: skip
def _join_masks(call: OperatorCall) -> Any:
    shadows = [call.mode.get_shadow(value) for value in call.values[:2]]
    if all(shadow is None for shadow in shadows):
        return NotImplemented
    value = call.run_plainly()
    if value.dtype != torch.bool:  # a mask of bits: the lower ones are cut off
        kept = next(shadow for shadow in shadows if shadow is not None)
        call.mode.set_shadow(value, kept.expand(value.shape))
        return value
    first, second = (
        _convert_mask(entry, value) if shadow is None else shadow
        for entry, shadow in zip(call.values[:2], shadows, strict=True)
    )
    product = first * second
    overlap = 2 if "xor" in call.name else 1
    joined = product if "and" in call.name else first + second - overlap * product
    call.mode.set_shadow(value, joined)
    return value


@define_rule("__rshift__", "bitwise_right_shift", "__lshift__", "bitwise_left_shift")
def _shift_bits(call: OperatorCall) -> Any:
    shadow = call.mode.get_shadow(call.values[0])
    if shadow is None or isinstance(call.values[1], Tensor):
        return NotImplemented
    value = call.run_plainly()
    factor = 2.0 ** call.values[1]
    call.mode.set_shadow(
        value, shadow * factor if "left" in call.name or "lshift" in call.name else shadow / factor
    )
    return value


@define_rule("where")
def _blend_branches(call: OperatorCall) -> Any:
    if len(call.values) < 3:
        return NotImplemented
    condition, first, second = call.values[:3]
    share = call.mode.get_shadow(condition)
    if share is None:
        return NotImplemented
    value = call.run_plainly()
    return _attach_blend(call, value, share, first, second)


@define_rule("masked_fill", "masked_fill_")
def _blend_filled(call: OperatorCall) -> Any:
    target, mask, filling = call.values[:3]
    share = call.mode.get_shadow(mask)
    if share is None:
        return NotImplemented
    value = torch.masked_fill(target.detach(), mask, filling)
    result = _attach_blend(call, value, share, filling, target)
    return call.overwrite_argument(target, result) if call.name.endswith("_") else result


@define_rule("__setitem__")
def _blend_assigned(call: OperatorCall) -> Any:
    target, mask, filling = call.values[:3]
    share = call.mode.get_shadow(mask)
    if share is None or not target.is_floating_point() or mask.shape != target.shape:
        return NotImplemented
    if isinstance(filling, Tensor) and filling.numel() != 1:
        return NotImplemented
    value = target.detach().clone()
    value[mask] = filling
    call.overwrite_argument(target, _attach_blend(call, value, share, filling, target.clone()))
    return None


def _attach_blend(call: OperatorCall, value: Tensor, share: Tensor, first: Any, second: Any) -> Tensor:
    """Return a value with the gradient of a mixture: ``share`` of the first and the rest of the second."""
    first, second = (
        entry if (carrier := call.mode.find_carrier(entry)) is None else carrier for entry in (first, second)
    )
    finite = [_remove_infinities(entry) for entry in (first, second)]
    surrogate = share * finite[0] + (1 - share) * finite[1]
    if can_carry_gradient(value):
        return attach_gradient(value, surrogate)
    call.mode.set_shadow(value, surrogate)
    return value


def _remove_infinities(entry: Any) -> Any:
    if isinstance(entry, Tensor):
        return entry if entry.is_complex() else torch.nan_to_num(entry, 0, 0, 0)
    return 0.0 if isinstance(entry, float) and math.isinf(entry) else entry


def _convert_mask(entry: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(entry, device=like.device).float()
