"""Worker processes that share the images of a cell, or keep a user's model out of this process.

With the small networks and small batches of an attack, the threads of a CPU wait for each other; processes
with one thread each do not. Random numbers belong to images, so the assignment of images to workers cannot
change a verdict. Each worker is a fork of this process, so it only needs to receive positions. A worker that
is lost is replaced.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import torch

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.memory_limit import drop_tracebacks, release_memory
from robustbench_local.classifier.pass_counter import count_finished_passes
from robustbench_local.errors import ModelTimeoutError
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch, merge_batches
from robustbench_local.evaluation.isolation.child_process import (
    Channel,
    ChildProcess,
    can_fork,
    wait_for_responses,
)
from robustbench_local.evaluation.isolation.isolated_call import (
    build_exit_error,
    catch_process_exit,
    make_picklable_error,
)
from robustbench_local.evaluation.isolation.watchdog import Watchdog

_HEARTBEAT_SECONDS = 0.5
"""Seconds between two checks of the workers' passes."""
_SHUTDOWN_SECONDS = 30.0
"""Seconds that a worker may take to restore its model at the end."""
_STOP = "stop"
"""The last request."""
_CURRENT_PASSES, _FINISHED_PASSES = 0, 1
"""Indices of a worker's counts: the passes of its batch so far, and all finished ones."""


@dataclass(frozen=True)
class _Request:
    positions: list[int]
    batch_size: int
    memory_limits: tuple[int | None, ...] = (None, None)
    """Images that fitted into memory at once elsewhere, as in `_Response`."""


@dataclass(frozen=True)
class _Response:
    batch: OutcomeBatch | None
    failure: Exception | None
    notes: tuple[str, ...]
    memory_limits: tuple[int | None, ...] = (None, None)
    """Images that fitted into memory at once, for the classifier under test and the queried one."""


class WorkerLostError(Exception):
    """A worker process ended, or stopped finishing passes.

    Args:
        description: One line about what happened to it.
        hung: Whether it was ended because it hung.
        killed: Whether an outside process killed it.
    """

    def __init__(self, description: str, *, hung: bool = False, killed: bool = False) -> None:
        super().__init__(description)
        self.description, self.hung, self.killed = description, hung, killed


def can_be_isolated(work: Job) -> bool:
    """Check whether a job can run in forks of this process: on Linux and not on a GPU."""
    both = (work.classifier, work.queried_model)
    return all(classifier.settings.is_fork_safe and can_fork(classifier.device) for classifier in both)


def count_usable_workers(work: Job, workers: int) -> int:
    """Return the number of processes for a job: 1 where images are inseparable or forks are unsafe.

    Args:
        work: The job.
        workers: Maximum number of processes.

    Returns:
        At least 1. Only networks on the CPU of a Linux machine are shared: a GPU is busy with one process, a
        callable may be a remote service, and on other systems a fork is not safe.
    """
    networks = all(classifier.module is not None for classifier in (work.classifier, work.queried_model))
    if not networks or not work.is_divisible or not can_be_isolated(work):
        return 1
    return max(1, min(workers, work.image_count))


