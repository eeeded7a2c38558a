"""Surrogate gradients of operators: the forward values stay, the backward pass gets another function's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robustbench_local.attacks.adaptive.straight_through import attach_gradient

ROUNDING = frozenset({"round", "floor", "ceil", "trunc", "fix"})
"""Names of functions whose surrogate is the identity."""


class SurrogateMode(TorchFunctionMode):
    """Replaces the gradients of operators while open, wherever ``is_active`` says so.

    Args:
        is_active: Whether the operators of the module that is running are replaced.
    """

    def __init__(self, is_active: Callable[[], bool]) -> None:
        super().__init__()
        self._is_active = is_active

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Iterable[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, with a surrogate gradient if it is one of those replaced."""
        values, named = tuple(args), kwargs or {}
        name = getattr(func, "__name__", "")
        if not self._is_active():
            return func(*values, **named)
        if name == "_set_grad_enabled":
            return None if not values[0] else func(*values)
        if name in ROUNDING and values[0].is_floating_point():
            surrogate = values[0]
            return attach_gradient(func(surrogate.detach(), *values[1:], **named), surrogate)
        if name == "detach" or (name == "__get__" and func is Tensor.data.__get__):  # type: ignore[attr-defined]
            return attach_gradient(values[0], values[0]) if _carries_gradient(values[0]) else func(*values)
        if name in {"sign", "sgn"}:
            scale = values[0].detach().abs().flatten(1).mean(dim=1).clamp_min(1e-12)
            smooth = torch.tanh(values[0] / scale.view(-1, *[1] * (values[0].ndim - 1)))
            return attach_gradient(func(*values, **named), smooth)
        return func(*values, **named)


def _carries_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
