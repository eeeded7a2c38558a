"""Child processes in which user models run: forks of this process whose exit does not end it.

A fork needs no data passed to it. A dedicated thread that never computes makes it: OpenMP threads do not
survive a fork, and the fork of a thread that has used them waits for them forever.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

_PR_SET_PDEATHSIG = 1
_LENGTH_FORMAT = struct.Struct("<Q")
_READ_BYTES = 1 << 20
_EXIT_SECONDS = 5.0
"""Seconds that a process may take to exit after its pipe has closed."""


def can_fork(*devices: torch.device) -> bool:
    """Check whether work on these devices can run in a fork: on the CPU of a Linux machine."""
    return sys.platform == "linux" and all(device.type == "cpu" for device in devices)


class Channel:
    """The child's end of the connection: requests come in, answers go out."""

    def __init__(self, requests: Connection, responses: int) -> None:
        self._requests, self._responses = requests, responses
        self._owner: int | None = None

    def take_ownership(self) -> None:
        """Bind the channel to this process: in forks that a model makes, the first use ends the fork."""
        self._owner = os.getpid()

    def receive_request(self) -> Any:
        """Return the next request; raise EOFError once nobody can send one."""
        self._exit_in_copies()
        return pickle.loads(self._requests.recv_bytes())  # noqa: S301 - our own bytes

    def send_response(self, answer: Any) -> None:
        """Send an answer."""
        self._exit_in_copies()
        content = pickle.dumps(answer)
        with os.fdopen(os.dup(self._responses), "wb") as stream:
            stream.write(_LENGTH_FORMAT.pack(len(content)) + content)

    def _exit_in_copies(self) -> None:
        """Exit in forks that a model makes; otherwise every image would be answered twice."""
        if os.getpid() != self._owner:
            os._exit(1)


class ChildProcess:
    """A fork of this process that serves requests until it is ended.

    Args:
        serve: The child's main function, called with its channel. The child ends when it returns.
        threads: Number of torch threads in the child; None for as many as in this process.
    """

    def __init__(self, serve: Callable[[Channel], None], *, threads: int | None = None) -> None:
        self._received = bytearray()
        theirs, self._requests = multiprocessing.Pipe(duplex=False)
        self._responses, answers = os.pipe()
        os.set_blocking(self._responses, False)
        count = threads or torch.get_num_threads()
        process = multiprocessing.get_context("fork").Process(
            target=_run_child, args=(serve, Channel(theirs, answers), count, os.getpid())
        )
        self._process: BaseProcess = process
        try:
            _get_launcher().launch_process(process)
        finally:  # closed here, so that a lost child ends the pipe
            theirs.close()
            os.close(answers)

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._process.pid

    def send_request(self, order: Any) -> None:
        """Send a request; if the child is gone nothing happens, and `receive_responses` reports it."""
        with suppress(OSError):
            self._requests.send_bytes(pickle.dumps(order))

    def fileno(self) -> int:
        """Return the file descriptor that becomes readable when there is an answer."""
        return self._responses

    def receive_responses(self) -> list[Any]:
        """Return the answers that have arrived, without waiting.

        Raises:
            EOFError: If the child has ended, or sent something that is no answer.
        """
        try:
            while piece := os.read(self._responses, _READ_BYTES):
                self._received += piece
                if answers := self._pop_complete_responses():
                    return answers
        except BlockingIOError:
            if not self.is_alive():
                raise EOFError from None
            return []
        raise EOFError

    def count_received_bytes(self) -> int:
        """Return the number of bytes received of an incomplete answer, a sign that it is being sent."""
        return len(self._received)

    def is_alive(self) -> bool:
        """Check whether the child still runs; its own children may keep its pipe open when it does not."""
        return self._process.is_alive()

    def describe_exit(self) -> str:
        """Describe how the child ended, as part of a sentence; call it after its end."""
        self._process.join(_EXIT_SECONDS)
        return describe_exit_code(self._process.exitcode)

    def was_killed(self) -> bool:
        """Check whether another process killed the child, as the system does when memory runs out."""
        self._process.join(_EXIT_SECONDS)
        return self._process.exitcode == -signal.SIGKILL

    def stop(self) -> None:
        """End the child and all processes that it started."""
        if self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
        self._requests.close()
        with suppress(OSError):
            os.close(self._responses)

    def _pop_complete_responses(self) -> list[Any]:
        """Remove and return the answers that have arrived completely."""
        responses = []
        while len(self._received) >= _LENGTH_FORMAT.size:
            (length,) = _LENGTH_FORMAT.unpack_from(self._received)
            if len(self._received) < _LENGTH_FORMAT.size + length:
                break
            content = bytes(self._received[_LENGTH_FORMAT.size : _LENGTH_FORMAT.size + length])
            del self._received[: _LENGTH_FORMAT.size + length]
            try:
                responses.append(pickle.loads(content))  # noqa: S301 - our own bytes
            except Exception as error:
                raise EOFError from error
        return responses


def wait_for_responses(children: list[ChildProcess], seconds: float) -> list[ChildProcess]:
    """Return the children with data or that have ended, as soon as there is one; none after ``seconds``."""
    ready = wait([child.fileno() for child in children], timeout=seconds)
    return [child for child in children if child.fileno() in ready or not child.is_alive()]


def describe_exit_code(code: int | None) -> str:
    """Describe how a model's process ended.

    Args:
        code: Its exit code, negative for a signal; None if unknown.
    """
    if code is None:
        return "the model's process stopped answering"
    if code >= 0:
        return f"the model ended its process with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    memory = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
    return f"the model's process ended by signal {-code} ({name}){memory}"


def _run_child(serve: Callable[[Channel], None], channel: Channel, threads: int, parent: int) -> None:
    """Run the child process from start to end."""
    gc.freeze()  # the parent's objects stay: looking for garbage among them would copy their memory
    os.setpgid(0, 0)  # so that processes started by a model end with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before it could be asked to end this process
        return
    resource: Any = import_module("resource")  # only Unix has it
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _use_own_streams()
    torch.set_num_threads(threads)
    channel.take_ownership()
    with suppress(EOFError, OSError):  # the parent is gone, or the model closed the pipe
        serve(channel)


def _use_own_streams() -> None:
    """Send the model's prints to standard error, without a lock that a lost thread may hold."""
    with suppress(OSError):
        os.dup2(2, 1)
    sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115


class _ProcessLauncher:
    """The thread that forks. It lives as long as this process, because its children end with it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._requests: queue.SimpleQueue[tuple[BaseProcess, queue.SimpleQueue[BaseException | None]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._serve_launches, name="launcher", daemon=True).start()

    def launch_process(self, process: BaseProcess) -> None:
        """Start a process.

        Raises:
            OSError: If the system cannot.
        """
        answer: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._requests.put((process, answer))
        if (problem := answer.get()) is not None:
            raise problem

    def _serve_launches(self) -> None:
        while True:
            process, answer = self._requests.get()
            try:
                with warnings.catch_warnings():
                    # a fork has streams of its own, so no other thread can hold a lock of them
                    warnings.filterwarnings(
                        "ignore", message=".*multi-threaded.*fork", category=DeprecationWarning
                    )
                    process.start()
                answer.put(None)
            except BaseException as problem:  # noqa: BLE001 - raised again where it was asked for
                answer.put(problem)


_launchers: list[_ProcessLauncher] = []


def _get_launcher() -> _ProcessLauncher:
    """Return this process's launcher; a fork of a process has none of its own yet."""
    if not _launchers or _launchers[0].owner != os.getpid():
        _launchers[:] = [_ProcessLauncher()]
    return _launchers[0]
