"""The state of Square's search, and its proposals evaluated ahead."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.attacks.core.work_items import Lookahead, TensorTable


@dataclass(kw_only=True)
class SquareState(TensorTable):
    """The state of Square's search, one row per item."""

    stream_keys: Tensor
    """(W,): seed of its stream of random numbers."""
    block_windows: Tensor
    """(W, block, windows) int64: positions of the windows of a block of steps, counted within a channel.
    Under L2 and L1 there are two, followed by the index of the pattern."""
    block_colours: Tensor
    """(W, block, C): signed amplitude of a window: the radius under Linf, otherwise 1."""
    windows: Tensor
    """(W, windows): the entry of ``block_windows`` in ``front.points``."""
    budget: Tensor
    """(W,): the radius; under L2 and L1, the limit of ``used_budget``."""
    used_budget: Tensor
    """(W,): sum of the absolute changes, squared under L2, of ``front.best_points``; unused under Linf."""
    proposed_budget: Tensor
    """(W,): that of ``front.points``."""
    accepted_count: Tensor
    """(W,) int64: accepted proposals; counted only if several are evaluated together."""
    wasted_count: Tensor
    """(W,) int64, on the CPU: discarded evaluations, since an earlier proposal was accepted."""


@dataclass(kw_only=True)
class SquareLookahead(Lookahead):
    """Proposals that are evaluated ahead of their steps."""

    windows: Tensor
    """As in `SquareState`."""
    pixel_positions: Tensor
    """(M, positions) int64: its positions in an image's memory."""
    used_budget: Tensor
    """(M,): as ``proposed_budget`` in `SquareState`."""
