"""The state of Square's search, and its proposals evaluated ahead."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.attacks.core.work_items import Lookahead, TensorTable


@dataclass(kw_only=True)
class SquareState(TensorTable):
    """The state of Square's search, one row per item."""

    stream_keys: Tensor
    """(W,): what opens its stream of random numbers."""
    block_windows: Tensor
    """(W, block, windows) int64: where the windows of a block of steps lie, counted within a channel. Under
    L2 and L1 there are two, and behind them the number of the pattern."""
    block_colours: Tensor
    """(W, block, C): what a window gets, with its sign: the radius under Linf, else 1."""
    windows: Tensor
    """(W, windows): the entry of ``block_windows`` that ``front.points`` show."""
    budget: Tensor
    """(W,): the radius; under L2 and L1, what ``used_budget`` may grow to."""
    used_budget: Tensor
    """(W,): sum of the absolute changes, squared under L2, of ``front.best_points``; unused under Linf."""
    proposed_budget: Tensor
    """(W,): that of ``front.points``."""
    accepted_count: Tensor
    """(W,) int64: proposals that were accepted; counted where several are looked at together."""
    wasted_count: Tensor
    """(W,) int64, on the CPU: proposals that were looked at in vain, since one before them helped."""


@dataclass(kw_only=True)
class SquareLookahead(Lookahead):
    """Proposals that are evaluated ahead of their steps."""

    windows: Tensor
    """As in `SquareState`."""
    pixel_positions: Tensor
    """(M, positions) int64: where it is, in an image's memory."""
    used_budget: Tensor
    """(M,): as ``proposed_budget`` in `SquareState`."""
