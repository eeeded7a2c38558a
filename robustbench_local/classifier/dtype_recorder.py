"""The floating-point formats that computations use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class DtypeRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the floating-point formats of all computations in its context, with autocast and hooks.

    Made by `record_dtypes`.

    Attributes:
        dtypes: The recorded formats.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether torch's compiler is kept out of the method; that would load all of the compiler."""
        return False

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


class _DtypeRecorderBesideCompiler(DtypeRecorder):  # type: ignore[no-untyped-call]
    """The same where torch's compiler is loaded: a compiled model would have it compile the recording too."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return super().__torch_dispatch__(function, types, args, kwargs)


def record_dtypes() -> DtypeRecorder:
    """Return a context manager that records the formats of all computations in it.

    Only a process that has loaded torch's compiler can run compiled models. In any other it stays unloaded:
    it would take two seconds and 150 MiB in each process that asks for the formats.
    """
    return _DtypeRecorderBesideCompiler() if "torch._dynamo" in sys.modules else DtypeRecorder()
