"""Batch sizes and the cost of a pass, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.errors import ModelError

MIN_BATCH_SIZE, MAX_BATCH_SIZE = 8, 1024
"""Smallest and largest batch size to try: powers of two."""
MAX_COST_SHARE = 0.95
"""A larger batch is worth its memory if the cost per image is at most this share of that in a smaller one."""
MAX_SLOWDOWN_FACTOR = 1.5
"""No larger batch is tried once the cost per image exceeds the best one by this factor."""
TIMED_PASSES = 8
"""Number of passes timed together for the plan's estimate, as many as in the smallest batch of a run."""
MAX_PASS_SECONDS = 0.1
"""No larger batch is tried once a pass takes this many seconds."""


@dataclass(frozen=True, kw_only=True)
class ModelSpeed:
    """Seconds per image for one pass, measured once on a model."""

    forward_seconds: float
    """Seconds of one forward pass."""
    backward_seconds: float
    """Seconds that a backward pass adds to a forward pass."""

    def estimate_seconds(self, passes: tuple[int, int]) -> float:
        """Estimate the seconds of a number of forward and backward passes."""
        return passes[0] * self.forward_seconds + passes[1] * self.backward_seconds


def tune_batch_size(classifier: Classifier, images: Tensor) -> int:
    """Return the smallest batch size whose time per image is about that of any larger one.

    Args:
        classifier: The classifier, on the device that it will be attacked on.
        images: (N, C, H, W), some of the images to evaluate; repeated where a batch needs more.

    Returns:
        A power of two, at least ``MIN_BATCH_SIZE``, that fits into memory with a backward pass. A callable is
        not measured, since it may be a remote service: its batch size depends on the size of the images.
    """
    if classifier.module is None:
        return compute_default_batch_size(images)
    costs: dict[int, float] = {}
    size = MIN_BATCH_SIZE
    with classifier.evaluation_mode():
        one_pass = _time_forward_backward
        while size <= MAX_BATCH_SIZE:
            batch = images[torch.arange(size) % len(images)].to(classifier.device)
            try:
                seconds = one_pass(classifier, batch)
            except Exception as failure:
                if (
                    one_pass is _time_forward_backward
                    and size == MIN_BATCH_SIZE
                    and not is_out_of_memory(failure)
                ):
                    one_pass = _time_forward  # a cut graph: black-box attacks still work
                    continue
                if not is_out_of_memory(failure) or size == MIN_BATCH_SIZE:
                    raise
                break
            costs[size] = seconds / size
            if seconds > MAX_PASS_SECONDS or costs[size] > MAX_SLOWDOWN_FACTOR * min(costs.values()):
                break
            size *= 2
    return min(size for size, cost in costs.items() if cost <= min(costs.values()) / MAX_COST_SHARE)


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_speed(classifier: Classifier, images: Tensor) -> ModelSpeed:
    """Time one forward and, where there are gradients, one backward pass on the first few images.

    A callable, which may be a remote service, is queried on two images only. For a randomized classifier the
    result is the time of one draw.
    """
    draws = passes_per_query(classifier)[0]
    batch = images[: max(TIMED_PASSES // draws, 1) if classifier.module is not None else 2]
    batch = batch.to(classifier.device)
    times = 3 if classifier.module is not None else 1
    with classifier.evaluation_mode(), torch.no_grad():
        forward = _time_call(lambda: classifier(batch), times) / len(batch) / draws
    backward = 0.0
    if classifier.access == "gradients":
        # a model whose graph is cut has no backward pass, which its attacks will report
        with classifier.evaluation_mode(), suppress(ModelError):
            backward = max(_time_forward_backward(classifier, batch) / len(batch) / draws - forward, 0.0)
    return ModelSpeed(forward_seconds=forward, backward_seconds=backward)


def _time_forward_backward(classifier: Classifier, batch: Tensor) -> float:
    """Return the seconds of a forward and, where there are gradients, a backward pass."""
    if classifier.access == "gradients":
        return _time_call(lambda: classifier.compute_gradient(batch, lambda logits: logits.sum(dim=1)))
    return _time_forward(classifier, batch)


def _time_forward(classifier: Classifier, batch: Tensor) -> float:
    """Return the seconds of a forward pass."""
    return _time_call(lambda: classifier(batch))


def _time_call(call: Callable[[], object], times: int = 3) -> float:
    """Return the best wall time of several calls, with the device's queue: other programs may run too."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
