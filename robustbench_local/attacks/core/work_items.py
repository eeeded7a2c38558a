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
        """Return the items at ``index``, int64, in its order."""
        return replace(
            self, **{name: _select_rows(getattr(self, name), index) for name in self.__dataclass_fields__}
        )

    def append_rows(self, other: Self) -> Self:
        """Return these items, followed by those of ``other``."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__}
        return replace(self, **{name: _append_rows(*pair) for name, pair in pairs.items()})


@dataclass(kw_only=True)
class WorkItems(TensorTable):
    """The items to search: an image, the index of the path, and optionally a target class or a radius."""

    rows: Tensor
    """(W,) int64: index of the image in the batch."""
    restarts: Tensor
    """(W,) int64: index of the path, part of the names of its random draws."""
    targets: Tensor | None = None
    """(W,) int64: target class of the item; None: any class that the goal allows."""
    eps: Tensor | None = None
    """(W,) radius of the item's ball; None: the threat model's radius."""

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
    """(W, C, H, W): the current point of each item."""
    age: Tensor
    """(W,) int64, on the CPU: number of steps, known without a device sync. Only `increment_ages` and
    `advance_ages` change it."""
    best_points: Tensor
    """(W, C, H, W): the best point so far."""
    best_scores: Tensor
    """(W,): its score; -inf before the first evaluation."""
    done: Tensor
    """(W,) boolean: whether the item has reached its goal."""
    state: TensorTable
    """The search's state of each item."""
    verdicts: TensorTable | None = None
    """What fresh draws said about the items' successes; None for a model that repeats its answers."""

    def __post_init__(self) -> None:
        self._age_range: tuple[int, int] | None = None

    def get_age_range(self) -> tuple[int, int]:
        """Return the lowest and the highest age."""
        if self._age_range is None:
            self._age_range = compute_age_range(self.age)
        return self._age_range

    def increment_ages(self) -> None:
        """Increase the age of every item by one step."""
        youngest, oldest = self.get_age_range()
        self.age += 1
        self._age_range = youngest + 1, oldest + 1

    def advance_ages(self, steps: Tensor) -> None:
        """Increase the age of each item by a number of steps, (W,) int64 on the CPU."""
        self.age = self.age + steps
        self._age_range = None


@dataclass(kw_only=True)
class Lookahead(TensorTable):
    """The predicted states of items several steps ahead."""

    points: Tensor
    """(M, C, H, W)."""


def compute_age_range(ages: Tensor) -> tuple[int, int]:
    """Return the lowest and the highest age, (W,) int64 on the CPU."""
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
