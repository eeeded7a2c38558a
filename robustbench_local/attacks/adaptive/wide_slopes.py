"""Mean slopes of functions that act on each value by itself, over an interval as wide as an attack's changes.

A steep activation, a ripple, a sawtooth or a staircase has slopes that say nothing about its course. Whatever
it is composed of, its mean slope over an interval is the difference of its values at the two ends, divided by
the length. While a `WideSlopeMode` is open, every chain of such functions is therefore computed three times:
as it is, and with its input moved up and down. Where the chain ends, its backward pass is the mean slope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from robustbench_local.attacks.adaptive.function_names import (
    LAYOUT_NAMES,
    SMOOTH_NAMES,
    STEEP_NAMES,
    changes_argument,
    normalize_name,
)
from robustbench_local.attacks.adaptive.straight_through import attach_gradient, carries_gradient

_LARGEST_BYTE = 255
_SMALLEST_SHARE = 1e-3
"""Smallest half of an interval, as a share of the values' size: rounding is 1e-7 of it."""


@dataclass(frozen=True)
class _Chain:
    """A tensor as a function of each value of another one.

    Attributes:
        value: The tensor.
        root: The other one, which carries a gradient; it can be broadcast to the tensor's shape.
        reach: Distance between the two ends, like the root.
        high: The tensor's value at the upper end.
        low: That at the lower one.
        is_steep: Whether a function on the way may be steep.
    """

    value: Tensor
    root: Tensor
    reach: Tensor
    high: Tensor
    low: Tensor
    is_steep: bool


