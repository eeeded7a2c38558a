"""Worker processes that share the images of a cell, or keep a user's model out of this process.

With the small networks and small batches of an attack, the threads of a CPU wait for each other; processes
with one thread each do not. Random numbers belong to images, so the assignment of images to workers cannot
change a verdict. Each worker is a fork of this process, so it only needs to receive positions. A worker that
is lost is replaced.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.errors import ModelTimeoutError
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch, divide_seconds, merge_batches
from robustbench_local.evaluation.harness.shares import ShareResult, Shares
from robustbench_local.evaluation.harness.worker_process import (
    CURRENT_PASSES,
    FINISHED_PASSES,
    HEARTBEAT_SECONDS,
    STOP_REQUEST,
    WorkerRequest,
    WorkerResponse,
    lower_memory_limits,
    read_memory_limits,
    serve_requests,
)
from robustbench_local.evaluation.isolation.child_process import (
    ChildProcess,
    can_fork,
    wait_for_responses,
)
from robustbench_local.evaluation.isolation.isolated_call import catch_process_exit
from robustbench_local.evaluation.isolation.watchdog import Watchdog

_SHUTDOWN_SECONDS = 30.0
"""Seconds that a worker may take to restore its model at the end."""


class WorkerLostError(Exception):
    """A worker process ended, or stopped finishing passes.

    Args:
        description: One line about what happened to it.
        hung: Whether it was ended because it hung.
        killed: Whether an outside process killed it.
        worker: Its number in the pool.
    """

    def __init__(
        self, description: str, *, hung: bool = False, killed: bool = False, worker: int = 0
    ) -> None:
        super().__init__(description)
        self.description, self.hung, self.killed, self.worker = description, hung, killed, worker


@dataclass(frozen=True)
class _Watch:
    """Since when each worker has finished no pass."""

    idle: dict[ChildProcess, float]
    """Seconds."""
    progress: dict[ChildProcess, tuple[int, int]]
    """What each had done when it was looked at last."""

    @classmethod
    def begin(
        cls, workers: Sequence[ChildProcess], get_progress: Callable[[ChildProcess], tuple[int, int]]
    ) -> _Watch:
        return cls(dict.fromkeys(workers, 0.0), {worker: get_progress(worker) for worker in workers})


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
                    worker.send_request(STOP_REQUEST)
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

    def run_shares(self, shares: Shares, get_batch_size: Callable[[], int]) -> Iterator[ShareResult]:
        """Run the job on shares: each worker takes the next one as soon as it is done with its last.

        Args:
            shares: The images.
            get_batch_size: Returns the number of images per pass of a worker, which may fall meanwhile.

        Yields:
            What came of each share, in the order in which they end. A worker that is lost is the last result;
            the shares of the others are back in ``shares`` then.

        Raises:
            ModelTimeoutError: If the cell's time limit is reached.
        """
        self._start_workers()
        busy: dict[ChildProcess, WorkerRequest] = {}
        idle, ended = list(self._workers), list[ShareResult]()
        watch = _Watch.begin(self._workers, self._get_progress)
        try:
            while True:
                while idle and (share := shares.take_share()):
                    worker = idle.pop(0)
                    busy[worker] = self._send_request(worker, share, get_batch_size())
                    self.job.announce_images(shares.list_next())
                yield from ended  # while the workers go on
                if not busy:
                    return
                self._check_deadline(is_done=False)
                answers, workers = self._wait_once(list(busy), watch, self._timeout), len(busy)
                idle += answers
                ended = [
                    self._build_share_result(busy.pop(worker), answer, workers)
                    for worker, answer in answers.items()
                ]
        except WorkerLostError as loss:
            request = busy.pop(self._workers[loss.worker])
            for other in busy.values():
                shares.return_share(other.positions)
            self._stop_workers()
            yield ShareResult(request.positions, request.batch_size, failure=loss)
        except (ModelTimeoutError, KeyboardInterrupt):
            self._stop_workers()
            raise

    def _build_share_result(
        self, request: WorkerRequest, answer: WorkerResponse, workers: int
    ) -> ShareResult:
        self._record_notes(answer)
        batch = answer.batch and divide_seconds(answer.batch, workers)
        return ShareResult(request.positions, request.batch_size, batch, answer.failure)

    def _run_in_workers(self, positions: list[int], batch_size: int) -> OutcomeBatch:
        self._start_workers()
        shares = [share for offset in range(self.size) if (share := positions[offset :: self.size])]
        busy = self._workers[: len(shares)]
        for worker, share in zip(busy, shares, strict=True):
            self._send_request(worker, share, batch_size)
        answers = self._wait_for_responses(busy, self._timeout)
        for answer in answers:
            self._record_notes(answer)
        for answer in answers:
            if answer.failure is not None:
                raise answer.failure
        batch = merge_batches([answer.batch for answer in answers if answer.batch is not None])
        return divide_seconds(batch, len(shares))

    def _send_request(self, worker: ChildProcess, positions: list[int], batch_size: int) -> WorkerRequest:
        request = WorkerRequest(positions, batch_size, read_memory_limits(self.job))
        worker.send_request(request)
        return request

    def _start_workers(self) -> None:
        while len(self._workers) < self.size and self._add_worker():
            pass

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

    def _wait_for_responses(
        self, busy: Sequence[ChildProcess], timeout: float | None
    ) -> list[WorkerResponse]:
        """Return one answer per worker, in their order; passes are counted meanwhile."""
        answers: dict[ChildProcess, WorkerResponse] = {}
        watch = _Watch.begin(busy, self._get_progress)
        while waiting := [worker for worker in busy if worker not in answers]:
            answers |= self._wait_once(waiting, watch, timeout)
            self._check_deadline(is_done=len(answers) == len(busy))
        return [answers[worker] for worker in busy]

    def _wait_once(
        self, waiting: list[ChildProcess], watch: _Watch, timeout: float | None
    ) -> dict[ChildProcess, WorkerResponse]:
        """Wait for a heartbeat at most, and return the answers that have come.

        Raises:
            WorkerLostError: If a worker ends, or finishes no pass for too long.
        """
        answers: dict[ChildProcess, WorkerResponse] = {}
        pause = min(HEARTBEAT_SECONDS, timeout / 4 if timeout else HEARTBEAT_SECONDS)
        began = time.monotonic()
        for worker in wait_for_responses(waiting, pause):
            for answer in self._receive_responses(worker):
                answers[worker] = answer
        self.job.queried_model.record_worker_passes(sum(self._pass_counts[CURRENT_PASSES::2]))
        # a pause of this process is not a hang of the model: no round counts for more than two heartbeats
        passed = min(time.monotonic() - began, 2 * HEARTBEAT_SECONDS)
        for worker in waiting:
            before, watch.progress[worker] = watch.progress[worker], self._get_progress(worker)
            is_silent = watch.progress[worker] == before and worker not in answers
            watch.idle[worker] = watch.idle[worker] + passed if is_silent else 0.0
            if timeout is not None and watch.idle[worker] >= timeout:
                number = self._workers.index(worker)
                raise WorkerLostError(f"no pass finished for {timeout:g} s", hung=True, worker=number)
        return answers

    def _check_deadline(self, *, is_done: bool) -> None:
        """Raise if the cell's time is over and there are answers to wait for."""
        if self._deadline is not None and not is_done and time.monotonic() > self._deadline:
            raise _build_cell_timeout_error(self.job)

    def _receive_responses(self, worker: ChildProcess) -> list[WorkerResponse]:
        try:
            return worker.receive_responses()
        except EOFError:
            killed, number = worker.was_killed(), self._workers.index(worker)
            raise WorkerLostError(worker.describe_exit(), killed=killed, worker=number) from None

    def _get_progress(self, worker: ChildProcess) -> tuple[int, int]:
        index = self._workers.index(worker)
        return self._pass_counts[2 * index + FINISHED_PASSES], worker.count_received_bytes()

    def _record_notes(self, answer: WorkerResponse) -> None:
        for note in answer.notes:
            self.job.classifier.add_note(note)
        lower_memory_limits(self.job, answer.memory_limits)

    def _start_worker(self, index: int) -> ChildProcess:
        counts = (ctypes.c_int64 * 2).from_buffer(self._pass_counts, 16 * index)
        return ChildProcess(
            partial(serve_requests, self.job, self._prepare_models, counts), threads=self._threads
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
