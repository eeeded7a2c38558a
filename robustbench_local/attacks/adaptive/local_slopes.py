"""The gradient of one layer or function compared with its own finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from robustbench_local.attacks.adaptive.findings import LayerFault

_RELATIVE_STEPS = (1e-3, 1e-2, 1e-1)
"""Steps of the finite differences, in standard deviations of the input: the best agreement counts, for kinks
show at large steps, rounding at small ones, and flat stairs at all but the largest."""
_DIRECTIONS = 4
_TIE_BREAKING_STEP = 1e-2
"""Noise that breaks ties, in standard deviations of the input."""
MAX_LOCAL_ERROR = 0.3
"""Relative error above which a layer contradicts its gradient.

Three times the limit for the whole model: few directions are compared (measured: at most 0.08 for layers of
sound networks with kinks, at least 0.6 for masked ones)."""
MIN_FAULTY_SHARE = 0.25
"""Share of rows with a fault from which the layer is faulty."""
_TINY = 1e-300
_MIN_CHANGE_PER_NOISE = 20.0
_ROUNDING = 1e-6
_ROUNDING_PER_EPSILON = 0.25
"""Rounding of an output in half precision, in units of its format's epsilon."""


def find_local_fault(unit: Callable[[Tensor], Any], inputs: Tensor) -> LayerFault | None:
    """Compare the gradient of a function with its finite differences, in a fixed random combination.

    Args:
        unit: From a tensor like ``inputs`` to a tensor or a collection of them; may change its argument.
        inputs: (N, ...), floating point.

    Returns:
        The fault; None if the gradient is sound, or the function does not depend on its input.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = _break_ties(inputs.detach(), generator)
    leaf = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = select_output(unit(leaf.clone()))
    if output is None or output.numel() == 0:
        return None
    weights = torch.randn(output.shape, generator=generator).to(output)
    slope = _compute_slope(output, leaf, weights)
    if slope is not None and not bool(slope.isfinite().all()):
        return "nonfinite"
    is_rowwise = output.ndim > 0 and inputs.ndim > 0 and len(output) == len(inputs)
    measured, predicted, noise = _measure_changes(unit, inputs, slope, weights, is_rowwise, generator)
    changes = (measured.norm(dim=2) > _MIN_CHANGE_PER_NOISE * noise.norm(dim=2)).any(dim=0)
    if slope is None or not bool(changes.any()):
        return "cut" if bool(changes.any()) else None
    slopes = (slope.flatten(1) if is_rowwise and slope.ndim > 1 else slope.reshape(1, -1)).double()
    error = (measured - predicted).norm(dim=2) / measured.norm(dim=2).clamp_min(_TINY)
    if _compute_share((slopes == 0).all(dim=1) & changes) >= MIN_FAULTY_SHARE:
        return "zero"
    return "contradicted" if float(error.amin(dim=0)[changes].median()) > MAX_LOCAL_ERROR else None


def _compute_slope(output: Tensor, leaf: Tensor, weights: Tensor) -> Tensor | None:
    """Return the gradient of a weighted sum of an output; None if there is none or its code fails."""
    if not output.requires_grad:
        return None
    try:
        return torch.autograd.grad(output, leaf, weights, allow_unused=True)[0]
    except Exception:  # noqa: BLE001 - a custom backward may raise anything
        return None


def has_identity_slope(unit: Callable[[Tensor], Any], inputs: Tensor) -> bool:
    """Check that a function declares the gradient of the identity."""
    leaf = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = select_output(unit(leaf.clone()))
    if output is None or not output.requires_grad or output.shape != leaf.shape:
        return False
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    slope = _compute_slope(output, leaf, weights)
    return slope is not None and torch.allclose(slope, weights, atol=1e-5)


def _break_ties(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Move equal values apart, such as the zeros behind a ReLU, at which a maximum has no gradient."""
    noise = torch.randn(inputs.shape, generator=generator).to(inputs)
    return inputs + _TIE_BREAKING_STEP * inputs.std().nan_to_num(0.0) * noise


def _measure_changes(
    unit: Callable[[Tensor], Any],
    inputs: Tensor,
    slope: Tensor | None,
    weights: Tensor,
    is_rowwise: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return measured and predicted changes and their rounding, each (steps, rows, directions)."""
    spread = inputs.detach().std().clamp_min(1e-6) if inputs.numel() > 1 else inputs.abs().clamp_min(1e-6)
    rounding = max(_ROUNDING, _ROUNDING_PER_EPSILON * torch.finfo(weights.dtype).eps)
    results: list[list[Tensor]] = [[], [], []]
    for step in _RELATIVE_STEPS:
        for _ in range(_DIRECTIONS):
            direction = torch.randn(inputs.shape, generator=generator).sign().to(inputs) * step * spread
            ends = [inputs.detach() + side * direction for side in (1, -1)]
            with torch.no_grad():
                high, low = (select_output(unit(end.clone())) for end in ends)
            if high is None or low is None or high.shape != weights.shape or low.shape != weights.shape:
                raise RuntimeError("the shape of its output depends on the values of its input")
            scale = (weights.abs() * torch.maximum(high.abs(), low.abs())).double()
            difference = weights.double() * (high.double() - low.double())
            moved = (ends[0] - ends[1]).double()
            foretold = torch.zeros_like(moved) if slope is None else slope.double() * moved
            for values, kept in zip((difference, foretold, rounding * scale), results, strict=True):
                kept.append(
                    values.flatten(1).sum(dim=1) if is_rowwise and values.ndim > 1 else values.sum()[None]
                )
    measured, predicted, noise = (
        torch.stack(kept).view(len(_RELATIVE_STEPS), _DIRECTIONS, -1).transpose(1, 2).nan_to_num(0.0)
        for kept in results
    )
    count = max(1.0, weights.numel() / max(1, measured.shape[1]))
    return measured, predicted, noise / count**0.5  # rounding errors of many entries partly cancel


def select_output(output: Any) -> Tensor | None:
    """Return the first floating-point tensor of a module's output; None if there is none."""
    tensors = (value for value in tree_leaves(output) if isinstance(value, Tensor))
    return next((value for value in tensors if value.is_floating_point()), None)


def _compute_share(marks: Tensor) -> float:
    return float(marks.double().mean()) if len(marks) else 0.0
