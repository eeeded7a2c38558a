"""Batch sizes and the cost of a pass, measured on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.memory_limit import release_memory
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.execution.memory_use import find_available_bytes, measure_peak_bytes
from robustbench_local.evaluation.execution.pass_timer import time_pass

BATCH_SIZES = (8, 16, 64, 256, 1024)
"""Batch sizes to choose from, in images. They are far apart, so that their costs are too: a choice among all
powers of two is one among nearly equal costs, which comes out otherwise every time."""
MIN_BATCH_SIZE, MAX_BATCH_SIZE = BATCH_SIZES[0], BATCH_SIZES[-1]
"""Smallest and largest batch size to try."""
MAX_COST_SHARE = 0.85
"""A larger batch is worth its memory if the cost per image is at most this share of that in a smaller one."""
CLOSE_CALL_SHARE = 0.1
"""Costs that differ from that limit by less than this share are measured for more rounds."""
MAX_SLOWDOWN_FACTOR = 1.5
"""No larger batch is tried once the cost per image exceeds the best one by this factor."""
TIMED_PASSES = 8
"""Number of passes timed together for the plan's estimate, as many as in the smallest batch of a run."""
MAX_PASS_SECONDS = 0.1
"""No larger batch is tried once a pass takes this many seconds."""
MAX_WALL_SECONDS = 2.0
"""No larger batch is tried after a pass that the clock saw take this long, such as one that waits."""
REPEATED_ROUNDS = 4
"""Rounds over all sizes after the first one: a disturbance that lasts hits all sizes, or none."""
CLOSE_CALL_FACTOR = 3
"""So many times these rounds for the sizes between which it is a close call."""
MIN_TIMED_SECONDS = 0.004
"""Seconds of passes of one size in a round, where few passes are that long."""
MAX_REPEATS = 8
"""Maximum further passes of one size in a round."""
MAX_MEMORY_SHARE = 0.7
"""Share of the available memory that passes may take: an attack keeps tensors of its own beside them."""


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


@dataclass(frozen=True, kw_only=True)
class BatchSizeChoice:
    """A batch size and the reason for it."""

    size: int
    """Images in a pass of each worker."""
    reason: str
    """It follows the size in brackets."""


def tune_batch_size(
    classifier: Classifier, images: Tensor, *, workers: int = 1, most_images: int | None = None
) -> BatchSizeChoice:
    """Return the smallest of a few batch sizes whose time per image is about that of any larger one.

    Times are those of `time_pass`, and sizes are measured in turns, so that a busy machine gives the same
    answer as an idle one.

    Args:
        classifier: The classifier, on the device that it will be attacked on.
        images: (N, C, H, W), some of the images to evaluate; repeated where a batch needs more.
        workers: Processes that each hold such a batch.
        most_images: The largest number of images that a batch can have; None: any.

    Returns:
        One of ``BATCH_SIZES`` that fits into memory with a backward pass, in every worker at the same time;
        another power of two only where memory is short. A callable is not measured, since it may be a remote
        service: its batch size depends on the size of the images.
    """
    if classifier.module is None:
        size = compute_default_batch_size(images)
        return BatchSizeChoice(size=size, reason="by the size of the images: a callable is not measured")
    with classifier.evaluation_mode(), classifier.memory_limit.raise_at_once():
        return _SizeTrials(classifier, images, workers, most_images).choose_size()


