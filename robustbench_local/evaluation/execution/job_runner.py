"""Who runs the work of cells: by default processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from robustbench_local.evaluation.execution.batch_size import BatchSizeChoice
from robustbench_local.evaluation.execution.model_speed import try_tune_batch_size
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.batches import (
    IsolationSettings,
    Notifier,
    SizeReceiver,
    run_batches,
)
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch
from robustbench_local.evaluation.planning.plan import CellSpec
from robustbench_local.store.records import AdaptationRecord


class JobRunner:
    """Runs the work of cells in processes of this machine; a cluster's runner overrides the methods."""

    def describe_environment(self) -> dict[str, Any]:
        """Return facts about the environment that differ from those of this process; by default none."""
        return {}

    def watch_cluster(self, abandon_run: Callable[[str], None]) -> AbstractContextManager[object]:  # noqa: ARG002
        """Watch what the run depends on while the context is open; by default nothing.

        Args:
            abandon_run: Called in another thread when the run cannot go on and this process is about to be
                ended from outside; receives the reason in one line.
        """
        return nullcontext()

    def has_room(self) -> bool:
        """Return whether workers are idle that a further cell could use; never on one machine."""
        return False

    def tune_batch_size(
        self, cell: CellSpec, timeout: float | None, workers: int, most_images: int | None
    ) -> tuple[BatchSizeChoice, str | None]:
        """Return a good batch size for the model that a cell queries.

        Args:
            cell: The cell.
            timeout: Time limit in seconds; None for no limit.
            workers: Number of processes of the run, which have one thread each if there are several.
            most_images: The largest number of images that a batch can have; None: any.

        Returns:
            The size with its reason, and why it could not be measured, if so.
        """
        return try_tune_batch_size(cell.queried_subject, timeout, workers=workers, most_images=most_images)

    def adapt_job(
        self,
        job: Job,
        *,
        batch_size: int,
        isolation: IsolationSettings,
        notify: Notifier,
        known: AdaptationRecord | None,
    ) -> tuple[Job, AdaptationRecord | None]:
        """Adapt the attack of a job to its model; see `robustbench_local.evaluation.harness.adaptation`."""
        return adapt_job(job, batch_size=batch_size, isolation=isolation, notify=notify, known=known)

    def run_batches(
        self,
        job: Job,
        *,
        batch_size: int,
        done_positions: Collection[int],
        selected_positions: Collection[int] | None,
        notify: Notifier,
        on_smaller_batches: SizeReceiver,
        workers: int,
        work_share: float,  # noqa: ARG002 - on one machine a cell has all workers to itself
        isolation: IsolationSettings,
    ) -> Iterator[OutcomeBatch | None]:
        """Run a cell on its remaining images; see `robustbench_local.evaluation.harness.batches`.

        Args:
            job: The cell's work.
            batch_size: Images per pass.
            done_positions: Positions that are done.
            selected_positions: Positions to run; None for all.
            notify: Receives notes of failed images.
            on_smaller_batches: Receives the batch size after memory ran out.
            workers: Number of processes.
            work_share: This cell's share of the work that is left in it and the cells that may run beside it.
            isolation: Time limits, and processes of their own for models.

        Yields:
            Batches as they end; None where nothing has ended for a while, so that other cells can go on.
        """
        return run_batches(
            job,
            batch_size=batch_size,
            done_positions=done_positions,
            selected_positions=selected_positions,
            notify=notify,
            on_smaller_batches=on_smaller_batches,
            workers=workers,
            isolation=isolation,
        )


LOCAL_RUNNER = JobRunner()
"""The runner of this machine."""