class WorkerPool(AbstractContextManager["WorkerPool"]):
    """Processes that work on one cell, with one thread each if there are several.

    Args:
        job: The work of a process; it must not change while the pool is open.
        workers: Number of processes.
        prepare_models: Opens the context in which the work runs.
        isolated: Whether a single worker also runs in its own process where possible; several always do.
        timeout: Seconds within which each worker has to finish a pass; None for no limit.
        deadline: Time by `time.monotonic` at which the cell has to be finished; None for no limit.
        abort_hung_model: Ends hung work that runs in no process of its own; receives the reason in one line.
    """

    def __init__(
        self,
        job: Job,
        workers: int,
        *,
        prepare_models: Callable[[], AbstractContextManager[Any]],
        isolated: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
        abort_hung_model: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._abort_hung_model = abort_hung_model
        self.job, self.size = job, count_usable_workers(job, workers)
        self.isolated = self.size > 1 or (isolated and can_be_isolated(job))
        self._prepare_models, self._timeout, self._deadline = prepare_models, timeout or None, deadline
        self._threads = 1 if self.size > 1 else torch.get_num_threads()
        self._workers: list[ChildProcess] = []
        self._pass_counts = multiprocessing.RawArray(ctypes.c_int64, 2 * self.size)
        self._local_context: AbstractContextManager[Any] | None = None

    def __enter__(self) -> WorkerPool:
        if not self.isolated:
            self._local_context = self._prepare_models()
            self._local_context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Receive the workers' last messages and end them; after an error, end them at once."""
        if self._local_context is not None:
            self._local_context.__exit__(kind, error, trace)
        try:
            if error is None and self._workers:
                for worker in self._workers:
                    worker.send_request(_STOP)
                with suppress(WorkerLostError, ModelTimeoutError):  # every outcome is here already
                    for answer in self._wait_for_responses(self._workers, _SHUTDOWN_SECONDS):
                        self._record_notes(answer)
        finally:
            self._stop_workers()

    def run(self, positions: list[int], batch_size: int) -> OutcomeBatch:
        """Run the job on some images; an exception in a worker is raised here.

        Args:
            positions: The images, split into interleaved shares so that hard classes are spread.
            batch_size: Images per pass of each worker: a part of it would cost more time for each image.

        Raises:
            WorkerLostError: If a worker ends or hangs; the next call starts new workers.
            ModelTimeoutError: If the cell's time limit is reached.
            Exception: The exception of the model or the attack.
        """
        if not self.isolated:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise _build_cell_timeout_error(self.job)
            self.job.queried_model.configure(batch_size=batch_size)
            watchdog = Watchdog(self._timeout, self._deadline, self._abort_hung_model)
            with catch_process_exit(self.job.model_names), watchdog:
                return self.job.run(positions)
        try:
            return self._run_in_workers(positions, batch_size)
        except (WorkerLostError, ModelTimeoutError, KeyboardInterrupt):
            self._stop_workers()
            raise

    def _run_in_workers(self, positions: list[int], batch_size: int) -> OutcomeBatch:
        while len(self._workers) < self.size and self._add_worker():
            pass
        shares = [share for offset in range(self.size) if (share := positions[offset :: self.size])]
        busy = self._workers[: len(shares)]
        for worker, share in zip(busy, shares, strict=True):
            worker.send_request(_Request(share, batch_size, _read_memory_limits(self.job)))
        answers = self._wait_for_responses(busy, self._timeout)
        for answer in answers:
            self._record_notes(answer)
        for answer in answers:
            if answer.failure is not None:
                raise answer.failure
        batch = merge_batches([answer.batch for answer in answers if answer.batch is not None])
        # workers run in parallel: the wall time per image is divided by their number
        outcomes = tuple(replace(row, seconds=row.seconds / len(shares)) for row in batch.outcomes)
        return replace(batch, outcomes=outcomes)

    def _add_worker(self) -> bool:
        """Start another worker; where memory runs out, those that run have to do.

        Raises:
            OSError: If there is no memory for the first one.
        """
        try:
            self._workers.append(self._start_worker(len(self._workers)))
        except OSError as error:
            if not self._workers or not is_out_of_memory(error):
                raise
            self.size = len(self._workers)
            return False
        return True

    def _wait_for_responses(self, busy: Sequence[ChildProcess], timeout: float | None) -> list[_Response]:
        """Return one answer per worker, in their order; passes are counted meanwhile."""
        answers: dict[ChildProcess, _Response] = {}
        pause = min(_HEARTBEAT_SECONDS, timeout / 4 if timeout else _HEARTBEAT_SECONDS)
        idle = dict.fromkeys(busy, 0.0)
        progress = {worker: self._get_progress(worker) for worker in busy}
        while waiting := [worker for worker in busy if worker not in answers]:
            began = time.monotonic()
            for worker in wait_for_responses(waiting, pause):
                for answer in self._receive_responses(worker):
                    answers[worker] = answer
            self.job.queried_model.record_worker_passes(sum(self._pass_counts[_CURRENT_PASSES::2]))
            # a pause of this process is not a hang of the model: no round counts for more than two heartbeats
            passed = min(time.monotonic() - began, 2 * _HEARTBEAT_SECONDS)
            for worker in waiting:
                before, progress[worker] = progress[worker], self._get_progress(worker)
                idle[worker] = idle[worker] + passed if progress[worker] == before else 0.0
                if timeout is not None and worker not in answers and idle[worker] >= timeout:
                    raise WorkerLostError(f"no pass finished for {timeout:g} s", hung=True)
            if self._deadline is not None and len(answers) < len(busy) and time.monotonic() > self._deadline:
                raise _build_cell_timeout_error(self.job)
        return [answers[worker] for worker in busy]

    def _receive_responses(self, worker: ChildProcess) -> list[_Response]:
        try:
            return worker.receive_responses()
        except EOFError:
            killed = worker.was_killed()
            raise WorkerLostError(worker.describe_exit(), killed=killed) from None

    def _get_progress(self, worker: ChildProcess) -> tuple[int, int]:
        index = self._workers.index(worker)
        return self._pass_counts[2 * index + _FINISHED_PASSES], worker.count_received_bytes()

    def _record_notes(self, answer: _Response) -> None:
        for note in answer.notes:
            self.job.classifier.add_note(note)
        _lower_memory_limits(self.job, answer.memory_limits)

    def _start_worker(self, index: int) -> ChildProcess:
        counts = (ctypes.c_int64 * 2).from_buffer(self._pass_counts, 16 * index)
        return ChildProcess(
            partial(_serve_requests, self.job, self._prepare_models, counts), threads=self._threads
        )

    def _stop_workers(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()
        self.job.queried_model.record_worker_passes(0)


def _build_cell_timeout_error(work: Job) -> ModelTimeoutError:
    what = "the cell's time is over"
    remedy = "the same command goes on with what is left, for longer with a larger --cell-timeout"
    return ModelTimeoutError(what, where=work.model_names, remedy=remedy)


def _serve_requests(
    work: Job,
    ready: Callable[[], AbstractContextManager[Any]],
    counts: ctypes.Array[ctypes.c_int64],
    channel: Channel,
) -> None:
    """Serve requests in a worker: receive positions, send their outcomes, until told to stop."""
    threading.Thread(target=_publish_pass_counts, args=(work.queried_model, counts), daemon=True).start()
    order, known, failure = channel.receive_request(), len(work.classifier.notes), None
    try:
        with ready():
            while order != _STOP:
                channel.send_response(_run_request(work, order))
                known = len(work.classifier.notes)
                order = channel.receive_request()
    except (EOFError, BrokenPipeError):
        return
    except BaseException as problem:  # noqa: BLE001 - the model cannot be made ready, or not be put back
        failure = _convert_failure(problem, work)
    while order != _STOP:
        channel.send_response(_Response(None, failure, ()))
        order = channel.receive_request()
    channel.send_response(_Response(None, None, tuple(work.classifier.notes[known:])))


def _run_request(work: Job, order: _Request) -> _Response:
    known = len(work.classifier.notes)
    work.queried_model.configure(batch_size=order.batch_size)
    _lower_memory_limits(work, order.memory_limits)
    batch: OutcomeBatch | None = None
    failure: Exception | None = None
    try:
        batch = work.run(order.positions)
    except BaseException as problem:  # noqa: BLE001 - raised again in the parent
        failure = _convert_failure(problem, work)
        drop_tracebacks(problem)  # this frame is in it too: without, what it holds would stay
    if failure is not None and is_out_of_memory(failure):
        release_memory()
    return _Response(batch, failure, tuple(work.classifier.notes[known:]), _read_memory_limits(work))


def _read_memory_limits(work: Job) -> tuple[int | None, ...]:
    """Return the limits of the classifier under test and the queried one."""
    return tuple(model.memory_limit.max_images for model in (work.classifier, work.queried_model))


def _lower_memory_limits(work: Job, limits: tuple[int | None, ...]) -> None:
    """Lower the same limits to those of another process."""
    for model, max_images in zip((work.classifier, work.queried_model), limits, strict=False):
        model.memory_limit.lower_limit(max_images)


def _convert_failure(problem: BaseException, work: Job) -> Exception:
    """Convert an exception for the parent; an interrupt inside a worker can only come from the model."""
    if isinstance(problem, Exception):
        return make_picklable_error(problem)
    return build_exit_error(problem, work.model_names)


def _publish_pass_counts(classifier: Classifier, counts: ctypes.Array[ctypes.c_int64]) -> None:
    """Publish the worker's pass counts as long as it lives."""
    pause = threading.Event()
    while not pause.wait(_HEARTBEAT_SECONDS / 4):
        counts[_CURRENT_PASSES] = classifier.count_current_passes()
        counts[_FINISHED_PASSES] = count_finished_passes()
