"""The tasks of a cell as tasks of Ray, and Ray's errors as losses of a chunk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.errors import ModelError, ModelTimeoutError
from robustbench_local.evaluation.execution.batch_size import BatchSizeChoice
from robustbench_local.evaluation.execution.cluster.chunks import ChunkLostError, ChunkRequest, ChunkResult
from robustbench_local.evaluation.execution.cluster.connection import import_ray, list_nodes
from robustbench_local.evaluation.execution.cluster.job_parts import JobPacker
from robustbench_local.evaluation.execution.cluster.node_tasks import adapt_chunk, run_chunk, tune_chunk
from robustbench_local.evaluation.execution.cluster.nodes import count_task_slots
from robustbench_local.evaluation.execution.spent_resources import (
    RemoteUse,
    read_cpu_seconds,
    read_peak_bytes,
    record_remote_use,
)
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch
from robustbench_local.evaluation.harness.returned_batch import (
    ReturnedBatchError,
    build_failed_batch,
    check_returned_batch,
)
from robustbench_local.store.records import AdaptationRecord

SLOTS_SECONDS = 2.0
"""Seconds for which the number of slots is taken as unchanged."""


class Cluster:
    """The nodes that this process may give tasks to.

    Args:
        ray: The module, connected.
        gpus_per_task: GPUs of each task.
        max_tasks: Maximum number of tasks at once; None for as many as fit.
        refused: Ids of nodes that get no task, because they run other code.
    """

    def __init__(
        self, ray: Any, *, gpus_per_task: float, max_tasks: int | None, refused: Sequence[str] = ()
    ) -> None:
        self.ray, self.gpus_per_task, self._max_tasks = ray, gpus_per_task, max_tasks
        self.refused = set(refused)
        self._slots, self._slots_time = 0, -SLOTS_SECONDS
        self._names: dict[str, str] = {}
        self._busy: dict[Any, None] = {}

    @property
    def device(self) -> str:
        """Device of the tasks."""
        return "cuda" if self.gpus_per_task else "cpu"

    def get_head_address(self) -> str:
        """Return ``HOST:PORT`` of the node that holds the cluster's own state."""
        return str(self.ray.get_runtime_context().gcs_address)

    def count_slots(self) -> int:
        """Return the number of tasks that fit now."""
        if time.monotonic() - self._slots_time > SLOTS_SECONDS:
            nodes = list_nodes(self.ray)
            self._names |= {node.id: node.name for node in nodes}
            usable = [node for node in nodes if node.id not in self.refused]
            self._slots = count_task_slots(usable, self.gpus_per_task, self._max_tasks)
            self._slots_time = time.monotonic()
        return self._slots

    def count_free_slots(self) -> int:
        """Return the number of tasks that fit beside those that run."""
        return max(self.count_slots() - len(self._busy), 0)

    def wait_for_tasks(self, references: Sequence[Any], seconds: float) -> list[Any]:
        """Return those of some tasks that have ended, once any task of this run has."""
        self.ray.wait(list(self._busy), num_returns=1, timeout=seconds, fetch_local=True)
        if not references:
            return []
        ended, _ = self.ray.wait(list(references), num_returns=len(references), timeout=0, fetch_local=True)
        return list(ended)

    def name_node(self, node: str) -> str:
        """Return the name of a node, with the first digits of its id."""
        return f"{self._names.get(node, 'node')} ({node[:8]})"

    def refuse_node(self, node: str) -> None:
        """Give a node no more tasks."""
        self.refused.add(node)
        self._slots_time = -SLOTS_SECONDS

    def submit_task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Submit a function of this package as a task, and return its reference."""
        selector = {"ray.io/node-id": f"!in({','.join(sorted(self.refused))})"} if self.refused else None
        task = self.ray.remote(run_measured_task).options(
            num_cpus=1,
            num_gpus=self.gpus_per_task,
            max_retries=0,
            name=function.__name__,
            scheduling_strategy="SPREAD",
            **({"label_selector": selector} if selector else {}),
        )
        reference = task.remote(function, *arguments)
        self._busy[reference] = None
        return reference

    def collect_result(self, reference: Any) -> Any:
        """Return the result of a task.

        Raises:
            ChunkLostError: If its node, process or result was lost.
            ModelError: If the task could not begin: its code or model is not usable on the node.
        """
        errors = self.ray.exceptions
        self._busy.pop(reference, None)
        try:
            result, use = self.ray.get(reference)
        except errors.OutOfMemoryError as error:
            raise ChunkLostError(
                "the node ended a process for lack of memory", node_lost=False, out_of_memory=True
            ) from error
        except (errors.NodeDiedError, errors.ObjectLostError, errors.LocalRayletDiedError) as error:
            raise ChunkLostError("a node was lost", node_lost=True) from error
        except errors.WorkerCrashedError as error:
            lost = not self._is_same_cluster()
            reason = "a node was lost" if lost else "a process of a node was lost"
            raise ChunkLostError(reason, node_lost=lost) from error
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, ModelError):
                raise cause from error
            what = f"a node cannot run its work: {type(cause).__name__}: {extract_first_line(cause)}"
            remedy = "install the same packages on every node, or use --executor local"
            raise ModelError(what, remedy=remedy) from error
        except errors.RayError as error:
            raise ChunkLostError(
                f"Ray lost a task: {extract_first_line(error, 120)}", node_lost=True
            ) from error
        record_remote_use(use)
        return result

    def cancel_tasks(self, references: Sequence[Any]) -> None:
        """End tasks and their processes."""
        for reference in references:
            self._busy.pop(reference, None)
            with suppress(Exception):  # it may have ended, and its node too
                self.ray.cancel(reference, force=True)

    def _is_same_cluster(self) -> bool:
        """Check whether all nodes that were seen last are still alive."""
        before = set(self._names)
        alive = {node.id for node in list_nodes(self.ray)}
        self._names = {node: name for node, name in self._names.items() if node in alive}
        self._slots_time = -SLOTS_SECONDS
        return before <= alive


class RayChunks:
    """Runs the chunks of one cell on a cluster.

    Args:
        cluster: The nodes.
        packer: Puts models and images into the object store.
        job: The cell's work, here with all its images.
        request: The parts of a request that all chunks share.
        deadline: Time by `time.monotonic` at which the cell has to be finished; None for no limit.
        notify: Receives notes of nodes that are refused.
    """

    def __init__(
        self,
        cluster: Cluster,
        packer: JobPacker,
        job: Job,
        request: ChunkRequest,
        *,
        deadline: float | None,
        notify: Callable[[str], None],
    ) -> None:
        self._cluster, self._packer, self._job = cluster, packer, job
        self._request, self._deadline, self._notify = request, deadline, notify
        self._sent: dict[Any, tuple[tuple[int, ...], str]] = {}

    def count_slots(self) -> int:
        """See `TaskBackend`."""
        return self._cluster.count_free_slots() + len(self._sent)

    def submit_chunk(self, positions: Sequence[int], *, shrinks: int, follows_success: bool) -> Any:
        """See `TaskBackend`."""
        left = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.001)
        request = replace(
            self._request,
            images=self._packer.pack_images(self._job, positions),
            positions=tuple(positions),
            batch_size=max(1, self._request.batch_size >> shrinks),
            seconds_left=left,
            follows_success=follows_success,
            token=secrets.token_hex(8),
        )
        reference = self._cluster.submit_task(run_chunk_task, request)
        self._sent[reference] = request.positions, request.token
        return reference

    def wait_for_chunks(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """See `TaskBackend`."""
        return self._cluster.wait_for_tasks(handles, seconds)

    def collect_result(self, handle: Any) -> ChunkResult:
        """See `TaskBackend`; outcomes are checked against the images here."""
        sent, token = self._sent.pop(handle)
        try:
            result: ChunkResult = self._cluster.collect_result(handle)
        except ChunkLostError:
            why = read_hang_report(self._cluster.ray, token)
            if not why:
                raise
            what = f"{why}, and it cannot be interrupted"
            return ChunkResult(failure=ModelTimeoutError(what, where=self._job.model_names))
        if result.refusal and result.node not in self._cluster.refused:
            self._cluster.refuse_node(result.node)
            self._notify(f"{self._cluster.name_node(result.node)}: {result.refusal}: it gets no work")
        for batch in result.batches:
            try:
                check_returned_batch(self._job, batch, sent)
            except ReturnedBatchError as error:
                name = self._cluster.name_node(result.node)
                raise ChunkLostError(f"{name} returned {error}", node_lost=False) from error
        return result

    def make_lost_batch(self, position: int, reason: str) -> OutcomeBatch:
        """See `TaskBackend`."""
        failure = ModelError(reason, where=self._job.model_names, remedy="run it by itself")
        batch = build_failed_batch(self._job, position, failure)
        self._notify(f"{batch.outcomes[0].image}: {batch.outcomes[0].error}")
        return batch

    def cancel_chunks(self, handles: Sequence[Any]) -> None:
        """See `TaskBackend`."""
        for handle in handles:
            self._sent.pop(handle, None)
        self._cluster.cancel_tasks(handles)


def run_measured_task(function: Callable[..., Any], *arguments: Any) -> tuple[Any, RemoteUse]:
    """Run a task in a process of a node, and return its result and what it took."""
    before = read_cpu_seconds()
    result = function(*arguments)
    return result, RemoteUse(cpu_seconds=read_cpu_seconds() - before, peak_bytes=read_peak_bytes())


def run_chunk_task(request: ChunkRequest) -> ChunkResult:
    """Run a chunk in a process of a node."""
    ray = import_ray()
    node = ray.get_runtime_context().get_node_id()
    return run_chunk(request, ray.get, node, partial(_report_hang, ray, request.token))


def adapt_task(request: ChunkRequest) -> tuple[AdaptationRecord | None, tuple[str, ...]]:
    """Adapt an attack in a process of a node."""
    ray = import_ray()
    return adapt_chunk(request, ray.get, partial(_report_hang, ray, request.token))


def tune_task(request: ChunkRequest) -> tuple[BatchSizeChoice, str | None]:
    """Measure a batch size in a process of a node."""
    return tune_chunk(request, import_ray().get)


def _report_hang(ray: Any, token: str, why: str) -> None:
    """Store why a process ends itself, where the driver looks when it is lost."""
    with suppress(Exception):  # without a report the process counts as lost
        ray.experimental.internal_kv._internal_kv_put(token, why)  # noqa: SLF001 - Ray has no public one


def read_hang_report(ray: Any, token: str) -> str:
    """Return why the process of a task ended itself; empty if it did not."""
    with suppress(Exception):
        content = ray.experimental.internal_kv._internal_kv_get(token)  # noqa: SLF001 - as above
        return content.decode() if content else ""
    return ""
