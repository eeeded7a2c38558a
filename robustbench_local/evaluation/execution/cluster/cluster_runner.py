"""The runner of a cluster: what it does not need to know of cells and their rules is the harness's."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, IncompleteError, ModelTimeoutError
from robustbench_local.evaluation.execution.batch_size import BatchSizeChoice
from robustbench_local.evaluation.execution.cluster.chunk_schedule import ChunkSchedule
from robustbench_local.evaluation.execution.cluster.chunks import ChunkLostError, ChunkRequest
from robustbench_local.evaluation.execution.cluster.cluster_settings import ClusterSettings
from robustbench_local.evaluation.execution.cluster.connection import (
    check_nodes,
    connect_to_cluster,
    list_nodes,
)
from robustbench_local.evaluation.execution.cluster.head_watch import HeadWatch
from robustbench_local.evaluation.execution.cluster.job_parts import JobPacker, PackedImages
from robustbench_local.evaluation.execution.cluster.late_imports import read_late_imports
from robustbench_local.evaluation.execution.cluster.model_rebuilding import describe_rebuilding
from robustbench_local.evaluation.execution.cluster.node_tasks import compute_node_code
from robustbench_local.evaluation.execution.cluster.nodes import (
    CheckedNode,
    choose_gpus_per_task,
    describe_devices,
)
from robustbench_local.evaluation.execution.cluster.ray_backend import (
    Cluster,
    RayChunks,
    adapt_task,
    tune_task,
)
from robustbench_local.evaluation.execution.job_runner import JobRunner
from robustbench_local.evaluation.harness.adaptation import (
    MAX_BLACK_BOX_SAMPLE_IMAGES,
    MAX_CANDIDATE_FACTOR,
    adapt_job,
)
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import (
    HANG_NOTE_ENDING,
    MAX_FAILURES_BEFORE_SUCCESS,
    MAX_HANGS,
    IsolationSettings,
    Notifier,
    SizeReceiver,
)
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch, divide_seconds
from robustbench_local.evaluation.harness.shares import (
    MIN_BATCH_SHARE,
    compute_share_size,
    find_largest_share,
)
from robustbench_local.evaluation.planning.plan import CellSpec, Plan
from robustbench_local.store.records import AdaptationRecord

MIN_CHUNK_IMAGES = 8
"""Minimum number of images of a chunk where there is more than a batch for every task."""
TUNING_IMAGES = 64
"""Number of images on which the batch size is measured; larger batches repeat them."""
MAX_TASK_LOSSES = 5
"""Number of times that a task besides the chunks is lost before the cell is given up."""


class ClusterRunner(JobRunner):
    """Runs the work of cells as tasks of a cluster; outcomes come in the order in which they end.

    Args:
        cluster: The nodes.
        packer: Puts models and images into the object store.
        code: Digest of the code that nodes have to run.
        late_imports: Reference of the sources that users' models may import while they run.
        devices: Description of what the tasks compute on.
    """

    def __init__(
        self, cluster: Cluster, packer: JobPacker, *, code: str, late_imports: Any, devices: str
    ) -> None:
        self._cluster, self._packer, self._devices = cluster, packer, devices
        self._code, self._late_imports = code, late_imports

    def describe_environment(self) -> dict[str, Any]:
        """Return the devices of the tasks, how many run at once, and the one thread of each."""
        return {"device": self._devices, "workers": self._cluster.count_slots(), "threads": 1}

    def watch_cluster(self, abandon_run: Callable[[str], None]) -> HeadWatch:
        """Watch the node that holds the cluster's own state."""
        return HeadWatch(self._cluster.get_head_address(), abandon_run)

    def has_room(self) -> bool:
        """Return whether the cluster could run another task now."""
        return self._cluster.count_free_slots() > 0

    def tune_batch_size(
        self, cell: CellSpec, timeout: float | None, workers: int, most_images: int | None
    ) -> tuple[BatchSizeChoice, str | None]:
        """Measure on a node, because this machine may have no GPU."""
        job = cell.make_job()
        if workers > 1 or job.queried_model.module is not None:
            request = self._make_request(job, range(min(job.image_count, TUNING_IMAGES)), 1, timeout)
            choice: tuple[BatchSizeChoice, str | None] = self._run_task(tune_task, request)
            return choice
        return super().tune_batch_size(cell, timeout, workers, most_images)

    def adapt_job(
        self,
        job: Job,
        *,
        batch_size: int,
        isolation: IsolationSettings,
        notify: Notifier,
        known: AdaptationRecord | None,
    ) -> tuple[Job, AdaptationRecord | None]:
        """Adapt on a node, on the cell's first images."""
        if isinstance(job, AttackJob) and job.attack.adapts and known is None:
            count = min(job.image_count, MAX_CANDIDATE_FACTOR * MAX_BLACK_BOX_SAMPLE_IMAGES)
            request = self._make_request(job, range(count), batch_size, isolation.timeout)
            request = replace(request, seconds_left=isolation.cell_timeout or None)
            known, notes = self._run_task(adapt_task, request)
            for line in notes:
                notify(line)
            notify = _drop_note
        return adapt_job(job, batch_size=batch_size, isolation=isolation, notify=notify, known=known)

    def run_batches(
        self,
        job: Job,
        *,
        batch_size: int,
        done_positions: Collection[int],
        selected_positions: Collection[int] | None,
        notify: Notifier,
        on_smaller_batches: SizeReceiver,  # noqa: ARG002 - each node finds its own
        workers: int,  # noqa: ARG002 - a task computes in one process
        work_share: float,
        isolation: IsolationSettings,
    ) -> Iterator[OutcomeBatch | None]:
        """Run chunks of the images as tasks; verified on the nodes, and checked against the images here."""
        limit = isolation.cell_timeout or None
        deadline = None if limit is None else time.monotonic() + limit
        slots = self._cluster.count_slots()
        chunks = split_into_chunks(
            job, batch_size, set(done_positions), selected_positions, slots, work_share
        )
        if not chunks:
            return
        request = self._make_request(job, (), batch_size, isolation.timeout)
        backend = RayChunks(self._cluster, self._packer, job, request, deadline=deadline, notify=notify)
        schedule = ChunkSchedule(
            chunks,
            backend,
            has_succeeded=bool(done_positions),
            max_failures=min(MAX_FAILURES_BEFORE_SUCCESS, job.image_count),
            notify=notify,
            deadline=deadline,
        )
        hangs = 0
        for result in schedule.run():
            if result is None:
                yield None
                continue
            for note in result.model_notes:
                job.classifier.add_note(note)
            for line in result.notes:
                notify(line)
                hangs += line.endswith(HANG_NOTE_ENDING)
            slots = max(1, self._cluster.count_slots())
            yield from (divide_seconds(batch, slots) for batch in result.batches)
            if hangs >= MAX_HANGS:
                what = f"no pass finished for {isolation.timeout or 0:g} s, {hangs} times in this cell"
                remedy = "find out why it hangs, or raise --timeout"
                raise ModelTimeoutError(what, where=job.model_names, remedy=remedy)

    def _make_request(
        self, job: Job, positions: Sequence[int], batch_size: int, timeout: float | None
    ) -> ChunkRequest:
        images = self._packer.pack_images(job, positions) if positions else PackedImages((), ())
        return ChunkRequest(
            job=self._packer.pack_job(job),
            images=images,
            positions=tuple(positions),
            batch_size=batch_size,
            timeout=timeout,
            seconds_left=None,
            follows_success=False,
            device=self._cluster.device,
            code=self._code,
            late_imports=self._late_imports,
        )

    def _run_task(self, task: Callable[[ChunkRequest], Any], request: ChunkRequest) -> Any:
        """Run a task that is no chunk, again if it is lost."""
        for _ in range(MAX_TASK_LOSSES):
            reference = self._cluster.submit_task(task, request)
            try:
                return self._cluster.collect_result(reference)
            except ChunkLostError as loss:
                reason = loss.reason
            except BaseException:
                self._cluster.cancel_tasks([reference])
                raise
        what = f"the cluster lost the same task {MAX_TASK_LOSSES} times ({reason})"
        raise IncompleteError(what, remedy="the same command resumes the run")


