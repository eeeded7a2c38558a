"""The real schedule of a cluster's chunks, with nodes that take simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from benchmarks.scaling.image_costs import compute_request_time
from benchmarks.scaling.simulated_pool import build_simulated_job
from robustbench_local.evaluation.execution.cluster.chunk_schedule import ChunkSchedule
from robustbench_local.evaluation.execution.cluster.chunks import ChunkResult
from robustbench_local.evaluation.execution.cluster.cluster_runner import split_into_chunks
from robustbench_local.evaluation.execution.pilot_positions import choose_pilot_positions
from robustbench_local.evaluation.harness.job import OutcomeBatch


class SimulatedNodes:
    """Nodes whose chunks end at moments of a simulated clock.

    Args:
        passes: Passes of each image.
        slots: Number of chunks at once.
        batch_size: Images per pass.
    """

    def __init__(self, passes: np.ndarray, slots: int, batch_size: int) -> None:
        self.passes, self.slots, self.batch_size = passes, slots, batch_size
        self.clock = 0.0
        self._ends: dict[int, tuple[float, tuple[int, ...]]] = {}
        self._count = 0

    def count_slots(self) -> int:
        """See `TaskBackend`."""
        return self.slots

    def submit_chunk(self, positions: Sequence[int], *, shrinks: int, follows_success: bool) -> int:  # noqa: ARG002
        """See `TaskBackend`."""
        self._count += 1
        time = compute_request_time(self.passes[list(positions)].tolist(), self.batch_size)
        self._ends[self._count] = self.clock + time, tuple(positions)
        return self._count

    def wait_for_chunks(self, handles: Sequence[int], seconds: float) -> list[int]:  # noqa: ARG002
        """See `TaskBackend`; the clock jumps to the first end."""
        first = min(handles, key=lambda handle: self._ends[handle][0])
        self.clock = self._ends[first][0]
        return [first]

    def collect_result(self, handle: int) -> ChunkResult:
        """See `TaskBackend`."""
        rows = [
            SimpleNamespace(position=position, status="ok", clean_correct=True)
            for position in self._ends.pop(handle)[1]
        ]
        return ChunkResult(batches=(cast("OutcomeBatch", SimpleNamespace(outcomes=rows)),))

    def make_lost_batch(self, position: int, reason: str) -> Any:  # noqa: ARG002
        """See `TaskBackend`; nothing is lost."""
        raise AssertionError(reason)

    def cancel_chunks(self, handles: Sequence[int]) -> None:
        """See `TaskBackend`."""
        for handle in handles:
            self._ends.pop(handle, None)


def simulate_cluster_run(passes: np.ndarray, slots: int, batch_size: int) -> float:
    """Return the simulated time of AutoAttack on a cluster, in image-passes: the pilot, then the rest.

    Args:
        passes: Passes of each image.
        slots: Number of tasks at once.
        batch_size: Images per pass.
    """
    job, nodes = build_simulated_job(len(passes)), SimulatedNodes(passes, slots, batch_size)
    pilot = choose_pilot_positions(job, batch_size)
    for done, selected in (((), pilot), (pilot, None)):
        if selected == []:
            continue
        schedule = ChunkSchedule(
            split_into_chunks(job, batch_size, set(done), selected, slots),
            nodes,
            has_succeeded=bool(done),
            max_failures=3,
            notify=lambda _: None,
            clock=lambda: nodes.clock,
        )
        for _ in schedule.run():
            pass
    return nodes.clock
