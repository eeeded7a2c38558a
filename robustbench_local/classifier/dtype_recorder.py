"""The floating-point formats that computations use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class DtypeRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the floating-point formats of all computations in its context, with autocast and hooks.

    Attributes:
        dtypes: The recorded formats.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and record the formats of its results."""
        result = function(*args, **(kwargs or {}))
        self.dtypes |= {
            value.dtype
            for value in tree_leaves(result)
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return result