def split_into_chunks(
    job: Job,
    batch_size: int,
    done: set[int],
    selected: Collection[int] | None,
    slots: int,
    work_share: float = 1.0,
) -> list[list[int]]:
    """Split the remaining images of a cell into chunks.

    Args:
        job: The cell's work.
        batch_size: Images per pass.
        done: Positions that need no work.
        selected: The positions to work on; None for all.
        slots: Number of chunks that run at once, of all cells.
        work_share: The cell's share of the work that is left in it and in the cells after it, in (0, 1].

    Returns:
        Ascending positions of each chunk. An attack that draws for whole groups gets its groups. Where there
        is more than a batch for each slot, chunks have the sizes of local workers' shares, large at first and
        small at the end of the last cell; otherwise each slot gets one. A chunk has at least as many images
        as show that a failure is the model's.
    """
    rest = set() if selected is None else set(range(job.image_count)).difference(selected)
    units = job.build_queue(batch_size, done | rest)
    if not job.is_divisible:
        return units
    positions = [position for unit in units for position in unit]
    slots = max(1, slots)
    later = round(len(positions) * (1 / work_share - 1))  # the work of later cells, in images of this one
    most = find_largest_share(max((len(unit) for unit in units), default=1), batch_size)
    equal = -(-(len(positions) + later) // slots)
    least = max(MIN_CHUNK_IMAGES, int(MIN_BATCH_SHARE * batch_size))
    chunks: list[list[int]] = []
    while positions:
        size = min(equal, most)
        if equal > batch_size:
            # before any success a batch decides whether the model is at fault, as in a local run
            is_first = not done and not chunks
            size = compute_share_size(len(positions) + later, slots, least=least, most=most)
            size = min(batch_size, most) if is_first else size
        size = max(size, MAX_FAILURES_BEFORE_SUCCESS)
        chunks.append(positions[:size])
        positions = positions[size:]
    if len(chunks) > 1 and len(chunks[-1]) < MAX_FAILURES_BEFORE_SUCCESS:
        chunks[-2:] = [chunks[-2] + chunks[-1]]
    return chunks


@contextmanager
def open_cluster_runner(
    settings: ClusterSettings, plan: Plan, notify: Callable[[str], None]
) -> Iterator[ClusterRunner]:
    """Connect to a cluster, check its nodes, and open the runner of a plan on it.

    Args:
        settings: The cluster.
        plan: The plan.
        notify: Receives a line about the cluster, and one for each node that gets no work.

    Raises:
        ConfigError: If there is no cluster, or no node that can run the plan.
    """
    with connect_to_cluster(settings) as ray:
        checked = check_nodes(ray, list_nodes(ray))
        usable = [entry.node for entry in checked if not entry.differences]
        for entry in checked:
            if entry.differences:
                notify(f"node {describe_difference(entry)}: it gets no work")
        if not usable:
            entry = checked[0]
            raise ConfigError(
                f"no node of the cluster runs the same code: {describe_difference(entry)}",
                remedy="install the same versions on every node; rbl doctor --executor ray lists them",
            )
        gpus = choose_gpus_per_task(usable, settings.gpus_per_task, allows_gpus=settings.allows_gpus)
        refused = [entry.node.id for entry in checked if entry.differences]
        cluster = Cluster(ray, gpus_per_task=gpus, max_tasks=settings.max_tasks, refused=refused)
        if gpus and not cluster.count_slots():
            what = f"no node of the cluster has {gpus:g} GPUs for a task"
            raise ConfigError(what, where="--gpus-per-task", remedy="give --device cpu, or fewer")
        notify(describe_cluster(cluster, len(usable)))
        packer = JobPacker(ray.put, ray.cloudpickle, describe_rebuilding(plan, ray.cloudpickle))
        imports = ray.put(read_late_imports())
        devices = describe_devices(usable, gpus)
        yield ClusterRunner(cluster, packer, code=compute_node_code(), late_imports=imports, devices=devices)


def describe_cluster(cluster: Cluster, node_count: int) -> str:
    """Describe what a run has, in one line."""
    slots = format_count(cluster.count_slots(), "task")
    gpus = f", {cluster.gpus_per_task:g} GPU each" if cluster.gpus_per_task else ""
    return f"Ray: {format_count(node_count, 'node')}, {slots} at a time with one CPU{gpus}"


def describe_difference(entry: CheckedNode) -> str:
    """Describe what differs on a node, in one line."""
    return f"{entry.node.name} ({entry.node.id[:8]}): {'; '.join(entry.differences)}"


def _drop_note(_line: str) -> None:
    """Drop a note that a node has already given."""
