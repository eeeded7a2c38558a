"""Logits of images in parts whose activations are computed again in the backward pass.

Source: Chen et al. 2016, arXiv:1604.06174 (recomputation in place of stored activations). torch's own
`torch.utils.checkpoint` does the same, but imports the compiler first, for which there is no memory then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from robustbench_local.classifier.state_guard import RandomStates

LogitsFunction = Callable[[Tensor], Tensor]


def compute_in_parts(function: LogitsFunction, images: Tensor, size: int) -> Tensor:
    """Return logits, (N, K), of one part of the images after the other.

    Args:
        function: (N, C, H, W) to (N, K).
        images: (N, C, H, W).
        size: Images of a part, at least 1.

    Returns:
        The logits. Where gradients are recorded, the graph holds no activations: the backward pass of a part
        computes the part again, with the same random numbers, and only one part's are in memory at a time.
    """
    parts = torch.split(images, size)
    if not (torch.is_grad_enabled() and images.requires_grad):
        return torch.cat([function(part) for part in parts])
    held: list[_RecomputedPart] = []
    return torch.cat([_RecomputedPart(function, part, held).compute_logits() for part in parts])


class _RecomputedPart:
    """One part of the images, and the tensors that its backward pass needs, as long as it needs them.

    Args:
        function: See `compute_in_parts`.
        images: Those of the part.
        held: The part that holds its tensors at present; shared by all parts.
    """

    def __init__(self, function: LogitsFunction, images: Tensor, held: list[_RecomputedPart]) -> None:
        self._function, self._images, self._held = function, images, held
        self._randomness = RandomStates.from_process()
        self._count = 0
        self._tensors: list[Tensor] = []

    def compute_logits(self) -> Tensor:
        """Compute the logits and remember only how many tensors the backward pass will ask for."""
        with saved_tensors_hooks(self._count_tensor, self._get_tensor):
            return self._function(self._images)

    def _count_tensor(self, _tensor: Tensor) -> int:
        self._count += 1
        return self._count - 1

    def _get_tensor(self, index: int) -> Tensor:
        if self._held != [self]:
            self._recompute_tensors()
        if index >= len(self._tensors):
            raise RuntimeError("its forward records other operations each time: memory ran out for its graph")
        return self._tensors[index]

    def _recompute_tensors(self) -> None:
        """Compute the part again and hold what the backward pass needs; what another part holds is freed."""
        for other in self._held:
            other._tensors = []  # noqa: SLF001 - of the same class
        current = RandomStates.from_process()
        self._randomness.restore_states()
        tensors: list[Tensor] = []
        hold = partial(_hold_tensor, tensors)
        try:
            with torch.enable_grad(), saved_tensors_hooks(hold, _get_held_tensor):
                self._function(self._images.detach().requires_grad_())
        finally:
            current.restore_states()
        self._tensors, self._held[:] = tensors, [self]


def _hold_tensor(tensors: list[Tensor], tensor: Tensor) -> Tensor:
    """Hold a tensor outside of its graph: one that its own graph holds would never be freed."""
    tensors.append(tensor.detach())
    return tensors[-1]


def _get_held_tensor(tensor: Tensor) -> Tensor:
    return tensor
