"""What an attack does beside its passes: operations and questions to the device, counted as dispatched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_SYNCHRONIZING_OPERATIONS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}
"""Operations for whose answer the host waits."""
_INDEXING_OPERATIONS = {"index", "index_put", "index_put_"}
"""They ask too where an index is boolean."""


@dataclass
class OperationCounts:
    """What was dispatched outside the network."""

    operations: int = 0
    """Views aside, which do no arithmetic."""
    synchronizations: int = 0
    forward_calls: int = 0
    """Calls of the network."""


class OperationCounter(TorchDispatchMode):
    """Counts operations on tensors while open, but for those of the network's own passes.

    Args:
        network: What takes the pixels; None: its passes are counted too.

    Attributes:
        tally: The count so far.
    """

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.counts = OperationCounts()
        self._inside = False
        self._network, self._hooks = network, []  # type: ignore[var-annotated]

    def __enter__(self) -> OperationCounter:
        if self._network is not None:
            self._hooks = [
                self._network.register_forward_pre_hook(self._enter_forward),
                self._network.register_forward_hook(self._leave_forward),
            ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._inside:
            name = func.overloadpacket.__name__
            asks = name in _SYNCHRONIZING_OPERATIONS or (
                name in _INDEXING_OPERATIONS and any(map(_is_boolean_index, args[1]))
            )
            self.counts.operations += not _is_view(func)
            self.counts.synchronizations += asks
        return func(*args, **(kwargs or {}))

    def _enter_forward(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG002
        self.counts.forward_calls += 1
        self._inside = True
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: self._set_inside(inside=False))

    def _leave_forward(self, network: nn.Module, inputs: Any, logits: Tensor) -> None:  # noqa: ARG002
        self._inside = False
        if logits.requires_grad:
            logits.register_hook(lambda _: self._set_inside(inside=True))

    def _set_inside(self, *, inside: bool) -> None:
        self._inside = inside


def _is_boolean_index(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _is_view(func: Any) -> bool:
    aliases = [argument.alias_info for argument in func._schema.arguments]  # noqa: SLF001  nothing public says it
    return any(alias is not None and not alias.is_write for alias in aliases)


def count_operations(run: Callable[[], object], network: nn.Module | None = None) -> OperationCounts:
    """What ``run`` dispatches outside the network's passes."""
    with OperationCounter(network) as operations:
        run()
    return operations.counts
