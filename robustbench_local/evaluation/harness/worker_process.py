"""A worker process of a pool: it receives positions and sends their outcomes, until it is told to stop."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.memory_limit import drop_tracebacks, release_memory
from robustbench_local.classifier.pass_counter import count_finished_passes
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch
from robustbench_local.evaluation.isolation.child_process import Channel
from robustbench_local.evaluation.isolation.isolated_call import build_exit_error, make_picklable_error

HEARTBEAT_SECONDS = 0.5
"""Seconds between two checks of the workers' passes."""
STOP_REQUEST = "stop"
"""The last request."""
CURRENT_PASSES, FINISHED_PASSES = 0, 1
"""Indices of a worker's counts: the passes of its batch so far, and all finished ones."""


@dataclass(frozen=True)
class WorkerRequest:
    """The images that a worker is given."""

    positions: list[int]
    batch_size: int
    """Images per pass."""
    memory_limits: tuple[int | None, ...] = (None, None)
    """Images that fitted into memory at once elsewhere, as in `WorkerResponse`."""


@dataclass(frozen=True)
class WorkerResponse:
    """What a worker makes of them: a batch or a failure."""

    batch: OutcomeBatch | None
    failure: Exception | None
    notes: tuple[str, ...]
    memory_limits: tuple[int | None, ...] = (None, None)
    """Images that fitted into memory at once, for the classifier under test and the queried one."""


def serve_requests(
    work: Job,
    ready: Callable[[], AbstractContextManager[Any]],
    counts: ctypes.Array[ctypes.c_int64],
    channel: Channel,
) -> None:
    """Serve requests in a worker: receive positions, send their outcomes, until told to stop."""
    threading.Thread(target=_publish_pass_counts, args=(work.queried_model, counts), daemon=True).start()
    order, known, failure = channel.receive_request(), len(work.classifier.notes), None
    try:
        with ready():
            while order != STOP_REQUEST:
                channel.send_response(run_request(work, order))
                known = len(work.classifier.notes)
                order = channel.receive_request()
    except (EOFError, BrokenPipeError):
        return
    except BaseException as problem:  # noqa: BLE001 - the model cannot be made ready, or not be put back
        failure = _convert_failure(problem, work)
    while order != STOP_REQUEST:
        channel.send_response(WorkerResponse(None, failure, ()))
        order = channel.receive_request()
    channel.send_response(WorkerResponse(None, None, tuple(work.classifier.notes[known:])))


def run_request(work: Job, order: WorkerRequest) -> WorkerResponse:
    """Run the job on the images of a request; what it raises is part of the response."""
    known = len(work.classifier.notes)
    work.queried_model.configure(batch_size=order.batch_size)
    lower_memory_limits(work, order.memory_limits)
    batch: OutcomeBatch | None = None
    failure: Exception | None = None
    try:
        batch = work.run(order.positions)
    except BaseException as problem:  # noqa: BLE001 - raised again in the parent
        failure = _convert_failure(problem, work)
        drop_tracebacks(problem)  # this frame is in it too: without, what it holds would stay
    if failure is not None and is_out_of_memory(failure):
        release_memory()
    return WorkerResponse(batch, failure, tuple(work.classifier.notes[known:]), read_memory_limits(work))


def read_memory_limits(work: Job) -> tuple[int | None, ...]:
    """Return the limits of the classifier under test and the queried one."""
    return tuple(model.memory_limit.max_images for model in (work.classifier, work.queried_model))


def lower_memory_limits(work: Job, limits: tuple[int | None, ...]) -> None:
    """Lower the same limits to those of another process."""
    for model, max_images in zip((work.classifier, work.queried_model), limits, strict=False):
        model.memory_limit.lower_limit(max_images)


def _convert_failure(problem: BaseException, work: Job) -> Exception:
    """Convert an exception for the parent; an interrupt inside a worker can only come from the model."""
    if isinstance(problem, Exception):
        return make_picklable_error(problem)
    return build_exit_error(problem, work.model_names)


def _publish_pass_counts(classifier: Classifier, counts: ctypes.Array[ctypes.c_int64]) -> None:
    """Publish the worker's pass counts as long as it lives."""
    pause = threading.Event()
    while not pause.wait(HEARTBEAT_SECONDS / 4):
        counts[CURRENT_PASSES] = classifier.count_current_passes()
        counts[FINISHED_PASSES] = count_finished_passes()
