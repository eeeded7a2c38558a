"""The time of a pass, measured so that other programs on the machine hardly change it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def time_pass(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call takes on a machine that does nothing else.

    On a CPU this is processor time, which does not pass while another program has the core: that of this
    thread, which takes part in every computation of torch, or an equal share of that of all threads where
    the work is done by others. On CUDA it is the time between two events of the device.

    Args:
        call: The passes of a model.
        device: The device that they run on.
    """
    if device.type == "cuda":
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        started.record()
        call()
        ended.record()
        torch.cuda.synchronize(device)
        return float(started.elapsed_time(ended)) / 1000
    if device.type != "cpu":
        before = time.perf_counter()
        call()
        if device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - before
    thread, process = time.thread_time(), time.process_time()
    call()
    thread, process = time.thread_time() - thread, time.process_time() - process
    return max(thread, process / torch.get_num_threads())
