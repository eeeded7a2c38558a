"""The C library's allocator, told to keep what is freed: equal terms for every arm.

By default glibc gives freed memory back to the system and asks for it again, at every step of some arms and
not of others, as the blocks happen to lie: a tenth to a quarter of the time of a small network's pass.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20


def keep_freed_memory() -> bool:
    """Keep freed memory in this process; whether the C library could be told."""
    if sys.platform != "linux":
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is None:
        return False
    settings = ((_TRIM_THRESHOLD, 1024 * _MIB), (_TOP_PAD, 64 * _MIB), (_MMAP_THRESHOLD, 32 * _MIB))
    return all(tell(key, value) for key, value in settings)
