"""Work items as flat tables: tensors that share their rows, so that a step covers all items at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(kw_only=True)
class TensorTable:
    """A table: each field is a tensor with one row per item, another table, or None."""

    def select_rows(self, index: Tensor) -> Self:
        """The items at ``index``, int64, in its order."""
        return replace(
            self, **{name: _select_rows(getattr(self, name), index) for name in self.__dataclass_fields__}
        )

    def append_rows(self, other: Self) -> Self:
        """These items, and behind them those of ``other``."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__}
        return replace(self, **{name: _append_rows(*pair) for name, pair in pairs.items()})


@dataclass(kw_only=True)
class WorkItems(TensorTable):
    """The items to search: an image, the index of the path, and optionally a target class or a radius."""

    rows: Tensor
    """(W,) int64: which image of the batch."""
    restarts: Tensor
    """(W,) int64: number of the path, part of the name of its random draws."""
    targets: Tensor | None = None
    """(W,) int64: the class that this item steers for; None: whatever the goal allows."""
    eps: Tensor | None = None
    """(W,) radius of this item's ball; None: the threat model's."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(kw_only=True)
class ActiveSet(WorkItems):
    """The items that are being searched."""

    originals: Tensor
    """(W, C, H, W)."""
    labels: Tensor
    """(W,)."""
    masks: Tensor | None
    """(W, 1, H, W) boolean, or None."""
    points: Tensor
    """(W, C, H, W): where each item is."""
    age: Tensor
    """(W,) int64, on the CPU: steps taken, which is known without asking the device. Only `grow` and `leap`
    change it."""
    best_points: Tensor
    """(W, C, H, W): the best point seen."""
    best_scores: Tensor
    """(W,): how good it is; -inf before the first look."""
    done: Tensor
    """(W,) boolean: has reached what it was looking for."""
    state: TensorTable
    """What the search keeps for each item."""

    def __post_init__(self) -> None:
        self._age_range: tuple[int, int] | None = None

    def get_age_range(self) -> tuple[int, int]:
        """The lowest and the highest age."""
        if self._age_range is None:
            self._age_range = compute_age_range(self.age)
        return self._age_range

    def increment_ages(self) -> None:
        """Every item is a step older."""
        youngest, oldest = self.get_age_range()
        self.age += 1
        self._age_range = youngest + 1, oldest + 1

    def advance_ages(self, steps: Tensor) -> None:
        """Each item is so many steps older, (W,) int64 on the CPU."""
        self.age = self.age + steps
        self._age_range = None


@dataclass(kw_only=True)
class Lookahead(TensorTable):
    """The predicted states of items several steps ahead."""

    points: Tensor
    """(M, C, H, W)."""


def compute_age_range(ages: Tensor) -> tuple[int, int]:
    """The lowest and the highest age, (W,) int64 on the CPU."""
    youngest, oldest = ages.aminmax()
    return int(youngest), int(oldest)


def _select_rows(value: Any, index: Tensor) -> Any:
    if value is None:
        return None
    if isinstance(value, TensorTable):
        return value.select_rows(index)
    return value.index_select(0, index.to(value.device))


def _append_rows(first: Any, second: Any) -> Any:
    if first is None:
        return None
    return first.append_rows(second) if isinstance(first, TensorTable) else torch.cat([first, second])
