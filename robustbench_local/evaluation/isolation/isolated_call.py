"""Calls of user code, in a child process where possible: its exit, crash or hang becomes an error here."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

from robustbench_local.classifier.pass_counter import count_finished_passes
from robustbench_local.errors import ModelTimeoutError, ProcessEndedError
from robustbench_local.evaluation.isolation.child_process import (
    Channel,
    ChildProcess,
    can_fork,
    wait_for_responses,
)

T = TypeVar("T")

_HEARTBEAT_SECONDS = 0.5
"""Seconds between two checks of a silent child."""
_listeners: list[Callable[[Any], None]] = []


@dataclass(frozen=True)
class _Message:
    content: Any


def call_isolated(
    function: Callable[[], T],
    *,
    timeout: float | None,
    name: str = "model",
    deadline: float | None = None,
    threads: int | None = None,
    on_message: Callable[[Any], None] = lambda _message: None,
) -> T:
    """Call a function in a fork of this process; on systems other than Linux here, with exits caught.

    Args:
        function: The function; it sees this process in its current state and changes nothing in it.
        timeout: Seconds within which a pass of a model has to finish; None or 0 for no limit.
        name: Name of the model in messages.
        deadline: Time by `time.monotonic` at which the call has to be finished; None for no limit.
        threads: Number of torch threads; None for as many as in this process.
        on_message: Called here with each message of `send_to_parent`.

    Returns:
        The function's return value; it has to be picklable.

    Raises:
        ModelTimeoutError: If neither a pass nor the call itself finishes within the limit, or the call is not
            finished at its deadline.
        ProcessEndedError: If it ends its process or calls ``sys.exit``.
        Exception: The function's exception; one that cannot be pickled becomes a RuntimeError.
    """
    if not can_fork():
        with catch_process_exit(name), _register_listener(on_message):
            return function()
    finished = multiprocessing.RawArray(ctypes.c_int64, 1)
    child = ChildProcess(partial(_run_in_child, function, name, finished), threads=threads)
    try:
        result, failure = _wait_for_result(child, timeout, name, on_message, finished, deadline)
    finally:
        child.stop()
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]


def send_to_parent(message: Any) -> None:
    """Send a message from the running call to the listener in the calling process."""
    for listen in _listeners[-1:]:
        listen(message)


@contextmanager
def catch_process_exit(name: str) -> Iterator[None]:
    """Convert ``sys.exit`` and similar exits to errors of the model; only a user's interrupt passes.

    So is ``os._exit``, which would otherwise end this process with the model's exit code.

    Args:
        name: Name of the model in messages.
    """
    try:
        with _refuse_os_exit():
            yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as escape:
        raise build_exit_error(escape, name) from escape


class _ProcessExitError(BaseException):
    """A model tried to end this process with an exit code."""


@contextmanager
def _refuse_os_exit() -> Iterator[None]:
    """Make ``os._exit`` raise in this thread of this process; other threads and forks may exit."""
    leave, owner = os._exit, (os.getpid(), threading.get_ident())

    def refuse(status: int = 0) -> NoReturn:
        if (os.getpid(), threading.get_ident()) != owner:
            leave(status)
        raise _ProcessExitError(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


def build_exit_error(escape: BaseException, name: str) -> ProcessEndedError:
    """Convert an exception that is meant to end a process to an error of the model.

    Args:
        escape: SystemExit, GeneratorExit, KeyboardInterrupt or another exception of that kind.
        name: Name of the model.
    """
    if isinstance(escape, SystemExit):
        shown = "" if escape.code is None else repr(escape.code)[:40]
        what = f"the model called sys.exit({shown})"
    elif isinstance(escape, _ProcessExitError):
        what = f"the model called os._exit({escape.args[0]!r:.40})"
    else:
        what = f"the model raised {type(escape).__name__}"
    return ProcessEndedError(what, where=name, remedy="let it raise an ordinary exception, or none")


def make_picklable_error(failure: Exception) -> Exception:
    """Return the exception, or a similar one where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(failure))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - a foreign class may do anything
        return RuntimeError(f"{type(failure).__name__}: {failure}")
    return failure


@contextmanager
def _register_listener(listen: Callable[[Any], None]) -> Iterator[None]:
    _listeners.append(listen)
    try:
        yield
    finally:
        _listeners.remove(listen)


def _run_in_child(
    function: Callable[[], Any], name: str, finished: ctypes.Array[ctypes.c_int64], channel: Channel
) -> None:
    threading.Thread(target=_publish_finished_passes, args=(finished,), daemon=True).start()
    try:
        with _register_listener(lambda message: channel.send_response(_Message(message))):
            result, failure = function(), None
    except Exception as problem:  # noqa: BLE001 - raised again in the parent
        result, failure = None, make_picklable_error(problem)
    except BaseException as escape:  # noqa: BLE001 - nobody can interrupt a child but the model itself
        result, failure = None, build_exit_error(escape, name)
    channel.send_response((result, failure))


def _publish_finished_passes(finished: ctypes.Array[ctypes.c_int64]) -> None:
    """Publish finished passes to the parent as long as this process lives."""
    pause = threading.Event()
    while not pause.wait(_HEARTBEAT_SECONDS / 4):
        finished[0] = count_finished_passes()


def _wait_for_result(
    child: ChildProcess,
    timeout: float | None,
    name: str,
    listen: Callable[[Any], None],
    finished: ctypes.Array[ctypes.c_int64],
    deadline: float | None,
) -> tuple[Any, Exception | None]:
    pause = min(_HEARTBEAT_SECONDS, timeout / 4 if timeout else _HEARTBEAT_SECONDS)
    idle, progress = 0.0, (finished[0], 0)
    while not timeout or idle < timeout:
        began = time.monotonic()
        if deadline is not None and began > deadline:
            raise ModelTimeoutError("its time is over", where=name, remedy="raise --cell-timeout")
        if wait_for_responses([child], pause):
            try:
                answers = child.receive_responses()
            except EOFError:
                remedy = "see what it prints, and run it by itself"
                raise ProcessEndedError(child.describe_exit(), where=name, remedy=remedy) from None
            for answer in answers:
                if not isinstance(answer, _Message):
                    return answer  # type: ignore[no-any-return]
                listen(answer.content)
        # a pause of this process is not a hang of the model: no round counts for more than two heartbeats
        passed = min(time.monotonic() - began, 2 * _HEARTBEAT_SECONDS)
        before, progress = progress, (finished[0], child.count_received_bytes())
        idle = idle + passed if progress == before else 0.0
    raise ModelTimeoutError.from_seconds(timeout or 0.0, name)
