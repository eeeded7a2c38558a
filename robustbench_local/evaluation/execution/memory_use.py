"""Memory: what this process may still take, and what a call took at its peak."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_CGROUPS = Path("/sys/fs/cgroup")
_RESET_PEAK = "5"
"""Written to clear_refs, it sets the peak of the resident memory to its present size (man 5 proc)."""


def find_available_bytes(device: torch.device) -> int | None:
    """Return the memory that this process may still take, in bytes; None where nothing says so.

    On a CPU: the system's available memory, or what the limit of its control group (a container's, a job's)
    or of its address space leaves, if that is less.

    Args:
        device: CUDA: the free memory of the device, with what torch keeps in its cache.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if device.type != "cpu" or sys.platform != "linux":
        return None
    known = [_read_kib(Path("/proc/meminfo"), "MemAvailable:"), *_list_group_rooms(), _find_address_room()]
    return min((room for room in known if room is not None), default=None)


def measure_peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Return the memory in use at the peak of a call, in bytes, with what was in use before.

    Args:
        call: The call, such as a pass of a model.
        device: CUDA: that of torch's tensors there. CPU: the resident memory of this process.

    Returns:
        None where it cannot be measured.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK, "ascii")
    call()
    return _read_kib(_PROCESS / "status", "VmHWM:") if device.type == "cpu" else None


def _read_kib(path: Path, name: str) -> int | None:
    """Return the bytes of a line such as ``MemAvailable:  123 kB``."""
    with suppress(OSError):
        for line in path.read_text("ascii", "replace").splitlines():
            if line.startswith(name):
                return 1024 * int(line.split()[1])
    return None


def _list_group_rooms() -> Iterator[int]:
    """Iterate over what each control group above this process leaves of its limit; versions 2 and 1."""
    with suppress(OSError):
        for line in (_PROCESS / "cgroup").read_text("utf-8", "replace").splitlines():
            number, controllers, name = line.split(":", 2)
            if number == "0" and not controllers:
                yield from _walk_groups(_CGROUPS, name, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                yield from _walk_groups(_CGROUPS / "memory", name, *files)


def _walk_groups(root: Path, name: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    """Iterate from a group to its root; a container may see itself as the root."""
    folder = root / name.lstrip("/")
    for group in dict.fromkeys([folder, *folder.parents, root]):
        if not group.is_relative_to(root):
            continue
        with suppress(OSError, ValueError):  # no limit is the word "max"
            most = int((group / limit).read_text("ascii"))
            yield most - int((group / usage).read_text("ascii")) + _read_cache(group / "memory.stat", cache)


def _read_cache(path: Path, name: str) -> int:
    """Return the bytes of files in a group's memory that the system takes back when it needs them."""
    with suppress(OSError):
        for line in path.read_text("ascii").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _find_address_room() -> int | None:
    """Return what the limit of the address space leaves."""
    import resource  # noqa: PLC0415 - not on every system

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError):
        pages = int((_PROCESS / "statm").read_text("ascii").split()[0])
        return limit - pages * os.sysconf("SC_PAGE_SIZE")
    return None
