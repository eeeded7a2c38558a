"""Passes: backward ones to the pixels, and counting: by image for our attacks, by total for others'."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_local.classifier.gradient_repair import (
    GradientFaults,
    find_faults,
    is_healthy,
    keep_backward_finite,
    remove_nonfinite,
)
from robustbench_local.errors import InvariantError

_finished = [0]


def pass_finished() -> None:
    """Say that a pass, or a step as long as one, has come to its end, whichever classifier it was of."""
    _finished[0] += 1


def count_finished_passes() -> int:
    """How often that was said in this process: while it grows, work goes on."""
    return _finished[0]


class GradientCounts(NamedTuple):
    """What was seen of one image's gradients."""

    steps: int
    """Looks at its gradient."""
    nonfinite_entries: int
    """Entries that were NaN or infinite, summed over them."""
    nonfinite_steps: int
    """Looks with such entries."""
    zero_steps: int
    """Looks at a gradient that was exactly zero, after the repair if there was one."""
    unconfirmed_steps: int
    """Looks at a repaired gradient, not zero, that a finite difference did not confirm."""


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
        self._backward, self._looks = torch.zeros_like(self._forward), torch.zeros_like(self._forward)
        self._faults = torch.zeros(4, count, dtype=torch.int64, device=device)

    @property
    def gradients(self) -> list[GradientCounts]:
        """What was seen of each image's gradients so far; waits for the device."""
        counts = torch.cat([self._looks[None], self._faults]).T.tolist()
        return [GradientCounts(*row) for row in counts]

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

    def add_look(self, rows: Tensor | None, size: int) -> None:
        """Count one look at the gradients of ``size`` images; ``rows`` says which, else the first ones."""
        _add(self._looks, rows, size)

    def add_faults(self, rows: Tensor | None, faults: GradientFaults) -> None:
        """Count what was wrong with gradients; ``rows`` says with those of which images, else the first."""
        counts = [faults.entries, faults.nonfinite, faults.zero, faults.unconfirmed]
        which = torch.arange(len(faults.entries)) if rows is None else rows
        found = torch.stack([count.to(self._faults) for count in counts])
        self._faults.index_add_(1, which.to(self._faults.device), found)

    def add_repairs(self, rows: Tensor | None, repaired: Tensor, spent: Meter) -> None:
        """Count what the repair of gradients took.

        Args:
            rows: Which image each row is, else the first ones.
            repaired: (N,) boolean: the rows whose gradients were repaired; others went along for nothing.
            spent: What it took, a row each.
        """
        which = torch.arange(len(repaired)) if rows is None else rows
        which = which.to(self._forward.device)
        for counts, more in ((self._forward, spent._forward), (self._backward, spent._backward)):
            counts.index_add_(0, which, more * repaired.to(more))
        self.total += spent.total


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

    Gradients that come back to the images are finite: those that are not are computed once more, with what
    is not finite taken out where it arises.

    Args:
        forward: Images (N, C, H, W) in [0, 1] to logits (N, K).
        total: ``[forward rows, backward rows]``, added to at every pass.
        model: The module behind it, so that ``parameters()`` and ``eval()`` reach it; None for a callable.
        on_faults: Told of images, (N, C, H, W), and what was wrong with their gradients.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        total: list[int],
        model: nn.Module | None,
        on_faults: Callable[[Tensor, GradientFaults], None] = lambda *_: None,
    ) -> None:
        super().__init__()
        self._images_to_logits = forward
        self._total = total
        self._on_faults = on_faults
        self.model = model
        self.training = model.training if model is not None else False

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, K), of images, (N, C, H, W); a backward pass through them counts when it happens."""
        slopes: list[Tensor] = []
        logits = self._images_to_logits(_Boundary.apply(images, partial(self._mended, slopes)))
        self._total[0] += len(images)
        if logits.requires_grad:
            logits.register_hook(partial(self._remember, slopes))  # type: ignore[no-untyped-call]
        return logits

    def _remember(self, slopes: list[Tensor], slope: Tensor) -> Tensor:
        """The backward pass comes in: keep what it starts from, without what is not finite."""
        pass_finished()
        self._total[1] += len(slope)
        finite = remove_nonfinite(slope)
        slopes[:] = [finite.detach()]
        return finite

    def _mended(self, slopes: list[Tensor], images: Tensor, gradient: Tensor) -> Tensor:
        """The backward pass goes out, with a gradient by the images."""
        if is_healthy(gradient):
            return gradient
        faults, mended = find_faults(gradient), gradient
        if bool(faults.nonfinite.any()):
            with torch.enable_grad():
                leaf = images.detach().requires_grad_()
                logits = self._images_to_logits(leaf)
                keep_backward_finite(logits)
                (repaired,) = torch.autograd.grad(logits, leaf, slopes[0])
            self._total[0] += len(images)
            self._total[1] += len(images)
            bad = faults.nonfinite.view(-1, 1, 1, 1)
            mended = torch.where(bad, remove_nonfinite(repaired), gradient)
            faults.zero.copy_(find_faults(mended).zero)
        self._on_faults(images, faults)
        return mended


class _Boundary(torch.autograd.Function):
    """Nothing forth; back, a finite gradient in torch's own order of memory, as other libraries expect."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, mend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.mend = mend
        ctx.save_for_backward(images)
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return ctx.mend(ctx.saved_tensors[0], slopes[0].contiguous()), None
