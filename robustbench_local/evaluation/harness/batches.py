"""The batch loop of a cell: a failure is confined to the image that fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.memory_limit import halve_size, release_memory
from robustbench_local.classifier.stochastic import with_attack_seed
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import InvariantError, ModelError, ModelTimeoutError, UnreachableError
from robustbench_local.evaluation.harness.job import (
    AttackFailedError,
    Job,
    OutcomeBatch,
    format_error_line,
    split_positions,
)
from robustbench_local.evaluation.harness.outcome import build_error_outcome
from robustbench_local.evaluation.harness.shares import ShareResult, Shares, find_largest_share
from robustbench_local.evaluation.harness.worker_pool import WorkerLostError, WorkerPool

Notifier = Callable[[str], None]
"""Receives a note to store, such as a halved batch."""
SizeReceiver = Callable[[int], None]
"""Receives the number of images at once that fit into memory."""

MAX_FAILURES_BEFORE_SUCCESS = 3
"""Number of images that fail alone, before any success, after which the model or the attack is the cause."""
MAX_HANGS = 6
"""Maximum number of hangs of a model before the cell is given up: each costs a whole time limit."""
MAX_HANGS_BEFORE_SUCCESS = 3
"""The same before any success."""
MAX_SINGLE_IMAGE_RETRIES = 9
"""Maximum number of images retried one by one after a hang; more are retried in parts of their square
root."""
HANG_NOTE_ENDING = "its process was ended"
"""How the note of a hang ends."""
MAX_PROCESS_ENDS = 200
"""Maximum number of ended model processes before the cell is given up."""


@dataclass(frozen=True, kw_only=True)
class IsolationSettings:
    """The process in which a cell runs, and its time limits."""

    isolated: bool = False
    """Whether a single worker also runs in its own process, where possible."""
    timeout: float | None = None
    """Seconds within which a pass has to finish in a worker process; None or 0 for no limit."""
    cell_timeout: float | None = None
    """Time limit of the cell in seconds; None or 0 for no limit."""
    abort_hung_model: Callable[[str], None] = lambda _why: None
    """Ends a model that hangs in this process and cannot be interrupted; receives the reason in one line."""


def run_batches(
    job: Job,
    *,
    batch_size: int,
    done_positions: Collection[int] = (),
    selected_positions: Collection[int] | None = None,
    notify: Notifier = lambda _: None,
    on_smaller_batches: SizeReceiver = lambda _size: None,
    workers: int = 1,
    isolation: IsolationSettings = IsolationSettings(),
) -> Iterator[OutcomeBatch]:
    """Run a cell on the images that are not done yet, or on some of them.

    Args:
        job: The work of the cell.
        batch_size: Images per pass; no influence on verdicts. Halved for good when memory runs out.
        done_positions: Positions that need no work.
        selected_positions: The positions to work on now; None: all. Of an attack that draws for a whole
            batch, the fixed groups that they belong to.
        notify: Receives notes of halved batches and isolated failures.
        on_smaller_batches: Receives the size of the batches from now on, where memory ran out with larger
            ones.
        workers: Number of processes that may share the images; no influence on verdicts.
        isolation: The process in which the work runs, and its time limits.

    Yields:
        Batches; of one worker in the order of positions. Attacks that draw for a whole batch get fixed groups
        instead, so that neither the batch size nor an interruption changes their verdicts.

    Raises:
        ModelTimeoutError: If the model hangs on too many images, or the cell's time limit is reached.
        Exception: The exception of the model or the attack if the first three images alone fail before any
            success: then the images are not the cause.
    """
    deadline = time.monotonic() + isolation.cell_timeout if isolation.cell_timeout else None
    pool = WorkerPool(
        job,
        workers,
        prepare_models=partial(prepare_models, job, batch_size),
        isolated=isolation.isolated,
        timeout=isolation.timeout,
        deadline=deadline,
        abort_hung_model=isolation.abort_hung_model,
    )
    with pool:
        queue = _BatchQueue(job, pool, batch_size, done_positions, notify)
        queue.on_smaller_batches = on_smaller_batches
        queue.select_positions(selected_positions)
        yield from queue.run()


class _BatchQueue:
    """The remaining batches of a cell, and the failures so far."""

    def __init__(
        self, work: Job, pool: WorkerPool, batch_size: int, done: Collection[int], notify: Notifier
    ) -> None:
        self.job, self.worker_pool, self.batch_size, self.notify = work, pool, batch_size, notify
        self.done = set(done)
        self.has_succeeded = bool(done)
        self.shared: list[int] = []  # images that workers take in shares, once there is nothing in the queue
        self.sharing_workers = pool.size  # processes that the images which failed last were divided among
        self.queue = work.build_queue(batch_size * pool.size, self.done)
        self.on_smaller_batches: SizeReceiver = lambda _size: None
        self.is_size_new = False  # whether it was reduced, and no batch of that size has passed yet
        self.tried_alone: set[int] = set()  # images that memory ran out for, now without any other pass
        self.hangs = self.process_ends = 0
        self.last_lost_positions: list[int] = []  # the positions that a process was lost on the last time

    def select_positions(self, selected: Collection[int] | None) -> None:
        """Keep only the batches of some positions; None keeps all."""
        if selected is None:
            return
        rest = set(range(self.job.image_count)).difference(selected)
        self.queue = self.job.build_queue(self.batch_size * self.worker_pool.size, self.done | rest)

    def run(self) -> Iterator[OutcomeBatch]:
        """Yield the batches, each once its failures are known to be caused by its images."""
        suspects: list[OutcomeBatch] = []  # before the first success: failures may be the model's
        failures = 0
        self._share_queue()
        while self.queue or self.shared:
            if not self.queue and self.has_succeeded:
                yield from self._run_shares()
                continue
            self._take_unit()
            positions = self.queue.pop(0)
            if self.queue:
                self.job.announce_images(self.queue[0])
            try:
                size = 1 if self.tried_alone.issuperset(positions) else self.batch_size
                self.sharing_workers = self.worker_pool.size
                batch = self.worker_pool.run(positions, size)
            except (InvariantError, UnreachableError):
                raise
            except Exception as failure:
                if self._requeue_after_failure(positions, failure):
                    continue
                suspects.append(_build_failed_batch(self.job, positions[0], failure))
                failures += 1
                if not self.has_succeeded and failures >= min(
                    MAX_FAILURES_BEFORE_SUCCESS, self.job.image_count
                ):
                    if isinstance(failure, AttackFailedError):
                        raise failure.cause from failure.cause.__cause__
                    if isinstance(failure, WorkerLostError):
                        raise _build_model_error(self.job, failure) from None
                    raise
            else:
                self._check_batch(batch)
                suspects.append(batch)
            if self.has_succeeded or not (self.queue or self.shared):
                yield from _notify_failures(suspects, self.notify)
                suspects = []

    def _check_batch(self, batch: OutcomeBatch) -> None:
        """Take note of a batch that has come back, and check that its answers agree."""
        self._adopt_memory_limit()
        if self.is_size_new and len(batch.outcomes) * self.job.images_per_position >= self.batch_size:
            self.on_smaller_batches(self.batch_size)
            self.is_size_new = False
        batch.agreement.check_agreement(self.job.classifier.name)
        self.has_succeeded = self.has_succeeded or any(row.clean_correct for row in batch.outcomes)

    def _share_queue(self) -> None:
        """Let workers take the queue in shares where it is more than a batch for each.

        Before the first success the images are tried in their order, because the first failures decide
        whether the model is the cause: a batch stays in the queue then.
        """
        positions = [position for unit in self.queue for position in unit]
        workers = self.worker_pool.size
        if workers > 1 and self.job.is_divisible and len(positions) > self.batch_size * workers:
            first = 0 if self.has_succeeded else self.batch_size
            self.queue = [positions[:first]] if first else []
            self.shared = positions[first:]

    def _take_unit(self) -> None:
        """Move a batch for each worker into an empty queue, where no image has succeeded yet."""
        if not self.queue:
            size = self.batch_size * self.worker_pool.size
            self.queue, self.shared = [self.shared[:size]], self.shared[size:]

    def _run_shares(self) -> Iterator[OutcomeBatch]:
        """Yield the batches of shares; images that fail are in the queue afterwards, and the rest is left."""
        units = self.job.build_queue(self.batch_size, set(range(self.job.image_count)) - set(self.shared))
        most = find_largest_share(max(len(unit) for unit in units), self.batch_size)
        shares = Shares(self.shared, workers=self.worker_pool.size, batch_size=self.batch_size, most=most)
        for result in self.worker_pool.run_shares(shares, lambda: self.batch_size):
            if result.batch is not None:
                self._check_batch(result.batch)
                yield from _notify_failures([result.batch], self.notify)
            elif result.failure is not None:
                self._handle_failed_share(result, result.failure, shares)
        self.shared = shares.list_left()

    def _handle_failed_share(self, result: ShareResult, failure: Exception, shares: Shares) -> None:
        """Requeue the images of a share that failed: they are tried when the workers have done the rest."""
        if isinstance(failure, InvariantError | UnreachableError):
            raise failure
        if is_out_of_memory(_unwrap_failure(failure)) and result.batch_size > self.batch_size:
            shares.return_share(result.positions)  # it began before another share ran out of memory
            return
        self.sharing_workers = 1
        if not self._requeue_after_failure(result.positions, failure):
            self.queue.insert(0, result.positions)  # it fails again, and is the error of its image

    def _requeue_after_failure(self, positions: list[int], failure: Exception) -> bool:
        """Requeue the images in smaller batches or unchanged; return False for a failure of one image."""
        if isinstance(failure, WorkerLostError):
            return self._requeue_after_loss(positions, failure)
        if is_out_of_memory(_unwrap_failure(failure)):
            release_memory()
            if self._halve_batches(positions, "out of memory") or self._try_alone(positions):
                return True
        return self._requeue_pieces(positions, (len(positions) + 1) // 2)

    def _requeue_after_loss(self, positions: list[int], loss: WorkerLostError) -> bool:
        """Handle the exit or hang of a model process.

        Raises:
            ModelError: If that has happened too often.
        """
        if loss.hung:
            return self._requeue_after_hang(positions, loss)
        self.process_ends += 1
        if self.process_ends >= MAX_PROCESS_ENDS:
            raise _build_model_error(self.job, loss, f", {self.process_ends} times in this cell") from None
        if self.process_ends == 1:
            self.notify(f"{loss.description}, at work on {_format_image_count(positions)}: trying again")
        # another process may have killed it, so single images and fixed groups are tried a second time
        if positions != self.last_lost_positions and (
            loss.killed or len(positions) == 1 or not self.job.is_divisible
        ):
            self.last_lost_positions = positions
            self.queue = [positions, *self.queue]
            return True
        if loss.killed and self._halve_batches(positions, loss.description):
            return True
        return self._requeue_pieces(positions, (len(positions) + 1) // 2)

    def _requeue_after_hang(self, positions: list[int], loss: WorkerLostError) -> bool:
        """Handle a hang like `_requeue_after_loss`, but in fewer steps: each hang costs a full time limit."""
        self.hangs += 1
        if self.hangs >= (MAX_HANGS if self.has_succeeded else MAX_HANGS_BEFORE_SUCCESS):
            raise _build_model_error(self.job, loss, f", {self.hangs} times in this cell") from None
        self.notify(f"{loss.description}, at work on {_format_image_count(positions)}: {HANG_NOTE_ENDING}")
        alone = 0 if self.has_succeeded else MAX_HANGS_BEFORE_SUCCESS - 1
        size = math.isqrt(len(positions)) if len(positions) > MAX_SINGLE_IMAGE_RETRIES else 1
        first, rest = positions[:alone], positions[alone:]
        return (
            self._requeue_pieces(first, 1, rest=split_positions(rest, size))
            if alone
            else self._requeue_pieces(rest, size)
        )

    def _halve_batches(self, positions: list[int], why: str) -> bool:
        """Halve the batch size; return False if it is 1 already.

        A fixed group stays whole as long as its model may be given less at once: its verdicts are about it.
        """
        if not self.job.is_divisible and self._lower_model_limit(positions, why):
            return True
        workers = self.worker_pool.size
        share = -(-len(positions) // self.sharing_workers)
        at_once = min(share * self.job.images_per_position, self.batch_size)
        half = halve_size(at_once)
        if half == at_once:
            return False
        self._reduce_batch_size(at_once, half, why)
        piece = half * workers
        self.queue = [*split_positions(positions, piece), *self.job.split_queue(self.queue, piece)]
        return True

    def _lower_model_limit(self, positions: list[int], why: str) -> bool:
        """Halve what the queried model is given at once; return False if that is one image already."""
        limit = self.job.queried_model.memory_limit
        at_once = limit.limit_size(min(len(positions) * self.job.images_per_position, self.batch_size))
        if at_once == 1:
            return False
        half = halve_size(at_once)
        limit.lower_limit(half)
        self._reduce_batch_size(at_once, half, why)
        self.queue = [positions, *self.queue]
        return True

    def _reduce_batch_size(self, tried: int, size: int, why: str) -> None:
        self.notify(f"{why} with {format_count(tried, 'image')}: going on with {size} at a time")
        self.batch_size, self.is_size_new = size, True

    def _adopt_memory_limit(self) -> None:
        """Take over the limit of the queried model where memory ran out in one of its passes."""
        limit = self.job.queried_model.memory_limit.max_images
        if limit is not None and limit < self.batch_size:
            self._reduce_batch_size(self.batch_size, limit, "out of memory")

    def _try_alone(self, positions: list[int]) -> bool:
        """Requeue a single image, whose search may ask about several points at once, with one at a time."""
        if len(positions) > 1 or self.batch_size == 1 or self.tried_alone.issuperset(positions):
            return False
        self.tried_alone.update(positions)
        self.queue = [positions, *self.queue]
        return True

    def _requeue_pieces(self, positions: list[int], size: int, rest: list[list[int]] | None = None) -> bool:
        """Requeue the images in pieces; return False if there is just one image."""
        if len(positions) < 2:
            return False
        self.queue = [*split_positions(positions, size), *(rest or []), *self.queue]
        return True


def _format_image_count(positions: list[int]) -> str:
    return "one image" if len(positions) == 1 else format_count(len(positions), "image")


def _build_model_error(work: Job, loss: WorkerLostError, more: str = "") -> ModelError:
    """Convert the loss of a process to an error of the model."""
    kind = ModelTimeoutError if loss.hung else ModelError
    remedy = "find out why it hangs, or raise --timeout" if loss.hung else "run it by itself"
    return kind(loss.description + more, where=work.model_names, remedy=remedy)


def _notify_failures(batches: list[OutcomeBatch], notify: Notifier) -> Iterator[OutcomeBatch]:
    """Pass batches through, with a note for each image that failed."""
    for batch in batches:
        for row in batch.outcomes:
            if row.status == "error":
                notify(f"{row.image}: {row.error}")
        yield batch


@contextmanager
def prepare_models(work: Job, batch_size: int) -> Iterator[None]:
    """Prepare the models for the work; restore them and the classifier's batch size afterwards."""
    queried = work.queried_model
    with (
        queried.use_batch_size(batch_size),
        work.classifier.evaluation_mode(),
        queried.evaluation_mode(),
        with_attack_seed(queried, work.seed),
    ):
        yield


def _unwrap_failure(failure: Exception) -> Exception:
    """Return the exception that the model or the attack raised."""
    return failure.cause if isinstance(failure, AttackFailedError) else failure


def _build_failed_batch(work: Job, position: int, failure: Exception) -> OutcomeBatch:
    """Build the error outcome of an image on which the model or the attack raised; it is not robust."""
    image = work.select_images([position])
    if isinstance(failure, AttackFailedError):
        return OutcomeBatch(outcomes=(failure.outcome,), candidates=image.images.clone())
    problem = _build_model_error(work, failure) if isinstance(failure, WorkerLostError) else failure
    outcome = build_error_outcome(work.key, position, image, format_error_line(problem))
    return OutcomeBatch(outcomes=(outcome,), candidates=image.images.clone())