class _SizeTrials:
    """The times and the memory of passes in batches of several sizes."""

    def __init__(self, classifier: Classifier, images: Tensor, workers: int, most_images: int | None) -> None:
        self._classifier, self._images, self._workers = classifier, images, workers
        self._most_images = math.inf if most_images is None else most_images
        self._pass = _run_forward_backward
        self._available = find_available_bytes(classifier.device)
        self._peak_before = measure_peak_bytes(lambda: None, classifier.device)
        self._seconds: dict[int, float] = {}
        self._memory_note = ""
        self._out_of_memory_size: int | None = None
        self._peak: int | None = None

    def choose_size(self) -> BatchSizeChoice:
        """Try sizes from the smallest on while larger ones may pay; then all of them again, in turns."""
        size: int | None = MIN_BATCH_SIZE
        while size is not None:
            size = self._find_larger(size) if self._try_size(size) else self._find_smaller(size)
        if max(self._seconds, default=0) < MIN_BATCH_SIZE:
            return BatchSizeChoice(size=max(self._seconds, default=1), reason=self._memory_note)
        for number in range(CLOSE_CALL_FACTOR * REPEATED_ROUNDS if len(self._seconds) > 1 else 0):
            for tried in self._seconds if number < REPEATED_ROUNDS else self._list_close_calls():
                self._seconds[tried] = min(self._seconds[tried], self._time_size(tried))
        return self._compare_costs()

    def _find_larger(self, size: int) -> int | None:
        """Return the size to try after one that passed; None if memory may not hold it or no batch has it."""
        if self._out_of_memory_size is not None or size >= self._most_images:
            return None
        larger = next((other for other in BATCH_SIZES if size < other <= MAX_BATCH_SIZE), None)
        for other in () if larger is None else sorted({larger, 2 * size}, reverse=True):
            if self._fits_memory(other, size):
                return other
            workers = "" if self._workers == 1 else f" in each of {self._workers} workers"
            self._memory_note = f"{other} at once might not fit into memory{workers}"
        return None

    def _find_smaller(self, size: int) -> int | None:
        """Return the size to try after one for which memory ran out; None if it did not, or half is tried."""
        is_tried = size // 2 <= max(self._seconds, default=0)
        return size // 2 if size == self._out_of_memory_size and not is_tried else None

    def _list_close_calls(self) -> list[int]:
        """List the sizes whose cost is close to the limit beyond which a larger one is chosen, and the best.

        Returns:
            Empty if there is no close call.
        """
        costs = self._costs
        limit = min(costs.values()) / MAX_COST_SHARE
        close = [size for size, cost in costs.items() if abs(cost / limit - 1) < CLOSE_CALL_SHARE]
        return [*close, min(costs, key=costs.__getitem__)] if close else []

    def _compare_costs(self) -> BatchSizeChoice:
        costs = self._costs
        size = min(size for size, cost in costs.items() if cost <= min(costs.values()) / MAX_COST_SHARE)
        ratio = costs[MIN_BATCH_SIZE] / costs[size]
        reason = f"measured: {ratio:.1f} times faster per image than {MIN_BATCH_SIZE}"
        if size == MIN_BATCH_SIZE:
            reason = "measured: larger batches are no faster per image"
        if self._memory_note and size == max(costs):
            reason = self._memory_note if size == MIN_BATCH_SIZE else f"{reason}; {self._memory_note}"
        return BatchSizeChoice(size=size, reason=reason)

    @property
    def _costs(self) -> dict[int, float]:
        """Seconds per image of each size."""
        return {size: seconds / size for size, seconds in self._seconds.items()}

    def _try_size(self, size: int) -> bool:
        """Run passes of a size and store their time if they fit; return whether to try a larger one.

        Raises:
            Exception: The model's; of a cut graph once only, because black-box attacks still work.
        """
        started = time.perf_counter()
        try:
            self._peak = measure_peak_bytes(partial(self._run_pass, size), self._classifier.device)
            is_endless = time.perf_counter() - started > MAX_WALL_SECONDS
            self._seconds[size] = self._time_size(size)
        except Exception as failure:
            if not is_out_of_memory(failure):
                if self._pass is _run_forward or self._seconds:
                    raise
                self._pass = _run_forward
                return self._try_size(size)
        if size not in self._seconds:
            release_memory()
            self._out_of_memory_size = size
            if size > 1:
                self._memory_note = f"memory ran out with {size}"
            return False
        if is_endless or self._seconds[size] > MAX_PASS_SECONDS:
            return False
        if self._costs[size] > MAX_SLOWDOWN_FACTOR * min(self._costs.values()):  # or it was disturbed
            self._seconds[size] = min(self._seconds[size], self._time_size(size))
        return self._costs[size] <= MAX_SLOWDOWN_FACTOR * min(self._costs.values())

    def _fits_memory(self, larger: int, size: int) -> bool:
        """Return whether a larger batch fits into each worker, by the memory that the pass of a size took."""
        if self._peak is None or self._peak_before is None or self._available is None:
            return True
        needed = (self._peak - self._peak_before) * larger / size * self._workers
        return needed <= MAX_MEMORY_SHARE * self._available

    def _time_size(self, size: int) -> float:
        """Return the smallest time of a few passes; of more where they are short."""
        seconds = [self._time_once(size)]
        repeats = int(MIN_TIMED_SECONDS / max(seconds[0], 1e-9))
        seconds += [self._time_once(size) for _ in range(min(repeats, MAX_REPEATS))]
        return min(seconds)

    def _time_once(self, size: int) -> float:
        return time_pass(partial(self._run_pass, size), self._classifier.device)

    def _run_pass(self, size: int) -> None:
        rows = torch.arange(size) % len(self._images)
        self._pass(self._classifier, self._images[rows].to(self._classifier.device))


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
        forward = _time_repeatedly(lambda: classifier(batch), classifier.device, times) / len(batch) / draws
    backward = 0.0
    if classifier.access == "gradients":
        # a model whose graph is cut has no backward pass, which its attacks will report
        with classifier.evaluation_mode(), suppress(ModelError):
            both = _time_repeatedly(lambda: _run_forward_backward(classifier, batch), classifier.device)
            backward = max(both / len(batch) / draws - forward, 0.0)
    return ModelSpeed(forward_seconds=forward, backward_seconds=backward)


def _run_forward_backward(classifier: Classifier, batch: Tensor) -> None:
    """Run a forward and, where there are gradients, a backward pass."""
    if classifier.access == "gradients":
        classifier.compute_gradient(batch, lambda logits: logits.sum(dim=1))
    else:
        _run_forward(classifier, batch)


def _run_forward(classifier: Classifier, batch: Tensor) -> None:
    classifier(batch)


def _time_repeatedly(call: Callable[[], object], device: torch.device, times: int = 3) -> float:
    """Return the smallest time of several calls."""
    return min(time_pass(call, device) for _ in range(times))
