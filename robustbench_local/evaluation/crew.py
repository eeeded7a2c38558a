"""Worker processes that share the images of a cell.

The small networks and the small batches of an attack leave a CPU's threads waiting for each other; processes
of one thread each do not. Random numbers belong to images, so that it makes no difference to a verdict who
works on which. Each worker is a copy of this process as it is when the cell starts (fork), so nothing has to
be handed to it but positions.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.cell import Batch, Work, joined

SMALLEST_SHARE = 8
"""A worker's batch is not made smaller than this, however many workers there are."""
_SIGN_OF_LIFE = 0.5
"""Seconds between two looks at how many passes the workers have made."""
_END = b""
"""The last order."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class _Order:
    positions: list[int]
    batch_size: int


@dataclass(frozen=True)
class _Answer:
    batch: Batch | None
    failure: BaseException | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    pipe: Connection


def usable_workers(work: Work, workers: int) -> int:
    """How many processes can share a piece of work: one where images cannot be told apart or copies not used.

    Args:
        work: What is to be done.
        workers: How many there may be.

    Returns:
        At least 1. Only networks on the CPU of a Linux machine are copied: a GPU is busy with one, a callable
        may be somebody's service, and elsewhere a copied process is not safe.
    """
    copied = all(_can_be_copied(classifier) for classifier in (work.classifier, work.asked))
    if not copied or not work.divisible or sys.platform != "linux":
        return 1
    return max(1, min(workers, len(work.data)))


def _can_be_copied(classifier: Classifier) -> bool:
    return classifier.module is not None and classifier.device.type == "cpu"


class Crew(AbstractContextManager["Crew"]):
    """Some processes, of one thread each, that work on the same cell; with one, this process itself.

    Args:
        work: What they do; it must not change while they live.
        workers: How many.
        ready: Opens the context that work is done in.
        notify: Told when a worker is lost; this process then goes on alone.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        *,
        ready: Callable[[], AbstractContextManager[Any]],
        notify: Callable[[str], None],
    ) -> None:
        self.work, self.size = work, usable_workers(work, workers)
        self._ready, self._notify = ready, notify
        self._workers: list[_Worker] = []
        self._passes = multiprocessing.RawArray(ctypes.c_int64, self.size)

    def __enter__(self) -> Crew:
        try:
            for place in range(self.size if self.size > 1 else 0):
                self._workers.append(self._start(place))
        except BaseException:  # an interrupt between two of them
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hear what the workers have left to say, and end them; after an error, whatever they are at."""
        if error is None:
            for worker in self._workers:
                with suppress(OSError, EOFError):
                    worker.pipe.send_bytes(_END)
                    self._hear(_received(worker.pipe))
        self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join()
        self._workers = []
        self.work.asked.passes_elsewhere = 0

    def _hear(self, answer: _Answer) -> None:
        for note in answer.notes:
            self.work.classifier.note(note)

    def run(self, positions: list[int]) -> Batch:
        """Do the work for some images; an exception of a worker is raised here.

        Args:
            positions: Which images, cut into interleaved shares so that hard classes are spread.
        """
        if not self._workers:
            return self.work.run(positions)
        shares = [share for place in range(self.size) if (share := positions[place :: self.size])]
        try:
            answers = self._answers(shares)
        except (EOFError, OSError):
            self._end()
            self._notify("a worker process was lost, perhaps for lack of memory: going on without workers")
            return self.work.run(positions)
        for answer in answers:
            self._hear(answer)
        for answer in answers:
            if answer.failure is not None:
                raise answer.failure
        batch = joined([answer.batch for answer in answers if answer.batch is not None])
        # each worker took the same wall time for its share: an image's part of it is smaller by their number
        outcomes = tuple(replace(row, seconds=row.seconds / len(shares)) for row in batch.outcomes)
        return replace(batch, outcomes=outcomes)

    def _answers(self, shares: Sequence[list[int]]) -> list[_Answer]:
        """Hand out the shares and wait for all answers, counting passes meanwhile."""
        at_once = self.work.asked.batch_size or len(shares[0])
        size = min(at_once, max(SMALLEST_SHARE, -(-at_once // self.size)))
        busy: dict[Connection, int] = {}
        for place, (worker, share) in enumerate(zip(self._workers, shares, strict=False)):
            worker.pipe.send_bytes(pickle.dumps(_Order(share, size)))
            busy[worker.pipe] = place
        answers: dict[int, _Answer] = {}
        while busy:
            ready = wait(list(busy), timeout=_SIGN_OF_LIFE)
            for pipe in [pipe for pipe in busy if pipe in ready]:
                answers[busy.pop(pipe)] = _received(pipe)
            self.work.asked.passes_elsewhere = sum(self._passes)
        return [answers[place] for place in sorted(answers)]

    def _start(self, place: int) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_serve,
            args=(self.work, self._ready, theirs, self._passes, place, os.getpid()),
            daemon=True,
        )
        with warnings.catch_warnings():
            # the display's thread shares no lock with a worker, which neither prints nor draws
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            process.start()
        theirs.close()  # here, so that a lost worker ends the pipe
        return _Worker(process, ours)


def _serve(
    work: Work,
    ready: Callable[[], AbstractContextManager[Any]],
    pipe: Connection,
    passes: ctypes.Array[ctypes.c_int64],
    place: int,
    parent: int,
) -> None:
    """A worker's life: take positions, answer with their outcomes, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked to take this process along
        return
    torch.set_num_threads(1)
    counting = threading.Thread(target=_count, args=(work.asked, passes, place), daemon=True)
    counting.start()
    with ready():
        known = len(work.classifier.notes)
        while order := pipe.recv_bytes():
            pipe.send_bytes(pickle.dumps(_obeyed(work, pickle.loads(order))))  # noqa: S301 - our own bytes
    pipe.send_bytes(pickle.dumps(_Answer(None, None, tuple(work.classifier.notes[known:]))))


def _obeyed(work: Work, order: _Order) -> _Answer:
    known = len(work.classifier.notes)
    work.asked.batch_size = order.batch_size
    try:
        batch, failure = work.run(order.positions), None
    except BaseException as problem:  # noqa: BLE001 - raised again in the parent
        batch, failure = None, _that_travels(problem)
    return _Answer(batch, failure, tuple(work.classifier.notes[known:]))


def _received(pipe: Connection) -> _Answer:
    answer: _Answer = pickle.loads(pipe.recv_bytes())  # noqa: S301 - our own bytes
    return answer


def _that_travels(failure: BaseException) -> BaseException:
    """The exception, or one like it where it cannot be taken to another process."""
    try:
        pickle.loads(pickle.dumps(failure))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - somebody else's class may do anything
        return RuntimeError(f"{type(failure).__name__}: {failure}")
    return failure


def _count(classifier: Classifier, passes: ctypes.Array[ctypes.c_int64], place: int) -> None:
    """Show how far this worker is, as long as it lives."""
    pause = threading.Event()
    while not pause.wait(_SIGN_OF_LIFE):
        passes[place] = classifier.passes_under_way()
