"""Peak memory of one run, measured in a forked child so that runs do not see each other's."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import torch

_KIB_PER_MIB = 1024


def peak_increase(run: Callable[[], object], device: str) -> float | None:
    """By how much memory grows at its peak, MiB; None where it cannot be measured here."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / _KIB_PER_MIB**2
    if not hasattr(os, "fork") or not Path("/proc/self/status").exists():
        return None
    return _forked(run)


def _forked(run: Callable[[], object]) -> float | None:
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = _resident()
            run()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(send, str(grown / _KIB_PER_MIB).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(send)
    with os.fdopen(receive, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return float(text) if text else None


def _resident() -> float:
    """Resident memory of this process, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmRSS:")).split()[1])
