"""A call in a forked process, with what is imported here: what it changes or breaks stays there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import traceback
from collections.abc import Callable

CRASHED = 70
PR_SET_PDEATHSIG = 1


def run_forked(call: Callable[[], int], timeout: float | None = None) -> int | None:
    """Make a call in a fork, without its output.

    Args:
        call: Returns the exit code of the process.
        timeout: Seconds after which the process and those that it started are killed; None for no limit.

    Returns:
        The exit code; minus the signal that ended the process; None if it took too long.
    """
    child = os.fork()
    if not child:
        _serve_call(call)
    if timeout is not None:
        handle = os.pidfd_open(child)
        is_over = bool(select.select([handle], [], [], timeout)[0])
        os.close(handle)
        if not is_over:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started and left
    return code


def _serve_call(call: Callable[[], int]) -> None:
    """Make the call and end this process."""
    code = CRASHED
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a hung mutant ends with the command
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        code = int(call())
    except BaseException:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
    finally:
        os._exit(code)
