"""Passes: backward ones to the pixels, and counting: by image for our attacks, by total for others'."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.errors import InvariantError

_finished = [0]


def pass_finished() -> None:
    """Say that a pass, or a step as long as one, has come to its end, whichever classifier it was of."""
    _finished[0] += 1


def count_finished_passes() -> int:
    """How often that was said in this process: while it grows, work goes on."""
    return _finished[0]


class Meter:
    """Forward and backward passes spent on each image (trust invariant V12).

    Args:
        count: How many images are measured.
        device: Where to count; on the model's device, so that counting never waits for it.
        limit: Most forward passes an image may spend, its queries; None for no limit, which costs no time.

    Attributes:
        total: Passes of either kind over all images, for showing that work goes on.
        stages: For each image the stage of an ensemble that found its candidate; empty where none did.
    """

    def __init__(self, count: int, device: torch.device, limit: int | None = None) -> None:
        self.limit = limit
        self.total = 0
        self.stages = [""] * count
        self._forward = torch.zeros(count, dtype=torch.int64, device=device)
        self._backward = torch.zeros_like(self._forward)

    @property
    def forward(self) -> Tensor:
        """Forward passes of each image so far, int64, (count,), on the CPU."""
        return self._forward.cpu()

    @property
    def backward(self) -> Tensor:
        """Backward passes of each image so far, int64, (count,), on the CPU."""
        return self._backward.cpu()

    def left(self, rows: Tensor | None = None) -> Tensor | None:
        """Queries that images may still spend, int64, where it counts; None where there is no limit.

        Args:
            rows: Which images, by default all.
        """
        if self.limit is None:
            return None
        spent = self._forward if rows is None else self._forward[rows.to(self._forward.device)]
        return self.limit - spent

    def name_stage(self, rows: Tensor, stage: str) -> None:
        """Note which stage of an ensemble found the candidates of some images, (M,) int64."""
        for row in rows.tolist():
            self.stages[row] = stage

    def reserve(self, rows: Tensor | None, size: int) -> None:
        """Refuse a forward pass that an image has no query left for, before it happens.

        Args:
            rows: As in `add_forward`.
            size: As in `add_forward`.

        Raises:
            InvariantError: If an image would exceed the limit.
        """
        if self.limit is None:
            return
        after = self._forward.clone()
        _add(after, rows, size)
        over = (after > self.limit).nonzero().flatten()
        if len(over):
            raise InvariantError(
                f"{len(over)} of {len(after)} images would exceed their limit of {self.limit} queries, "
                f"the first in row {int(over[0])}",
                remedy="this is a bug of the attack: it has to ask for what is left",
            )

    def add_forward(self, rows: Tensor | None, size: int) -> None:
        """Count one forward pass of ``size`` images; ``rows`` says which, by default the first ones."""
        self.total += size
        _add(self._forward, rows, size)

    def add_backward(self, rows: Tensor | None, size: int, times: int = 1) -> None:
        """Count ``times`` backward passes of ``size`` images; ``rows`` says which, else the first ones."""
        self.total += size * times
        _add(self._backward, rows, size, times)


def uses_reentrant_checkpoints(losses: Tensor) -> bool:
    """Whether the graph behind losses has a checkpoint that only a whole backward pass goes through."""
    waiting, seen = [losses.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            return True
        waiting += [each for each, _ in node.next_functions]
    return False


def input_gradient(losses: Tensor, images: Tensor, *, whole: bool = False) -> Tensor | None:
    """The gradient of every image's loss with respect to its pixels.

    Args:
        losses: (N,), or (N, T) for T backward passes through one forward pass; each row from its own image.
        images: (N, C, H, W), the leaf that the losses were computed from.
        whole: Whether the pass goes to every leaf of the graph, as some checkpoints inside it demand.

    Returns:
        (N, C, H, W), or (N, T, C, H, W); None if no path leads from the losses to the pixels.
    """
    columns = [losses] if losses.ndim == 1 else list(losses.unbind(dim=1))
    found = []
    for place, each in enumerate(columns):
        more = place + 1 < len(columns)
        if whole:
            images.grad = None
            torch.autograd.backward(each.sum(), retain_graph=more)
            slope = images.grad
        else:
            (slope,) = torch.autograd.grad(each.sum(), images, retain_graph=more, allow_unused=True)
        if slope is None:
            return None
        found.append(slope.contiguous())  # as the images lie: sums of mixed orders are slow
    return found[0] if losses.ndim == 1 else torch.stack(found, dim=1)


def _add(counts: Tensor, rows: Tensor | None, size: int, times: int = 1) -> None:
    if rows is None:
        if size > len(counts):
            raise InvariantError(f"{size} images went through the model while {len(counts)} are measured")
        counts[:size] += times
        return
    if len(rows) != size:
        raise InvariantError(f"{len(rows)} row numbers for {size} images")
    rows = rows.to(counts.device)
    counts.index_add_(0, rows, _ones(size, counts.device), alpha=times)


@lru_cache(maxsize=256)
def _ones(size: int, device: torch.device) -> Tensor:
    """Not to be changed."""
    return torch.ones(size, dtype=torch.int64, device=device)


class CountedModule(nn.Module):
    """The classifier as other libraries want it, a module from images to logits, that counts its rows.

    Args:
        forward: Images (N, C, H, W) in [0, 1] to logits (N, K).
        total: ``[forward rows, backward rows]``, added to at every pass.
        model: The module behind it, so that ``parameters()`` and ``eval()`` reach it; None for a callable.
    """

    def __init__(
        self, forward: Callable[[Tensor], Tensor], total: list[int], model: nn.Module | None
    ) -> None:
        super().__init__()
        self._images_to_logits = forward
        self._total = total
        self.model = model
        self.training = model.training if model is not None else False

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, K), of images, (N, C, H, W); a backward pass through them counts when it happens."""
        logits = self._images_to_logits(_SameOrder.apply(images))
        self._total[0] += len(images)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        pass_finished()
        self._total[1] += len(gradient)


class _SameOrder(torch.autograd.Function):
    """Nothing, but that gradients come back in torch's own order of memory, as other libraries expect."""

    @staticmethod
    def forward(_context: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()
