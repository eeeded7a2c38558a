"""The tasks that run on the nodes of a cluster. They decide no verdict themselves: the harness does.

A task runs the same `run_batches` as a local run, with a process of its own for the models where that is
possible. So candidates are verified on the node, by the code whose digest the node was asked for before.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

from robustbench_local.classifier.package_code import digest_code
from robustbench_local.evaluation.execution.batch_size import BatchSizeChoice
from robustbench_local.evaluation.execution.cluster.chunks import ChunkRequest, ChunkResult
from robustbench_local.evaluation.execution.cluster.late_imports import apply_late_imports
from robustbench_local.evaluation.execution.cluster.node_jobs import Get, build_job
from robustbench_local.evaluation.execution.model_speed import try_tune_batch_size
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.batches import IsolationSettings, run_batches
from robustbench_local.evaluation.harness.job import Job
from robustbench_local.evaluation.isolation.isolated_call import make_picklable_error
from robustbench_local.evaluation.planning.environment import VERDICT_MODULES
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.store.records import AdaptationRecord

HUNG_EXIT_CODE = 94
"""Exit code of a process whose model hangs and cannot be interrupted."""


@cache
def compute_node_code() -> str:
    """Return the digest of the code that runs on nodes: what decides verdicts, and these tasks."""
    return digest_code((*VERDICT_MODULES, "robustbench_local.evaluation.execution.cluster"))


def run_chunk(request: ChunkRequest, get: Get, node: str, report_hang: Callable[[str], None]) -> ChunkResult:
    """Run a chunk.

    Args:
        request: The chunk.
        get: Gets a value from the object store.
        node: Id of this node.
        report_hang: Tells the driver that this process ends itself because a model hangs in it.

    Returns:
        The outcomes so far, also after a failure.
    """
    if compute_node_code() != request.code:
        return ChunkResult(refusal="its robustbench_local has other code", node=node)
    started = time.monotonic()
    job = _build_job(request, get)
    known, batches, notes = len(job.classifier.notes), [], list[str]()
    failure: Exception | None = None
    others = () if not request.follows_success else _list_others(job, request)
    with _catch_termination() as is_terminated:
        try:
            for batch in run_batches(
                job,
                batch_size=request.batch_size,
                done_positions=others,
                selected_positions=request.positions,
                notify=notes.append,
                isolation=_make_isolation(request, report_hang),
            ):
                batches.append(batch)
                if is_terminated():
                    break
        except Exception as problem:  # noqa: BLE001 - the driver decides whose failure it is
            failure = make_picklable_error(problem)
        count = sum(len(batch.outcomes) for batch in batches)
        return ChunkResult(
            batches=tuple(batches),
            failure=failure,
            notes=tuple(notes),
            model_notes=tuple(job.classifier.notes[known:]),
            stops_early=failure is None and count < len(request.positions),
            node=node,
            seconds=time.monotonic() - started,
        )


def adapt_chunk(
    request: ChunkRequest, get: Get, report_hang: Callable[[str], None]
) -> tuple[AdaptationRecord | None, tuple[str, ...]]:
    """Adapt the attack of a cell to its model on the cell's first images, and return the notes about it."""
    job, notes = _build_job(request, get), list[str]()
    isolation = _make_isolation(request, report_hang)
    _, adaptation = adapt_job(job, batch_size=request.batch_size, isolation=isolation, notify=notes.append)
    return adaptation, tuple(notes)


def tune_chunk(request: ChunkRequest, get: Get) -> tuple[BatchSizeChoice, str | None]:
    """Measure the batch size of the model that a job queries, on some of its images."""
    job = _build_job(request, get)
    subject = EvaluationSubject(
        id=job.queried_model.name,
        classifier=job.queried_model,
        data=job.select_images(request.positions),
        digest="",
        description={},
    )
    return try_tune_batch_size(subject, request.timeout)


def _build_job(request: ChunkRequest, get: Get) -> Job:
    apply_late_imports(get(request.late_imports))
    return build_job(request.job, request.images, request.positions, get, request.device)


def _list_others(job: Job, request: ChunkRequest) -> frozenset[int]:
    """Return the positions outside of the chunk; of a cell without any, a position that no image has."""
    return frozenset(range(job.image_count)).difference(request.positions) or frozenset({job.image_count})


def _make_isolation(request: ChunkRequest, report_hang: Callable[[str], None]) -> IsolationSettings:
    def abort(why: str) -> None:
        report_hang(why)
        os._exit(HUNG_EXIT_CODE)

    return IsolationSettings(
        isolated=True,
        timeout=request.timeout,
        cell_timeout=request.seconds_left,
        abort_hung_model=abort,
    )


@contextmanager
def _catch_termination() -> Iterator[Callable[[], bool]]:
    """Take note of SIGTERM, with which a node that is reclaimed gives its processes some seconds, not die."""
    caught: list[int] = []

    def note(kind: int, _frame: FrameType | None) -> None:
        caught.append(kind)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before: Any = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGTERM, before)
