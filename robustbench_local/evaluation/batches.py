"""The work of a cell, batch by batch: a failure is confined to the image that fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from robustbench_local.classifier.foreign_errors import out_of_memory
from robustbench_local.classifier.stochastic import seeded
from robustbench_local.errors import InvariantError, UnreachableError
from robustbench_local.evaluation.cell import AttackFailedError, Batch, Work, cut, one_line
from robustbench_local.evaluation.crew import Crew
from robustbench_local.evaluation.outcome import failed

Notify = Callable[[str], None]
"""Takes a line worth keeping, such as a halved batch."""

FAILURES_THAT_CONVICT = 3
"""So many images failing alone, with none succeeding before, convict the model or the attack."""


def run_batches(
    work: Work,
    *,
    batch_size: int,
    done: Collection[int] = (),
    notify: Notify = lambda _: None,
    workers: int = 1,
) -> Iterator[Batch]:
    """Do the work of a cell for the images that are not done yet.

    Args:
        work: What to do.
        batch_size: Images in a pass; no influence on verdicts. Halved for good when memory runs out.
        done: Positions that need no work.
        notify: Told of halved batches and isolated failures.
        workers: Processes that may share the images; no influence on verdicts.

    Yields:
        Batches in the order of positions. Attacks that draw for a whole batch get fixed groups instead,
        so that neither the batch size nor an interruption changes their verdicts.

    Raises:
        Exception: What the model or the attack raises on the first three images alone, before any success:
            then it is not the images.
    """
    suspects: list[Batch] = []  # failures before the first success: they may be the model's, not the images'
    proven = bool(done)
    asked = work.asked
    opened = partial(_ready, work, batch_size)
    with Crew(work, workers, ready=opened, notify=notify) as crew, opened():
        queue = work.queue(batch_size * crew.size, set(done))
        while queue:
            positions = queue.pop(0)
            try:
                batch = crew.run(positions)
            except (InvariantError, UnreachableError):
                raise
            except Exception as failure:
                at_once = min(len(positions) * work.images_each, asked.batch_size or batch_size)
                half = (at_once + 1) // 2
                if out_of_memory(_reason(failure)) and half < at_once:
                    notify(f"out of memory with {at_once} images: going on with {half} at a time")
                    asked.batch_size = half
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                    queue = [*cut(positions, half), *work.smaller(queue, half)]
                    continue
                half = (len(positions) + 1) // 2
                if half < len(positions):
                    queue = [positions[:half], positions[half:], *queue]
                    continue
                suspects.append(_failed(work, positions[0], failure))
                if not proven and len(suspects) >= min(FAILURES_THAT_CONVICT, len(work.data)):
                    if isinstance(failure, AttackFailedError):
                        raise failure.reason from failure.reason.__cause__
                    raise
            else:
                proven = proven or any(row.clean_correct for row in batch.outcomes)
                suspects.append(batch)
            if proven or not queue:
                yield from _told(suspects, notify)
                suspects = []


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
    outcome = failed(work.key, position, one, one_line(failure))
    return Batch(outcomes=(outcome,), candidates=one.images.clone())
