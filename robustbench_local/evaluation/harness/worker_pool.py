"""Worker processes that share the images of a cell, or keep a user's model away from this process.

The small networks and the small batches of an attack leave a CPU's threads waiting for each other; processes
of one thread each do not. Random numbers belong to images, so that it makes no difference to a verdict who
works on which. Each worker is a copy of this process as it is when it starts (fork), so nothing has to be
handed to it but positions; a worker that is lost is replaced by another one.
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
from robustbench_local.classifier.pass_counter import count_finished_passes
from robustbench_local.errors import ModelTimeoutError
from robustbench_local.evaluation.harness.attack_job import Batch, Work, joined
from robustbench_local.evaluation.isolation.child_process import (
    Channel,
    ChildProcess,
    can_fork,
    wait_for_answers,
)
from robustbench_local.evaluation.isolation.isolated_call import as_model_error, as_picklable, confined
from robustbench_local.evaluation.isolation.watchdog import Watchdog

SMALLEST_SHARE = 8
"""A worker's batch is not made smaller than this, however many workers there are."""
_HEARTBEAT_SECONDS = 0.5
"""Between two looks at how many passes the workers have made."""
_PATIENCE_SECONDS = 30.0
"""How long a worker may take to put its model back at the end."""
_STOP = "stop"
"""The last order."""
_UNDER_WAY, _FINISHED = 0, 1
"""What a worker counts: the passes of its batch so far, and all that it has finished."""


@dataclass(frozen=True)
class _Order:
    positions: list[int]
    batch_size: int


@dataclass(frozen=True)
class _Answer:
    batch: Batch | None
    failure: Exception | None
    notes: tuple[str, ...]


class WorkerLostError(Exception):
    """A worker process ended, or no longer finishes a pass.

    Args:
        line: What became of it, in words.
        hung: Whether it had to be ended because it hung.
        killed: Whether somebody else killed it.
    """

    def __init__(self, line: str, *, hung: bool = False, killed: bool = False) -> None:
        super().__init__(line)
        self.line, self.hung, self.killed = line, hung, killed


def can_be_isolated(work: Work) -> bool:
    """Whether a piece of work can be done in copies of this process: not on a GPU, and on Linux only."""
    both = (work.classifier, work.asked)
    return all(each.can_be_copied and can_fork(each.device) for each in both)


def usable_workers(work: Work, workers: int) -> int:
    """How many processes can share a piece of work: one where images cannot be told apart or copies not used.

    Args:
        work: What is to be done.
        workers: How many there may be.

    Returns:
        At least 1. Only networks on the CPU of a Linux machine are shared: a GPU is busy with one, a callable
        may be somebody's service, and elsewhere a copied process is not safe.
    """
    networks = all(classifier.module is not None for classifier in (work.classifier, work.asked))
    if not networks or not work.divisible or not can_be_isolated(work):
        return 1
    return max(1, min(workers, len(work.data)))


