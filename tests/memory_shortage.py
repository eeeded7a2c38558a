"""Memory that runs out in torch itself, at any site: in forward and backward passes, bounds and resizing."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SHORTAGE = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"


class MemoryShortage(TorchDispatchMode):
    """Lets convolutions fail as an allocator does, while it is open, in forward and backward passes.

    Args:
        most: Rows with which a convolution still succeeds.
        at_call: The convolution that fails however few rows it has, from 1; 0 for none.

    Attributes:
        rows: The rows of each convolution.
        failures: How many failed.
    """

    def __init__(self, most: int = 10**9, at_call: int = 0) -> None:
        super().__init__()
        self.most, self.at_call = most, at_call
        self.rows: list[int] = []
        self.failures = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            self.rows.append(len(args[0]))
            if len(args[0]) > self.most or len(self.rows) == self.at_call:
                self.failures += 1
                raise RuntimeError(SHORTAGE)
        return function(*args, **(kwargs or {}))
