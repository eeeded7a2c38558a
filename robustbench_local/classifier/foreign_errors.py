"""Exceptions from code outside this package: their meaning and their message."""

from __future__ import annotations

import torch

from robustbench_local.errors import escape_unprintable

_OUT_OF_MEMORY_TEXTS = ("out of memory", "DefaultCPUAllocator", "bad_alloc", "can't allocate memory")

_TORCHSCRIPT_HEAD = "The following operation failed in the TorchScript interpreter"


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether an exception means that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY_TEXTS)


def extract_first_line(error: BaseException, limit: int = 200) -> str:
    """Return an exception's message as part of one line, at most ``limit`` characters.

    TorchScript's message begins with a stack of its program; the error itself is its last line.
    """
    lines = str(error).strip().splitlines() or ["no message"]
    line = lines[-1] if lines[0].startswith(_TORCHSCRIPT_HEAD) else lines[0]
    return escape_unprintable(line[:limit]).rstrip(". ")
