"""The process that attacks and certifies images, beside the one that predicts.

It is a process of its own so that predictions stay fast, and so that an attack that takes too long, or a
model that ends its process, can be ended without them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.errors import RobustbenchError
from robustbench_local.serving.problems import ProblemError, build_overload_problem
from robustbench_local.serving.served_model import ServedModel
from robustbench_local.serving.stress import CertifyRequest, StressRequest, certify_image, stress_image

AnalysisRequest = StressRequest | CertifyRequest
_NICENESS = 5
"""Lower priority than the predictions'."""
_STOP_SECONDS = 2.0


class Analyst(Protocol):
    """Attacks and certifies images."""

    async def analyze_image(self, request: AnalysisRequest) -> dict[str, Any]:
        """Attack or certify an image; see `stress_image` and `certify_image`."""

    async def stop(self) -> None:
        """Stop, whatever is at work."""


@dataclass(frozen=True)
class _Failure:
    """An error of the other process."""

    error: RobustbenchError | None
    line: str
    is_overload: bool = False
    """Whether the same request may succeed later."""


def run_analysis(models: Sequence[ServedModel], request: AnalysisRequest) -> dict[str, Any]:
    """Attack an image on all models, or certify the first model's answer."""
    if isinstance(request, CertifyRequest):
        return certify_image(models[0], request)
    return stress_image(models, request)


class AnalysisProcess:
    """Runs one request at a time in another process, which is started again if it ends.

    Args:
        load_models: Loads the models in the other process; it is pickled.
        max_waiting: Largest number of requests that wait for the one at work.
        timeout: Longest time of a request in seconds.
    """

    def __init__(
        self, load_models: Callable[[], Sequence[ServedModel]], *, max_waiting: int, timeout: float
    ) -> None:
        self._load_models, self._max_waiting, self._timeout = load_models, max_waiting, timeout
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="analysis")
        self._process: BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._pending = 0
        self._is_stopped = False

    def start(self) -> None:
        """Start the process, without waiting for its models."""
        self._executor.submit(self._ensure_process)

    async def analyze_image(self, request: AnalysisRequest) -> dict[str, Any]:
        """See `run_analysis`.

        Raises:
            ProblemError: 503 if too many requests wait, or this one takes too long; the model's error.
        """
        if self._pending > self._max_waiting:
            raise build_overload_problem("too many attacks wait")
        self._pending += 1
        try:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._exchange_messages, request
            )
        finally:
            self._pending -= 1
        if isinstance(answer, _Failure):
            if answer.error is not None:
                raise answer.error
            raise (
                build_overload_problem(answer.line) if answer.is_overload else ProblemError(500, answer.line)
            )
        return answer

    async def stop(self) -> None:
        """Stop the process; a request that is at work fails."""
        self._is_stopped = True
        self._end_process()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ensure_process(self) -> Connection[Any, Any]:
        """Return the connection to a living process; start one if there is none."""
        if self._process is not None and self._process.is_alive() and self._connection is not None:
            return self._connection
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve_requests, args=(self._load_models, theirs), name="rbl analysis", daemon=True
        )
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        return ours

    def _exchange_messages(self, request: AnalysisRequest) -> dict[str, Any] | _Failure:
        """Send a request and wait for its answer; end the process if it takes too long."""
        if self._is_stopped:
            raise build_overload_problem("the server stops")
        try:
            connection = self._ensure_process()
            # models are loaded before the first request; that time is not the attack's
            if not self._is_loaded(connection):
                return _Failure(None, "the models cannot be loaded in the process of the attacks")
            connection.send(request)
            if not connection.poll(self._timeout):
                self._end_process()
                raise build_overload_problem(
                    f"the attack took longer than {self._timeout:g} s and was ended: ask for fewer steps"
                )
            answer: dict[str, Any] | _Failure = connection.recv()
        except (EOFError, OSError):
            self._end_process()
            if self._is_stopped:
                raise build_overload_problem("the server stops") from None
            return _Failure(
                None, "the model ended the process of the attacks; the next request starts another"
            )
        return answer

    def _is_loaded(self, connection: Connection[Any, Any]) -> bool:
        connection.send(None)
        return connection.recv() is None

    def _end_process(self) -> None:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is not None:
            process.kill()
            process.join(_STOP_SECONDS)
        if connection is not None:
            with suppress(OSError):
                connection.close()


def _serve_requests(
    load_models: Callable[[], Sequence[ServedModel]], connection: Connection[Any, Any]
) -> None:
    """Answer requests until the server is gone."""
    import signal  # noqa: PLC0415 - only the other process needs it

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the server ends this one
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with suppress(OSError):
        os.nice(_NICENESS)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    models = load_models()
    with suppress(EOFError, OSError):
        while True:
            request = connection.recv()
            connection.send(None if request is None else _answer_request(models, request))


def _answer_request(models: Sequence[ServedModel], request: AnalysisRequest) -> dict[str, Any] | _Failure:
    try:
        return run_analysis(models, request)
    except RobustbenchError as error:
        return _Failure(error, str(error))
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        if is_out_of_memory(error):
            return _Failure(None, "memory ran out for the attack", is_overload=True)
        return _Failure(None, f"the attack failed with {type(error).__name__}: {error}")


def _exit_with_parent() -> None:
    """End this process when the server's ends, however that happens."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)
