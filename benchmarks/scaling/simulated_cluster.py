"""The real schedule of a cluster's chunks, with nodes that take simulated time."""

from __future__ import annotations

import itertools
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
from robustbench_local.evaluation.execution.side_by_side import Steps, run_side_by_side
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.job import OutcomeBatch


class SimulatedNodes:
    """Nodes whose chunks end at moments of a simulated clock.

    Args:
        slots: Number of chunks at once.
        batch_size: Images per pass.
    """

    def __init__(self, slots: int, batch_size: int) -> None:
        self.slots, self.batch_size, self.clock = slots, batch_size, 0.0
        self.ends: dict[int, float] = {}

    def has_room(self) -> bool:
        """Check whether nodes are idle."""
        return len(self.ends) < self.slots


class SimulatedChunks:
    """The chunks of one cell on simulated nodes.

    Args:
        nodes: The nodes.
        passes: Passes of each image.
    """

    def __init__(self, nodes: SimulatedNodes, passes: np.ndarray) -> None:
        self.nodes, self.passes = nodes, passes
        self._sent: dict[int, tuple[int, ...]] = {}
        self._count = itertools.count(id(self) << 32)

    def count_slots(self) -> int:
        """See `TaskBackend`."""
        return self.nodes.slots - len(self.nodes.ends) + len(self._sent)

    def submit_chunk(self, positions: Sequence[int], *, shrinks: int, follows_success: bool) -> int:  # noqa: ARG002
        """See `TaskBackend`."""
        handle = next(self._count)
        time = compute_request_time(self.passes[list(positions)].tolist(), self.nodes.batch_size)
        self.nodes.ends[handle] = self.nodes.clock + time
        self._sent[handle] = tuple(positions)
        return handle

    def wait_for_chunks(self, handles: Sequence[int], seconds: float) -> list[int]:  # noqa: ARG002
        """See `TaskBackend`; the clock jumps to the first end of any cell's chunk."""
        first = min(self.nodes.ends, key=self.nodes.ends.__getitem__)
        self.nodes.clock = max(self.nodes.clock, self.nodes.ends[first])
        return [first] if first in handles else []

    def collect_result(self, handle: int) -> ChunkResult:
        """See `TaskBackend`."""
        del self.nodes.ends[handle]
        rows = [
            SimpleNamespace(position=position, status="ok", clean_correct=True)
            for position in self._sent.pop(handle)
        ]
        return ChunkResult(batches=(cast("OutcomeBatch", SimpleNamespace(outcomes=rows)),))

    def make_lost_batch(self, position: int, reason: str) -> Any:  # noqa: ARG002
        """See `TaskBackend`; nothing is lost."""
        raise AssertionError(reason)

    def cancel_chunks(self, handles: Sequence[int]) -> None:
        """See `TaskBackend`."""
        for handle in handles:
            self.nodes.ends.pop(handle, None)
            self._sent.pop(handle, None)


def simulate_cluster_run(cells: Sequence[np.ndarray], slots: int, batch_size: int) -> float:
    """Return the simulated time of a grid on a cluster, in image-passes: its pilots, then the rest.

    Args:
        cells: Passes of each image, for each cell.
        slots: Number of tasks at once.
        batch_size: Images per pass.
    """
    nodes = SimulatedNodes(slots, batch_size)
    job = build_simulated_job(len(cells[0]))
    pilot = choose_pilot_positions(job, batch_size)
    for done, selected in (((), pilot), (pilot, None)):
        if selected != []:
            run_side_by_side(
                [
                    _run_cell(nodes, passes, job, set(done), selected, 1 / (len(cells) - index))
                    for index, passes in enumerate(cells)
                ],
                nodes.has_room,
            )
    return nodes.clock


def _run_cell(
    nodes: SimulatedNodes,
    passes: np.ndarray,
    job: AttackJob,
    done: set[int],
    selected: list[int] | None,
    work_share: float,
) -> Steps:
    schedule = ChunkSchedule(
        split_into_chunks(job, nodes.batch_size, done, selected, nodes.slots, work_share),
        SimulatedChunks(nodes, passes),
        has_succeeded=bool(done),
        max_failures=3,
        notify=lambda _: None,
        clock=lambda: nodes.clock,
    )
    for _ in schedule.run():
        yield
