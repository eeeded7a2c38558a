"""The schedule of a cell's chunks: which runs when, which again, and which twice. It knows nothing of Ray."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import (
    IncompleteError,
    InvariantError,
    ModelError,
    ModelTimeoutError,
    UnreachableError,
)
from robustbench_local.evaluation.execution.cluster.chunks import ChunkLostError, ChunkResult
from robustbench_local.evaluation.harness.job import OutcomeBatch

MAX_NODE_LOSSES = 50
"""Number of lost nodes from which a chunk is not tried again: the cluster is the cause."""
MAX_PROCESS_LOSSES = 4
"""Number of lost processes from which a chunk is split; a single image is an error then."""
MIN_TIMED_CHUNKS = 3
"""Number of finished chunks from which on their median says how long one takes."""
STRAGGLER_FACTOR = 2.0
"""A chunk that takes this many times what others show is started a second time at the end."""
MIN_STRAGGLER_SECONDS = 1.0
"""No chunk is started a second time before it has run for this long."""
POLL_SECONDS = 0.5
"""Longest wait for a result before the schedule looks at the cluster again."""
FINAL_SECONDS = 5.0
"""Seconds that chunks whose time is over have to give back what they have."""


class TaskBackend(Protocol):
    """What runs chunks."""

    def count_slots(self) -> int:
        """Return the number of this cell's chunks that the cluster can run at once now."""

    def submit_chunk(self, positions: Sequence[int], *, shrinks: int, follows_success: bool) -> Any:
        """Submit a chunk whose batches are halved ``shrinks`` times, and return its handle."""

    def wait_for_chunks(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """Return the handles whose chunks have ended, as soon as there is one.

        Returns:
            None after ``seconds``, or as soon as a chunk of another cell has ended.
        """

    def collect_result(self, handle: Any) -> ChunkResult:
        """Return the result of a chunk that has ended.

        Raises:
            ChunkLostError: If it was lost.
        """

    def make_lost_batch(self, position: int, reason: str) -> OutcomeBatch:
        """Make the error outcome of an image whose process is lost again and again."""

    def cancel_chunks(self, handles: Sequence[Any]) -> None:
        """Cancel chunks; those that have ended are left alone."""


@dataclass(eq=False)
class Chunk:
    """Some images of the cell, and what has happened to them."""

    order: int
    """Its place in the cell: failures are judged in this order."""
    positions: list[int]
    shrinks: int = 0
    node_losses: int = 0
    process_losses: int = 0
    is_done: bool = False
    failure: Exception | None = None
    """A failure that may be the model's: judged once all earlier chunks have ended."""
    held: list[ChunkResult] = field(default_factory=list)
    """Results before the first success is known."""


@dataclass(eq=False)
class _Attempt:
    chunk: Chunk
    follows_success: bool
    started: float = field(default_factory=time.monotonic)


class ChunkSchedule:
    """Runs the chunks of a cell until each has come back once.

    Args:
        chunks: Positions of each chunk.
        backend: Runs them.
        has_succeeded: Whether an image of the cell was evaluated before.
        max_failures: Number of images that fail before any success, after which the model is the cause.
        notify: Receives notes of what was lost and tried again.
        deadline: Time by `time.monotonic` at which the cell has to be finished; None for no limit.
        clock: Tells that time.
    """

    def __init__(
        self,
        chunks: Sequence[list[int]],
        backend: TaskBackend,
        *,
        has_succeeded: bool,
        max_failures: int,
        notify: Callable[[str], None],
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend, self.has_succeeded, self.notify = backend, has_succeeded, notify
        self._deadline, self._clock, self._max_failures = deadline, clock, max_failures
        self._chunks = [Chunk(order, list(positions)) for order, positions in enumerate(chunks)]
        self._queue = list(self._chunks)
        self._running: dict[Any, _Attempt] = {}
        self._seconds: list[tuple[float, int]] = []
        self._was_idle = False

    def run(self) -> Iterator[ChunkResult | None]:
        """Yield results, in the order in which they come once an image has succeeded.

        None is yielded before each wait: what is idle then is free for other cells.

        Raises:
            ModelTimeoutError: If the cell's time is over, or a model hangs too often.
            IncompleteError: If the cluster loses the same chunk again and again.
            Exception: What the model or the attack raised, as `run_batches` would.
        """
        try:
            while self._queue or self._running:
                self._submit_waiting()
                self._double_stragglers()
                yield None
                for handle in self.backend.wait_for_chunks(list(self._running), POLL_SECONDS):
                    if handle in self._running:  # not cancelled meanwhile
                        yield from self._take_result(handle)
                if self._deadline is not None and self._clock() > self._deadline + FINAL_SECONDS:
                    raise ModelTimeoutError("the cell's time is over")
        finally:
            self._cancel_attempts(list(self._running))

    def _submit_waiting(self) -> None:
        slots = max(1, self.backend.count_slots())
        while self._queue and len(self._running) < slots:
            self._submit(self._queue.pop(0))

    def _submit(self, chunk: Chunk) -> None:
        handle = self.backend.submit_chunk(
            chunk.positions, shrinks=chunk.shrinks, follows_success=self.has_succeeded
        )
        self._running[handle] = _Attempt(chunk, self.has_succeeded, self._clock())

    def _double_stragglers(self) -> None:
        """Start the slowest chunks a second time where the cluster has nothing else to do.

        What is idle for the first time may be about to go to another cell.
        """
        idle = self.backend.count_slots() - len(self._running)
        was_idle, self._was_idle = self._was_idle, idle > 0 and not self._queue
        if not was_idle or not self._was_idle or len(self._seconds) < MIN_TIMED_CHUNKS:
            return
        attempts = sorted(self._running.values(), key=lambda attempt: attempt.started)
        for attempt in attempts:
            alone = sum(other.chunk is attempt.chunk for other in attempts) == 1
            limit = self._estimate_straggler_seconds(attempt.chunk)
            if idle > 0 and alone and self._clock() - attempt.started > limit:
                self._submit(attempt.chunk)
                idle -= 1

    def _estimate_straggler_seconds(self, chunk: Chunk) -> float:
        """Estimate after which time a chunk takes too long; large ones take longer than small ones."""
        usual = statistics.median(seconds for seconds, _ in self._seconds)
        per_image = statistics.median(seconds / count for seconds, count in self._seconds)
        expected = max(usual, per_image * len(chunk.positions))
        return max(MIN_STRAGGLER_SECONDS, STRAGGLER_FACTOR * expected)

    def _take_result(self, handle: Any) -> Iterator[ChunkResult]:
        attempt = self._running.pop(handle)
        chunk = attempt.chunk
        result: ChunkResult | None
        try:
            result = self.backend.collect_result(handle)
        except ChunkLostError as loss:
            result = self._handle_loss(chunk, loss)
        if result is None or chunk.is_done:
            return
        if result.refusal:
            self._queue.insert(0, chunk)
            return
        self._cancel_attempts([other for other, attempt in self._running.items() if attempt.chunk is chunk])
        self._seconds.append((self._clock() - attempt.started, len(chunk.positions)))
        done = {row.position for batch in result.batches for row in batch.outcomes}
        chunk.positions = [position for position in chunk.positions if position not in done]
        chunk.is_done = not chunk.positions
        failure = result.failure
        if failure is not None and not chunk.is_done:
            chunk.failure = failure
        elif not chunk.is_done:
            self._queue.insert(0, chunk)  # its node was told to stop
        chunk.held.append(result)
        if isinstance(failure, InvariantError | UnreachableError) or attempt.follows_success:
            if failure is None:
                self._submit_waiting()  # before another cell takes the slot
            yield from self._release_held()
            if failure is not None:
                raise failure
            return
        self._judge_first_failures()
        if self.has_succeeded or all(chunk.is_done for chunk in self._chunks):
            self._submit_waiting()
            yield from self._release_held()

    def _judge_first_failures(self) -> None:
        """Decide, in the order of the images, whether some succeed before too many fail.

        Until then a failure may be the model's: the cell ends with it, and no outcome is kept. Afterwards it
        is that of its images, and their chunks are run again to find out which.
        """
        failures = 0
        for chunk in self._chunks:
            rows = [row for result in chunk.held for batch in result.batches for row in batch.outcomes]
            for row in sorted(rows, key=lambda row: row.position):
                failures += row.status == "error"
                if failures >= self._max_failures:
                    raise ModelError(row.error or "the model failed")
                self.has_succeeded |= row.clean_correct
            if self.has_succeeded:
                break
            if chunk.failure is not None:
                raise chunk.failure
            if not chunk.is_done:
                return
        for chunk in self._chunks:
            if self.has_succeeded and chunk.failure is not None:
                chunk.failure = None
                self._queue.insert(0, chunk)

    def _release_held(self) -> Iterator[ChunkResult]:
        for chunk in self._chunks:
            held, chunk.held = chunk.held, []
            yield from held

    def _handle_loss(self, chunk: Chunk, loss: ChunkLostError) -> ChunkResult | None:
        """Requeue a lost chunk, unless it is done or runs a second time; split it if it is lost too often.

        Returns:
            The result of a single image that was lost too often; else None.
        """
        if chunk.is_done or any(attempt.chunk is chunk for attempt in self._running.values()):
            return None
        chunk.node_losses += loss.node_lost
        chunk.process_losses += not loss.node_lost
        count = format_count(len(chunk.positions), "image")
        if chunk.node_losses >= MAX_NODE_LOSSES:
            what = f"the cluster lost the same {count} {chunk.node_losses} times ({loss.reason})"
            raise IncompleteError(what, remedy="the same command resumes the run")
        self.notify(f"{loss.reason}, at work on {count}: they are run again")
        if loss.out_of_memory:
            chunk.shrinks += 1
        if chunk.process_losses < MAX_PROCESS_LOSSES:
            self._queue.insert(0, chunk)
        elif len(chunk.positions) > 1:
            half = (len(chunk.positions) + 1) // 2
            rest = Chunk(chunk.order, chunk.positions[half:], chunk.shrinks)
            chunk.positions, chunk.process_losses = chunk.positions[:half], 0
            self._chunks.insert(self._chunks.index(chunk) + 1, rest)
            self._queue[:0] = [chunk, rest]
        else:
            return ChunkResult(batches=(self.backend.make_lost_batch(chunk.positions[0], loss.reason),))
        return None

    def _cancel_attempts(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            del self._running[handle]
        with suppress(Exception):  # what is cancelled is not asked any more
            self.backend.cancel_chunks(handles)
