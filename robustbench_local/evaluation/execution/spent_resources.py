"""CPU time and memory of this process and of its workers that have ended."""

from __future__ import annotations

import os
import sys
from types import ModuleType

try:
    import resource as _resource
except ImportError:  # not on Windows
    resource: ModuleType | None = None
else:
    resource = _resource


_BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""What one unit of the system's figure for memory stands for."""


def read_cpu_seconds() -> float:
    """Return the seconds of CPU time so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read_own_peak_bytes() -> int:
    """Return the peak memory of this process so far, in bytes; 0 where the system does not tell."""
    return (
        0 if resource is None else _BYTES_PER_UNIT * int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    )


def read_peak_bytes() -> int:
    """Return the peak memory of the largest process so far, in bytes; 0 where the system does not tell."""
    if resource is None:
        return 0
    largest_child = _BYTES_PER_UNIT * int(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return max(read_own_peak_bytes(), largest_child)
