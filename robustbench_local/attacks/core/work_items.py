"""Flat work items: tables of tensors that share their rows, so that a search is written for all at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Rows:
    """A table: every field is a tensor with one row an item, another table, or None."""

    def pick(self, index: Tensor) -> Self:
        """The items at ``index``, int64, in its order."""
        return replace(
            self, **{name: _pick(getattr(self, name), index) for name in self.__dataclass_fields__}
        )

    def join(self, other: Self) -> Self:
        """These items, and behind them those of ``other``."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__}
        return replace(self, **{name: _join(*pair) for name, pair in pairs.items()})


@dataclass(kw_only=True)
class Items(Rows):
    """What is to be searched: an image, the number of the path, perhaps a class or a radius of its own."""

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
class Front(Items):
    """The items under way."""

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
    state: Rows
    """What the search keeps for each item."""

    def __post_init__(self) -> None:
        self._span: tuple[int, int] | None = None

    def span(self) -> tuple[int, int]:
        """The lowest and the highest age."""
        if self._span is None:
            self._span = span(self.age)
        return self._span

    def grow(self) -> None:
        """Every item is a step older."""
        youngest, oldest = self.span()
        self.age += 1
        self._span = youngest + 1, oldest + 1

    def leap(self, steps: Tensor) -> None:
        """Each item is so many steps older, (W,) int64 on the CPU."""
        self.age = self.age + steps
        self._span = None


@dataclass(kw_only=True)
class Foreseen(Rows):
    """Where items will be some steps ahead."""

    points: Tensor
    """(M, C, H, W)."""


def span(ages: Tensor) -> tuple[int, int]:
    """The lowest and the highest age, (W,) int64 on the CPU."""
    youngest, oldest = ages.aminmax()
    return int(youngest), int(oldest)


def _pick(value: Any, index: Tensor) -> Any:
    if value is None:
        return None
    if isinstance(value, Rows):
        return value.pick(index)
    return value.index_select(0, index.to(value.device))


def _join(first: Any, second: Any) -> Any:
    if first is None:
        return None
    return first.join(second) if isinstance(first, Rows) else torch.cat([first, second])
