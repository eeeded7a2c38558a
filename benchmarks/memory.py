"""Peak memory of one run, measured in a forked child so that runs do not see each other's."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch

_KIB_PER_MIB = 1024
_STATUS_FILE, _RESET_FILE = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK_COMMAND = "5"
"""What the kernel reads there as: the peak begins anew."""


def measure_peak_mib(run: Callable[[], object], device: str, warm_up: Callable[[], object]) -> float | None:
    """By how much memory grows at its peak, MiB; None where it cannot be measured here.

    Args:
        run: What is measured.
        device: Where it computes.
        warm_up: A short run of the same before: what a library loads once is not counted.
    """
    if device.startswith("cuda"):
        warm_up()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / _KIB_PER_MIB**2
    if not hasattr(os, "fork") or not _RESET_FILE.exists():
        return None
    return _measure_in_fork(run, warm_up)


def _measure_in_fork(run: Callable[[], object], warm_up: Callable[[], object]) -> float | None:
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(send, str(_measure_growth_kib(run, warm_up) / _KIB_PER_MIB).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(send)
    with os.fdopen(receive, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return float(text) if text else None


def _measure_growth_kib(run: Callable[[], object], warm_up: Callable[[], object]) -> int:
    """KiB between the least that this process needs before the run and the most during it."""
    warm_up()
    gc.collect()
    # what earlier work freed is still held, and would hide what the run takes
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _RESET_FILE.write_text(_RESET_PEAK_COMMAND)
    before = _read_status_kib("VmRSS")
    run()
    return _read_status_kib("VmHWM") - before


def _read_status_kib(name: str) -> int:
    """What the kernel says of this process, KiB."""
    lines = _STATUS_FILE.read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
