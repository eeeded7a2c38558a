"""CPU time and memory of this process, of its workers that have ended, and of tasks on other nodes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from types import ModuleType

try:
    import resource as _resource
except ImportError:  # not on Windows
    resource: ModuleType | None = None
else:
    resource = _resource


_BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""What one unit of the system's figure for memory stands for."""


@dataclass(kw_only=True)
class RemoteUse:
    """What tasks on other nodes took."""

    cpu_seconds: float = 0.0
    """Their seconds of CPU time together."""
    peak_bytes: int = 0
    """The peak memory of the largest of their processes, in bytes."""


_remote = RemoteUse()


def record_remote_use(use: RemoteUse) -> None:
    """Add what a task on another node took; what a lost task took is not known."""
    _remote.cpu_seconds += use.cpu_seconds
    _remote.peak_bytes = max(_remote.peak_bytes, use.peak_bytes)


def read_cpu_seconds() -> float:
    """Return the seconds of CPU time so far."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return own + _remote.cpu_seconds


def read_own_peak_bytes() -> int:
    """Return the peak memory of this process so far, in bytes; 0 where the system does not tell."""
    return (
        0 if resource is None else _BYTES_PER_UNIT * int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    )


def read_peak_bytes() -> int:
    """Return the peak memory of the largest process so far, in bytes; 0 where the system does not tell."""
    if resource is None:
        return _remote.peak_bytes
    largest_child = _BYTES_PER_UNIT * int(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return max(read_own_peak_bytes(), largest_child, _remote.peak_bytes)
