"""The work of a cell, batch by batch: a failure is confined to the image that fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from robustbench_local.classifier.foreign_errors import out_of_memory
from robustbench_local.classifier.stochastic import seeded
from robustbench_local.errors import InvariantError, ModelError, ModelTimeoutError, UnreachableError
from robustbench_local.evaluation.harness.attack_job import AttackFailedError, Batch, Work, cut, one_line
from robustbench_local.evaluation.harness.outcome import failed
from robustbench_local.evaluation.harness.worker_pool import Crew, WorkerLostError

Notify = Callable[[str], None]
"""Takes a line worth keeping, such as a halved batch."""

FAILURES_THAT_CONVICT = 3
"""So many images failing alone, with none succeeding before, convict the model or the attack."""
MOST_HANGS = 6
"""So often a model may hang in a cell until the cell is given up: each time costs the whole time limit."""
HANGS_THAT_CONVICT = 3
"""The same with no image succeeding before."""
FEW_IMAGES = 9
"""No more than so many images are tried one by one after a hang; more in parts of their square root."""
MOST_DEATHS = 200
"""So often a model's process may end in a cell, until the cell is given up."""


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """Where the work of a cell is done, and how long it is waited for."""

    isolated: bool = False
    """Whether one worker, too, is a process of its own, where that is possible."""
    timeout: float | None = None
    """Seconds within which a pass has to finish in a worker process; None or 0 for any time."""
    cell_timeout: float | None = None
    """Seconds that the cell may take; None or 0 for any time."""
    give_up: Callable[[str], None] = lambda _why: None
    """Ends a model that hangs in this very process and cannot be interrupted; takes why, in one line."""


def run_batches(
    work: Work,
    *,
    batch_size: int,
    done: Collection[int] = (),
    notify: Notify = lambda _: None,
    workers: int = 1,
    isolation: Isolation = Isolation(),
) -> Iterator[Batch]:
    """Do the work of a cell for the images that are not done yet.

    Args:
        work: What to do.
        batch_size: Images in a pass; no influence on verdicts. Halved for good when memory runs out.
        done: Positions that need no work.
        notify: Told of halved batches and isolated failures.
        workers: Processes that may share the images; no influence on verdicts.
        isolation: Where it is done, and the limits of its time.

    Yields:
        Batches in the order of positions. Attacks that draw for a whole batch get fixed groups instead,
        so that neither the batch size nor an interruption changes their verdicts.

    Raises:
        ModelTimeoutError: If the model hangs on too many images, or the cell's time is over.
        Exception: What the model or the attack raises on the first three images alone, before any success:
            then it is not the images.
    """
    deadline = time.monotonic() + isolation.cell_timeout if isolation.cell_timeout else None
    crew = Crew(
        work,
        workers,
        ready=partial(_ready, work, batch_size),
        isolated=isolation.isolated,
        timeout=isolation.timeout,
        deadline=deadline,
        give_up=isolation.give_up,
    )
    with crew:
        yield from _Batches(work, crew, batch_size, done, notify).run()


