"""Outputs of images in parts whose activations are computed again in the backward pass.

Source: Chen et al. 2016, arXiv:1604.06174 (recomputation in place of stored activations). torch's own
`torch.utils.checkpoint` does the same, but imports the compiler first, for which there is no memory then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from robustbench_local.classifier.state_guard import RandomStates

RowsFunction = Callable[..., Tensor]
"""Tensors with one row for each image, to outputs with one row for each."""


def compute_in_parts(
    function: RowsFunction,
    rows: Tensor | tuple[Tensor, ...],
    size: int | Sequence[int],
    *,
    trains_weights: bool = False,
    make_second: Callable[[], RowsFunction] | None = None,
) -> Tensor:
    """Return outputs, (N, K), of one part of the images after the other.

    Args:
        function: (N, C, H, W), or several tensors of N rows each, to (N, K).
        rows: Its argument, or its arguments.
        size: Images of a part, at least 1; or of each part.
        trains_weights: Whether gradients reach weights inside the function, too.
        make_second: Called before each part; returns what computes that part again, with the weights of now.
            By default the function itself.

    Returns:
        The outputs. Where gradients are recorded, the graph holds no activations: the backward pass of a part
        computes the part again, with the same random numbers and under the same autocast, and only one
        part's are in memory at a time.
    """
    inputs = (rows,) if isinstance(rows, Tensor) else rows
    is_list = not isinstance(size, int)
    split = [torch.split(one, list(size) if is_list else size) for one in inputs]  # type: ignore[arg-type]
    parts = list(zip(*split, strict=True))
    if len(parts) == 1:
        return function(*parts[0])
    has_graph = trains_weights or any(one.requires_grad for one in inputs)
    if not (torch.is_grad_enabled() and has_graph):
        return torch.cat([function(*part) for part in parts])
    held: list[_RecomputedPart] = []
    outputs = []
    for part in parts:
        second = function if make_second is None else make_second()
        outputs.append(_RecomputedPart(second, part, held).compute_outputs(function))
    return torch.cat(outputs)


class _RecomputedPart:
    """One part of the images, and the tensors that its backward pass needs, as long as it needs them.

    Args:
        function: Computes the part again.
        inputs: The rows of the part.
        held: The part that holds its tensors at present; shared by all parts.
    """

    def __init__(
        self, function: RowsFunction, inputs: tuple[Tensor, ...], held: list[_RecomputedPart]
    ) -> None:
        self._function, self._inputs, self._held = function, inputs, held
        self._randomness = RandomStates.from_process()
        device = inputs[0].device.type
        self._autocast: Callable[[], AbstractContextManager[object]] = partial(
            torch.autocast, device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        )
        self._count = 0
        self._tensors: list[Tensor] = []

    def compute_outputs(self, function: RowsFunction) -> Tensor:
        """Compute the outputs and remember only how many tensors the backward pass will ask for."""
        with saved_tensors_hooks(self._count_tensor, self._get_tensor):
            return function(*self._inputs)

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
        inputs = [one.detach().requires_grad_(one.requires_grad) for one in self._inputs]
        try:
            with (
                torch.enable_grad(),
                self._autocast(),
                saved_tensors_hooks(hold, _get_held_tensor),
            ):
                self._function(*inputs)
        finally:
            current.restore_states()
        self._tensors, self._held[:] = tensors, [self]


def _hold_tensor(tensors: list[Tensor], tensor: Tensor) -> Tensor:
    """Hold a tensor outside of its graph: one that its own graph holds would never be freed."""
    tensors.append(tensor.detach())
    return tensors[-1]


def _get_held_tensor(tensor: Tensor) -> Tensor:
    return tensor