class WideSlopeMode(TorchFunctionMode):
    """Gives chains of functions on single values their mean slope while open.

    Args:
        width: Half the length of the interval, in standard deviations of the chain's input in a row.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self._width = width
        self._chains: dict[int, _Chain] = {}
        self._ends: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Continue the chains of the arguments, or end them."""
        named = kwargs or {}
        raw_name = getattr(func, "__name__", "")
        is_hidden = raw_name.startswith(("__get__", "__set__")) or "out" in named
        if is_hidden or not torch.is_grad_enabled():
            return func(*args, **named)
        name = normalize_name(raw_name)
        if name == "getitem":
            return self._look_up(func, args)
        if name in LAYOUT_NAMES:
            return self._continue_layout(func, args, named)
        is_in_place = changes_argument(raw_name, named)
        if name in SMOOTH_NAMES or name in STEEP_NAMES:
            return self._continue_chain(func, args, named, name in STEEP_NAMES, is_in_place)
        if not is_in_place:
            return func(*self.end_chains(args), **self.end_chains(named))
        self._chains.pop(id(args[0]) if args else 0, None)
        return func(*args, **named)

    def end_chains(self, values: Any) -> Any:
        """Let the ends of steep chains among values have the mean slope."""
        return tree_map(self._end_chain, values)

    def _continue_chain(
        self, func: Callable[..., Any], args: Any, named: Any, is_steep: bool, is_in_place: bool
    ) -> Any:
        chains = self._collect_chains((args, named), is_in_place)
        if not chains:
            if is_in_place:
                self._chains.pop(id(args[0]), None)
                return func(*args, **named)
            return func(*self.end_chains(args), **self.end_chains(named))
        ends = []
        for side in ("high", "low"):
            moved = tree_map(lambda entry, side=side: _move_entry(entry, chains, side), (args, named))
            ends.append(_compute_quietly(func, *moved))
        result = func(*args, **named)
        high, low = ends
        first = next(iter(chains.values()))
        if not isinstance(result, Tensor) or high is None or low is None or high.shape != result.shape:
            if isinstance(result, Tensor):
                self._chains.pop(id(result), None)
            return result
        is_steep = is_steep or any(chain.is_steep for chain in chains.values())
        self._set_chain(_Chain(result, first.root, first.reach, high, low, is_steep))
        return result

    def _continue_layout(self, func: Callable[..., Any], args: Any, named: Any) -> Any:
        chain = self._chains.get(id(args[0])) if args else None
        if chain is None or chain.root.shape != chain.value.shape:
            return func(*self.end_chains(args), **self.end_chains(named))
        result = func(*args, **named)
        parts = [
            _compute_quietly(func, (part, *args[1:]), named) for part in (chain.reach, chain.high, chain.low)
        ]
        if not isinstance(result, Tensor) or any(part is None for part in parts):
            return result
        root = chain.root if result is args[0] else func(chain.root, *args[1:], **named)
        self._set_chain(_Chain(result, root, parts[0], parts[1], parts[2], chain.is_steep))
        return result

    def _look_up(self, func: Callable[..., Any], args: Any) -> Any:
        """Continue a chain through a table of numbers whose index it is."""
        table, index = args[:2]
        chain = self._chains.get(id(index)) if isinstance(index, Tensor) else None
        is_table = isinstance(table, Tensor) and table.ndim == 1 and not carries_gradient(table)
        if chain is None or not is_table or index.dtype == torch.bool:
            return func(*self.end_chains(args))
        result = func(*args)
        high, low = (table[end.long().clamp(0, len(table) - 1)] for end in (chain.high, chain.low))
        self._set_chain(_Chain(result, chain.root, chain.reach, high, low, is_steep=True))
        return result

    def _set_chain(self, chain: _Chain) -> None:
        self._chains[id(chain.value)] = chain  # the tensor is held, so that no other one gets its id
        self._ends.pop(id(chain.value), None)

    def _collect_chains(self, values: Any, is_in_place: bool) -> dict[int, _Chain]:
        """Return the chains of all arguments by id; none if they do not have one common root.

        A tensor with a gradient that is in no chain is the start of a new one.
        """
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        known = {id(tensor): self._chains[id(tensor)] for tensor in tensors if id(tensor) in self._chains}
        free = {
            id(tensor): tensor for tensor in tensors if carries_gradient(tensor) and id(tensor) not in known
        }
        if not known and len(free) == 1:
            (tensor,) = free.values()
            chain = self._start_chain(tensor, tensor.clone() if is_in_place else tensor)
            if chain is not None:
                known, free = {id(tensor): chain}, {}
        roots = {id(chain.root) for chain in known.values()}
        return known if len(roots) == 1 and not free else {}

    def _start_chain(self, tensor: Tensor, root: Tensor) -> _Chain | None:
        if not tensor.is_floating_point() or tensor.numel() < 2:
            return None
        values = tensor.detach()
        dims = tuple(range(1, values.ndim)) if values.ndim > 1 else (0,)
        spread = values.std(dim=dims, keepdim=True, correction=0).nan_to_num(0.0)
        size = values.abs().mean(dim=dims, keepdim=True).nan_to_num(0.0)
        half = torch.maximum(self._width * spread, _SMALLEST_SHARE * size).clamp_min(1e-12)
        half = half.expand(values.shape)
        chain = _Chain(tensor, root, 2 * half, values + half, values - half, is_steep=False)
        self._set_chain(chain)
        return chain

    def _end_chain(self, entry: Any) -> Any:
        chain = self._chains.get(id(entry)) if isinstance(entry, Tensor) else None
        if chain is None or not chain.is_steep or not entry.is_floating_point():
            return entry
        held = self._ends.get(id(entry))
        if held is None or held[0] is not entry:
            slope = (chain.high.to(entry.dtype) - chain.low.to(entry.dtype)) / chain.reach
            is_known = slope.isfinite()
            surrogate = chain.root * slope.nan_to_num(0.0, 0.0, 0.0)
            if carries_gradient(entry):
                surrogate = torch.where(is_known, surrogate, entry)
            held = (entry, attach_gradient(entry, surrogate))
            self._ends[id(entry)] = held
        return held[1]


def _move_entry(entry: Any, chains: dict[int, _Chain], side: str) -> Any:
    chain = chains.get(id(entry)) if isinstance(entry, Tensor) else None
    return entry if chain is None else getattr(chain, side).clone()


def _compute_quietly(func: Callable[..., Any], args: Any, named: Any) -> Any:
    """Call a function on moved values, unseen by other modes; None where it cannot take them."""
    name = getattr(func, "__name__", "")
    if name in {"byte", "to", "type"}:  # a byte would start again at zero
        args = (_limit_to_byte(args, named), *args[1:])
    with torch._C.DisableTorchFunction(), torch.no_grad():  # noqa: SLF001
        try:
            return func(*args, **named)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None


def _limit_to_byte(args: Any, named: Any) -> Any:
    options = (*args[1:], *named.values())
    is_byte = not options or any(option is torch.uint8 for option in options)
    return args[0].clamp(0, _LARGEST_BYTE) if is_byte and args[0].dtype != torch.bool else args[0]
