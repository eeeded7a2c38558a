"""The floating-point formats that a network stores and computes in; bounds cover float32 and float64."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from robustbench_local.errors import ModelError

COVERED_DTYPES = frozenset({torch.float32, torch.float64})
"""Formats whose rounding is covered: the rounding of float32, the coarser one, covers both."""


def list_stored_dtypes(module: nn.Module) -> set[torch.dtype]:
    """Return the floating-point formats of a module's parameters and buffers."""
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def check_dtypes_covered(formats: Iterable[torch.dtype], name: str) -> None:
    """Refuse formats whose rounding no bounds cover.

    Raises:
        ModelError: If there is one; the message names it.
    """
    for dtype in set(formats) - COVERED_DTYPES:
        raise ModelError(
            f"computes in {str(dtype).removeprefix('torch.')}, for which there are no bounds",
            where=name,
            remedy="let it compute in float32",
        )
