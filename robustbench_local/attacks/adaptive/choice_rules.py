"""Surrogates of choices by rank: argmax, top-k masks, nearest codes of a codebook, bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.operator_rules import OperatorCall, define_rule, measure_scale
from robustbench_local.attacks.adaptive.rank_rules import estimate_ranks, spread_chosen_values
from robustbench_local.attacks.adaptive.straight_through import attach_gradient, carries_gradient

MAX_BOUNDARIES = 4096
"""Number of bin boundaries up to which their mean spacing is computed."""


@dataclass(frozen=True)
class IndexChoice:
    """The scores that an index was chosen by.

    Attributes:
        scores: Carries the gradient; the chosen ones are the largest.
        dim: Dimension along which they compete, not negative.
        distance: Score minus that of the last chosen one.
        is_single: Whether one is chosen in each row.
    """

    scores: Tensor
    dim: int
    distance: Tensor
    is_single: bool

    def compute_mask(self) -> Tensor:
        """Return a smooth mask of the chosen ones, as the scores."""
        return torch.sigmoid(self.distance / measure_scale(self.distance))

    def compute_shares(self) -> Tensor:
        """Return a softmax over the scores, the competing dimension last."""
        spread = measure_scale(self.scores - self.scores.mean(dim=self.dim, keepdim=True))
        return (self.scores / spread).softmax(dim=self.dim).movedim(self.dim, -1)


@define_rule("topk", "kthvalue", "sort", "argsort", "max", "min", "argmax", "argmin", "msort")
def _note_choice(call: OperatorCall) -> Any:
    result = call.run_plainly()
    if call.name in {"topk", "kthvalue", "sort"}:
        result = spread_chosen_values(call, result)
    source = call.find_source("choice")
    if source is None:
        return _replace_ranks(call, result)
    if call.name in {"kthvalue", "msort"} or source.ndim == 0:
        return result
    index = result[1] if isinstance(result, tuple) else result
    if not isinstance(index, Tensor) or index.is_floating_point():
        return result
    single = call.name in {"max", "min", "argmax", "argmin"}
    dim, smallest = _read_options(call)
    if dim is None:
        return result
    scores = -source if smallest else source
    dim = dim % source.ndim
    lookup = index if index.ndim == source.ndim else index.unsqueeze(dim)
    if lookup.ndim != source.ndim:
        return result
    last = scores.detach().gather(dim, lookup).amin(dim=dim, keepdim=True)
    call.mode.set_choice(index, IndexChoice(scores, dim, scores - last, single))
    return result


def _replace_ranks(call: OperatorCall, result: Any) -> Any:
    """The order of an order is the rank of each value."""
    choice = call.mode.get_choice(call.values[0]) if call.name in {"argsort", "sort"} else None
    if choice is None or choice.is_single or call.values[0].shape != choice.scores.shape:
        return result
    dim, is_ascending = _read_options(call)
    if dim is None or dim % choice.scores.ndim != choice.dim or not call.mode.is_active("rank"):
        return result
    ranks = estimate_ranks(choice.scores, choice.dim)
    ranks = ranks if is_ascending else choice.scores.shape[choice.dim] - 1 - ranks
    order = result if isinstance(result, Tensor) else result[1]
    call.attach_surrogate("rank", order, ranks)
    return result


def _read_options(call: OperatorCall) -> tuple[int | None, bool]:
    """Return the dimension of a choice, and whether the smallest are chosen."""
    named = call.named
    if call.name in {"argmax", "argmin", "max", "min"}:
        dim = call.get_argument(1, "dim")
        return (dim if isinstance(dim, int) else None), call.name in {"argmin", "min"}
    if call.name == "topk":
        dim, largest = call.get_argument(2, "dim"), call.get_argument(3, "largest")
        return (-1 if dim is None else dim), largest is False
    dim, descending = named.get("dim"), named.get("descending", False)
    for value in call.values[1:]:
        if isinstance(value, bool):
            descending = value
        elif isinstance(value, int):
            dim = value
    return (-1 if dim is None else dim), not descending


_SAME_ORDER = (
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "clone", "unflatten",
)  # fmt: skip


@define_rule(*_SAME_ORDER)
def _keep_choice(call: OperatorCall) -> Any:
    choice = call.mode.get_choice(call.values[0]) if call.values else None
    if choice is None:
        return NotImplemented
    value = call.run_plainly()
    call.mode.set_choice(value, choice)
    return value


@define_rule("stack")
def _stack_choices(call: OperatorCall) -> Any:
    """Join the labels of several classifiers, before a vote."""
    entries, dim = call.values[0], call.get_argument(1, "dim") or 0
    choices = [call.mode.get_choice(entry) for entry in entries]
    if any(choice is None or not choice.is_single for choice in choices):
        return NotImplemented
    value = call.run_plainly()
    scores = torch.stack([choice.scores.movedim(choice.dim, -1) for choice in choices if choice], dim=dim)
    distance = scores - scores.detach().amax(dim=-1, keepdim=True)
    call.mode.set_choice(value, IndexChoice(scores, scores.ndim - 1, distance, is_single=True))
    return value


@define_rule("__getitem__")
def _look_up_code(call: OperatorCall) -> Any:
    """Return entries of a table for chosen indices, or slices of them."""
    table, index = call.values[:2]
    choice = call.mode.get_choice(index)
    if choice is not None and isinstance(table, Tensor):
        return _mix_rows(call, table, index, choice)
    shadow = call.mode.get_shadow(index) if isinstance(index, Tensor) else None
    if shadow is not None and isinstance(table, Tensor) and table.is_floating_point():
        return _interpolate_rows(call, table, index, shadow)
    source = call.mode.get_choice(table)
    if source is None:
        return NotImplemented
    part = call.run_plainly()  # the first of the sorted, or one row of several
    if isinstance(part, Tensor):
        lookup_dim = source.dim
        if part.ndim == table.ndim and part.shape[:lookup_dim] == table.shape[:lookup_dim]:
            last = source.scores.detach().gather(lookup_dim, part).amin(dim=lookup_dim, keepdim=True)
            call.mode.set_choice(
                part, IndexChoice(source.scores, lookup_dim, source.scores - last, source.is_single)
            )
    return part


@define_rule("embedding", "index_select")
def _look_up_embedding(call: OperatorCall) -> Any:
    if call.name == "embedding":
        index, table = call.values[:2]
    else:
        table, dim, index = call.values[:3]
        if dim != 0:
            return NotImplemented
    choice = call.mode.get_choice(index)
    return NotImplemented if choice is None else _mix_rows(call, table, index, choice)


def _mix_rows(call: OperatorCall, table: Tensor, index: Tensor, choice: IndexChoice) -> Any:
    """Return rows of a table with the gradient of their mixture by the softmax of the scores."""
    value = call.run_plainly()
    shares = choice.compute_shares()
    fits = (
        choice.is_single
        and table.is_floating_point()
        and table.ndim > 0
        and table.shape[0] == shares.shape[-1]
    )
    if not fits or shares.numel() != index.numel() * shares.shape[-1]:
        return value
    mixture = shares.reshape(-1, shares.shape[-1]) @ table.detach().reshape(len(table), -1).to(shares.dtype)
    return call.attach_surrogate("argmax", value, mixture.reshape(value.shape))


def _interpolate_rows(call: OperatorCall, table: Tensor, index: Tensor, shadow: Tensor) -> Any:
    """Return entries of a list of levels with the gradient of the line through the first and the last."""
    value = call.run_plainly()
    if index.dtype == torch.bool or table.ndim != 1 or value.shape != shadow.shape or len(table) < 2:
        return value
    slope = (table[-1] - table[0]).detach() / (len(table) - 1)
    return attach_gradient(value, shadow * slope)


@define_rule("one_hot")
def _replace_one_hot(call: OperatorCall) -> Any:
    choice = call.mode.get_choice(call.values[0])
    value = call.run_plainly()
    if choice is not None and choice.is_single:
        shares = choice.compute_shares()
        if shares.numel() == value.numel():
            return call.attach_surrogate("argmax", value, shares.reshape(value.shape))
    return value


@define_rule("scatter", "scatter_")
def _replace_top_mask(call: OperatorCall) -> Any:
    """Write into the places of the chosen ones: a constant makes a mask of them, their values keep them."""
    target, dim, index = call.values[:3]
    choice = call.mode.get_choice(index)
    filling = call.get_argument(3, "src")
    filling = call.named.get("value", 1.0) if filling is None else filling
    if choice is None or choice.scores.shape != target.shape or dim % target.ndim != choice.dim:
        return NotImplemented
    value = torch.scatter(target.detach(), dim, index, _detach_value(filling))
    written = choice.scores if carries_gradient(filling) else _average_value(filling)
    mask = choice.compute_mask()
    result = call.attach_surrogate(
        "top-k mask", value, mask * written + (1 - mask) * target.clone(), choice.distance
    )
    if not call.name.endswith("_"):
        return result
    call.overwrite_argument(target, result)
    shadow = call.mode.get_shadow(result)
    if shadow is not None:
        call.mode.set_shadow(target, shadow)
    return target


def _detach_value(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _average_value(value: Any) -> float:
    return float(value.detach().float().mean()) if isinstance(value, Tensor) else float(value)


@define_rule("bucketize", "searchsorted")
def _replace_bins(call: OperatorCall) -> Any:
    position = 0 if call.name == "bucketize" else 1
    source = call.find_source("bins", position)
    boundaries = call.values[1 - position] if len(call.values) > 1 else call.named.get("boundaries")
    if source is None or not isinstance(boundaries, Tensor) or boundaries.ndim != 1 or len(boundaries) < 1:
        return NotImplemented
    spacing = (boundaries[-1] - boundaries[0]) / max(1, len(boundaries) - 1)
    spacing = spacing if float(spacing) > 0 else torch.ones_like(spacing)
    return call.attach_surrogate("bins", call.run_plainly(), (source - boundaries[0]) / spacing)


@define_rule("quantize_per_tensor", "quantize_per_channel")
def _replace_quantization(call: OperatorCall) -> Any:
    source = call.find_source("quantize")
    if source is None:
        return NotImplemented
    value = call.func(call.values[0].detach(), *call.values[1:], **call.named)
    shadow = source.view_as(source)
    call.mode.set_shadow(value, shadow)
    call.mode.record("quantize", shadow)
    return value


@define_rule("dequantize", "int_repr")
def _restore_quantized(call: OperatorCall) -> Any:
    shadow = call.mode.get_shadow(call.values[0])
    if shadow is None:
        return NotImplemented
    value = call.run_plainly()
    if value.is_floating_point():
        return attach_gradient(value, shadow)
    call.mode.set_shadow(value, shadow)
    return value


@define_rule("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine")
def _replace_fake_quantization(call: OperatorCall) -> Any:
    """Its own gradient is the identity, but zero outside of the range that it represents."""
    source = call.find_source("quantize")
    if source is None:
        return NotImplemented
    return call.attach_surrogate(
        "quantize", call.func(call.values[0].detach(), *call.values[1:], **call.named), source
    )