class Crew(AbstractContextManager["Crew"]):
    """Some processes that work on the same cell, of one thread each if they are several.

    Args:
        work: What they do; it must not change while they live.
        workers: How many.
        ready: Opens the context that work is done in.
        isolated: Whether one worker is a process, too, where that is possible; several always are.
        timeout: Seconds within which each has to finish a pass; None for any time.
        deadline: When the cell has to be done, by `time.monotonic`; None for any time.
        give_up: Ends what hangs where no process can be ended for it; takes why, in one line.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        *,
        ready: Callable[[], AbstractContextManager[Any]],
        isolated: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
        give_up: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._give_up = give_up
        self.work, self.size = work, usable_workers(work, workers)
        self.isolated = self.size > 1 or (isolated and can_be_isolated(work))
        self._ready, self._timeout, self._deadline = ready, timeout or None, deadline
        self._threads = 1 if self.size > 1 else torch.get_num_threads()
        self._workers: list[ChildProcess] = []
        self._counts = multiprocessing.RawArray(ctypes.c_int64, 2 * self.size)
        self._here: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Crew:
        if not self.isolated:
            self._here = self._ready()
            self._here.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hear what the workers have left to say, and end them; after an error, whatever they are at."""
        if self._here is not None:
            self._here.__exit__(kind, error, trace)
        try:
            if error is None and self._workers:
                for worker in self._workers:
                    worker.send(_STOP)
                with suppress(WorkerLostError, ModelTimeoutError):  # every outcome is here already
                    for answer in self._wait(self._workers, _PATIENCE_SECONDS):
                        self._hear(answer)
        finally:
            self._end()

    def run(self, positions: list[int], batch_size: int) -> Batch:
        """Do the work for some images; an exception of a worker is raised here.

        Args:
            positions: Which images, cut into interleaved shares so that hard classes are spread.
            batch_size: Images in a pass of all workers together.

        Raises:
            WorkerLostError: If a worker ends or hangs; the next call starts others.
            ModelTimeoutError: If the cell's time is over.
            Exception: What the model or the attack raised.
        """
        if not self.isolated:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise _cell_timeout(self.work)
            self.work.asked.batch_size = batch_size
            watchdog = Watchdog(self._timeout, self._deadline, self._give_up)
            with confined(self.work.names), watchdog:
                return self.work.run(positions)
        try:
            return self._shared(positions, batch_size)
        except (WorkerLostError, ModelTimeoutError, KeyboardInterrupt):
            self._end()
            raise

    def _shared(self, positions: list[int], batch_size: int) -> Batch:
        while len(self._workers) < self.size:
            self._workers.append(self._start(len(self._workers)))
        shares = [share for place in range(self.size) if (share := positions[place :: self.size])]
        size = batch_size
        if self.size > 1:
            size = min(batch_size, max(SMALLEST_SHARE, -(-batch_size // self.size)))
        busy = self._workers[: len(shares)]
        for worker, share in zip(busy, shares, strict=True):
            worker.send(_Order(share, size))
        answers = self._wait(busy, self._timeout)
        for answer in answers:
            self._hear(answer)
        for answer in answers:
            if answer.failure is not None:
                raise answer.failure
        batch = joined([answer.batch for answer in answers if answer.batch is not None])
        # each worker took the same wall time for its share: an image's part of it is smaller by their number
        outcomes = tuple(replace(row, seconds=row.seconds / len(shares)) for row in batch.outcomes)
        return replace(batch, outcomes=outcomes)

    def _wait(self, busy: Sequence[ChildProcess], timeout: float | None) -> list[_Answer]:
        """One answer of each worker, in their order; passes are counted meanwhile."""
        answers: dict[ChildProcess, _Answer] = {}
        pause = min(_HEARTBEAT_SECONDS, timeout / 4 if timeout else _HEARTBEAT_SECONDS)
        idle = dict.fromkeys(busy, 0.0)
        progress = {worker: self._progress(worker) for worker in busy}
        while waiting := [worker for worker in busy if worker not in answers]:
            began = time.monotonic()
            for worker in wait_for_answers(waiting, pause):
                for answer in self._received(worker):
                    answers[worker] = answer
            self.work.asked.passes_elsewhere = sum(self._counts[_UNDER_WAY::2])
            # a pause of this very process is not the model's: no round counts for more than two heartbeats
            passed = min(time.monotonic() - began, 2 * _HEARTBEAT_SECONDS)
            for worker in waiting:
                before, progress[worker] = progress[worker], self._progress(worker)
                idle[worker] = idle[worker] + passed if progress[worker] == before else 0.0
                if timeout is not None and worker not in answers and idle[worker] >= timeout:
                    raise WorkerLostError(f"no pass finished for {timeout:g} s", hung=True)
            if self._deadline is not None and len(answers) < len(busy) and time.monotonic() > self._deadline:
                raise _cell_timeout(self.work)
        return [answers[worker] for worker in busy]

    def _received(self, worker: ChildProcess) -> list[_Answer]:
        try:
            return worker.receive()
        except EOFError:
            killed = worker.was_killed()
            raise WorkerLostError(worker.ending(), killed=killed) from None

    def _progress(self, worker: ChildProcess) -> tuple[int, int]:
        place = self._workers.index(worker)
        return self._counts[2 * place + _FINISHED], worker.received_bytes()

    def _hear(self, answer: _Answer) -> None:
        for note in answer.notes:
            self.work.classifier.note(note)

    def _start(self, place: int) -> ChildProcess:
        counts = (ctypes.c_int64 * 2).from_buffer(self._counts, 16 * place)
        return ChildProcess(partial(_serve, self.work, self._ready, counts), threads=self._threads)

    def _end(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.end()
        self.work.asked.passes_elsewhere = 0


def _cell_timeout(work: Work) -> ModelTimeoutError:
    what = "the cell's time is over"
    remedy = "the same command goes on with what is left, for longer with a larger --cell-timeout"
    return ModelTimeoutError(what, where=work.names, remedy=remedy)


def _serve(
    work: Work,
    ready: Callable[[], AbstractContextManager[Any]],
    counts: ctypes.Array[ctypes.c_int64],
    channel: Channel,
) -> None:
    """A worker's life: take positions, answer with their outcomes, until it is told to stop."""
    threading.Thread(target=_count, args=(work.asked, counts), daemon=True).start()
    order, known, failure = channel.receive(), len(work.classifier.notes), None
    try:
        with ready():
            while order != _STOP:
                channel.send(_run_order(work, order))
                known = len(work.classifier.notes)
                order = channel.receive()
    except (EOFError, BrokenPipeError):
        return
    except BaseException as problem:  # noqa: BLE001 - the model cannot be made ready, or not be put back
        failure = _as_failure(problem, work)
    while order != _STOP:
        channel.send(_Answer(None, failure, ()))
        order = channel.receive()
    channel.send(_Answer(None, None, tuple(work.classifier.notes[known:])))


def _run_order(work: Work, order: _Order) -> _Answer:
    known = len(work.classifier.notes)
    work.asked.batch_size = order.batch_size
    batch: Batch | None = None
    failure: Exception | None = None
    try:
        batch = work.run(order.positions)
    except BaseException as problem:  # noqa: BLE001 - raised again in the parent
        failure = _as_failure(problem, work)
    return _Answer(batch, failure, tuple(work.classifier.notes[known:]))


def _as_failure(problem: BaseException, work: Work) -> Exception:
    """What the parent raises; nobody can interrupt a worker but the model itself."""
    if isinstance(problem, Exception):
        return as_picklable(problem)
    return as_model_error(problem, work.names)


def _count(classifier: Classifier, counts: ctypes.Array[ctypes.c_int64]) -> None:
    """Show how far this worker is, as long as it lives."""
    pause = threading.Event()
    while not pause.wait(_HEARTBEAT_SECONDS / 4):
        counts[_UNDER_WAY] = classifier.passes_under_way()
        counts[_FINISHED] = count_finished_passes()
