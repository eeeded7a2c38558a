"""Exceptions from code outside this package: their meaning and their message."""

from __future__ import annotations

import torch

from robustbench_local.errors import escape_unprintable

_OUT_OF_MEMORY_TEXTS = ("out of memory", "DefaultCPUAllocator", "bad_alloc", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether an exception means that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY_TEXTS)


def extract_first_line(error: BaseException, limit: int = 200) -> str:
    """Return an exception's message as part of one line, at most ``limit`` characters."""
    line = next(iter(str(error).strip().splitlines()), "no message")
    return escape_unprintable(line[:limit]).rstrip(". ")