class _Batches:
    """The batches of a cell that are still to do, and what has gone wrong so far."""

    def __init__(
        self, work: Work, crew: Crew, batch_size: int, done: Collection[int], notify: Notify
    ) -> None:
        self.work, self.crew, self.batch_size, self.notify = work, crew, batch_size, notify
        self.queue = work.queue(batch_size * crew.size, set(done))
        self.proven = bool(done)
        self.hangs = self.deaths = 0
        self.lost: list[int] = []  # the positions that a process was lost on the last time

    def run(self) -> Iterator[Batch]:
        """The batches, each as soon as it is sure that its failures are its images'."""
        suspects: list[Batch] = []  # failures before the first success: they may be the model's
        while self.queue:
            positions = self.queue.pop(0)
            try:
                batch = self.crew.run(positions, self.batch_size)
            except (InvariantError, UnreachableError):
                raise
            except Exception as failure:
                if self._try_again(positions, failure):
                    continue
                suspects.append(_failed(self.work, positions[0], failure))
                if not self.proven and len(suspects) >= min(FAILURES_THAT_CONVICT, len(self.work.data)):
                    if isinstance(failure, AttackFailedError):
                        raise failure.reason from failure.reason.__cause__
                    if isinstance(failure, WorkerLostError):
                        raise _as_error(self.work, failure) from None
                    raise
            else:
                batch.rereadings.require_agreement(self.work.classifier.name)
                self.proven = self.proven or any(row.clean_correct for row in batch.outcomes)
                suspects.append(batch)
            if self.proven or not self.queue:
                yield from _told(suspects, self.notify)
                suspects = []

    def _try_again(self, positions: list[int], failure: Exception) -> bool:
        """Put the images back into the queue, smaller or once more; False if it is about just one of them."""
        if isinstance(failure, WorkerLostError):
            return self._try_after_loss(positions, failure)
        if out_of_memory(_reason(failure)) and self._halve_batches(positions, "out of memory"):
            return True
        return self._cut(positions, (len(positions) + 1) // 2)

    def _try_after_loss(self, positions: list[int], loss: WorkerLostError) -> bool:
        """What to do after a process of the model's ended or hung.

        Raises:
            ModelError: If that has happened too often.
        """
        if loss.hung:
            return self._try_after_hang(positions, loss)
        self.deaths += 1
        if self.deaths >= MOST_DEATHS:
            raise _as_error(self.work, loss, f", {self.deaths} times in this cell") from None
        if self.deaths == 1:
            self.notify(f"{loss.line}, at work on {_images(positions)}: trying again")
        # others may have killed it, and images alone or in groups of their own deserve a second opinion
        if positions != self.lost and (loss.killed or len(positions) == 1 or not self.work.divisible):
            self.lost = positions
            self.queue = [positions, *self.queue]
            return True
        if loss.killed and self._halve_batches(positions, loss.line):
            return True
        return self._cut(positions, (len(positions) + 1) // 2)

    def _try_after_hang(self, positions: list[int], loss: WorkerLostError) -> bool:
        """As `_try_after_loss`, in few steps: each hang costs the whole time limit."""
        self.hangs += 1
        if self.hangs >= (MOST_HANGS if self.proven else HANGS_THAT_CONVICT):
            raise _as_error(self.work, loss, f", {self.hangs} times in this cell") from None
        self.notify(f"{loss.line}, at work on {_images(positions)}: its process was ended")
        alone = 0 if self.proven or len(positions) < 2 else HANGS_THAT_CONVICT - 1
        size = math.isqrt(len(positions)) if len(positions) > FEW_IMAGES else 1
        first, rest = positions[:alone], positions[alone:]
        return self._cut(first, 1, rest=cut(rest, size)) if alone else self._cut(rest, size)

    def _halve_batches(self, positions: list[int], why: str) -> bool:
        """Go on with half as many images in a pass; False if it is one already."""
        at_once = min(len(positions) * self.work.images_each, self.batch_size)
        half = (at_once + 1) // 2
        if half == at_once:
            return False
        self.notify(f"{why} with {at_once} images: going on with {half} at a time")
        self.batch_size = half
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.queue = [*cut(positions, half), *self.work.smaller(self.queue, half)]
        return True

    def _cut(self, positions: list[int], size: int, rest: list[list[int]] | None = None) -> bool:
        """Put the images back in pieces; False if there is just one image."""
        if len(positions) < 2 and not rest:
            return False
        self.queue = [*cut(positions, size), *(rest or []), *self.queue]
        return True


def _images(positions: list[int]) -> str:
    return "one image" if len(positions) == 1 else f"{len(positions)} images"


def _as_error(work: Work, loss: WorkerLostError, more: str = "") -> ModelError:
    """The loss of a process as an error of the model."""
    kind = ModelTimeoutError if loss.hung else ModelError
    remedy = "see why it hangs, or allow it more with --timeout" if loss.hung else "run it by itself"
    return kind(loss.line + more, where=work.names, remedy=remedy)


def _told(batches: list[Batch], notify: Notify) -> Iterator[Batch]:
    """Batches on their way out, with a line for each image that failed."""
    for batch in batches:
        for row in batch.outcomes:
            if row.status == "error":
                notify(f"{row.image}: {row.error}")
        yield batch


@contextmanager
def _ready(work: Work, batch_size: int) -> Iterator[None]:
    """Everything prepared for the work, and put back afterwards, the classifier's batch size too."""
    asked = work.asked
    before, asked.batch_size = asked.batch_size, batch_size
    try:
        with work.classifier.attacked(), asked.attacked(), seeded(asked, work.seed):
            yield
    finally:
        asked.batch_size = before


def _reason(failure: Exception) -> Exception:
    """What the model or the attack raised."""
    return failure.reason if isinstance(failure, AttackFailedError) else failure


def _failed(work: Work, position: int, failure: Exception) -> Batch:
    """An image on which the model or the attack raised: an error, listed, and not robust."""
    one = work.data.select([position])
    if isinstance(failure, AttackFailedError):
        return Batch(outcomes=(failure.outcome,), candidates=one.images.clone())
    problem = _as_error(work, failure) if isinstance(failure, WorkerLostError) else failure
    outcome = failed(work.key, position, one, one_line(problem))
    return Batch(outcomes=(outcome,), candidates=one.images.clone())
