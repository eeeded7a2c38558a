"""Settings of the C library's allocator that make it keep freed memory.

By default glibc may return large freed blocks to the system and request them again in the next pass, page by
page: up to a quarter of the time of a small network's passes on a CPU. Only this package's programs, the
command line and the benchmarks, change the settings; the library leaves its host process alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20
_TUNING_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on, unless its environment already tunes the allocator.

    Peak memory stays the same; less memory is returned to the system between passes.

    Returns:
        Whether the setting was accepted: only by glibc, under Linux.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _TUNING_VARIABLES):
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is None:
        return False
    settings = ((_TRIM_THRESHOLD, 1024 * _MIB), (_TOP_PAD, 64 * _MIB), (_MMAP_THRESHOLD, 32 * _MIB))
    return all(tell(key, value) for key, value in settings)
