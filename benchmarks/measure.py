"""One row on one subject: arms interleaved, medians, verdicts image by image."""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks import arithmetic, memory, operations, ours
from benchmarks.job import AttackFunction, BenchmarkJob
from benchmarks.ladder import attack_each_radius
from benchmarks.passes import BarePassTimer, PassCounts
from benchmarks.rows import BenchmarkRow
from benchmarks.subjects import BenchmarkModel
from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import Norm

ReturnT = TypeVar("ReturnT")

_OPERATION_COUNT_IMAGES, _OPERATION_COUNT_STEPS = 8, 20
_MEMORY_REPEATS = 5
"""Times that peak memory is measured: it moves by a tenth or two."""
_MIN_RUN_SECONDS = 0.2
"""Seconds: a shorter run is repeated until so long has been measured, or its figure would be chance."""
_RELATIVE_SLACK = 1e-5
"""Relative; a candidate outside the ball by more is no success."""


@dataclass(kw_only=True)
class Implementation:
    """Who runs the row, and what came of it; lists have an entry for each round, whose number is the seed."""

    name: str
    attack: AttackFunction
    network: nn.Module
    """What its passes go through, without what is done to the pixels before."""
    seconds: list[float] = field(default_factory=list)
    robust: list[Tensor] = field(default_factory=list)
    """(N,) boolean: read right, and still read right where the candidate is."""
    distances: list[Tensor] = field(default_factory=list)
    """(N,): of the candidate if it is a success, else infinite; 0 where the image is read wrong."""
    outside_count: int = 0
    """Candidates outside ball or box."""
    passes: list[tuple[float, float]] = field(default_factory=list)
    """Forward and backward, an image."""
    bare_seconds: list[float] = field(default_factory=list)
    """Seconds of the same passes, in batches of the same sizes, through the bare network."""
    operation_counts: operations.OperationCounts | None = None
    peak_memory_mib: float | None = None
    failure: str = ""


@dataclass(kw_only=True)
class BenchmarkResult:
    """A row on a subject at a radius."""

    row: BenchmarkRow
    subject: BenchmarkModel
    eps: float | None
    image_count: int
    implementations: list[Implementation]

    def compute_time_ratio(self, arm: Implementation) -> float:
        """Its time over that of the first arm, the median over the rounds."""
        return median(a / b for a, b in zip(arm.seconds, self.implementations[0].seconds, strict=True))

    def compute_overhead(self, arm: Implementation) -> float:
        """Its time over that of the same passes, in batches of the same sizes, through the bare network."""
        pairs = zip(arm.seconds, arm.bare_seconds, strict=True)
        return median(seconds / floor if floor else math.inf for seconds, floor in pairs)


def measure_row(
    row: BenchmarkRow,
    subject: BenchmarkModel,
    eps: float | None,
    image_count: int,
    rounds: int,
    peers: dict[str, AttackFunction],
    device: str,
) -> BenchmarkResult:
    """Run a row.

    Args:
        row: What to compare.
        subject: On what.
        eps: Radius; None where the method looks for the nearest adversarial image.
        image_count: Images, the subject's first.
        rounds: Times that every arm runs, with another seed each time.
        peers: The other libraries' implementations, by name.
        device: Where.
    """
    images, labels = subject.images[:image_count], subject.labels[:image_count]
    classifier = subject.classifier
    job = BenchmarkJob(
        module=subject.trainable_network,
        verdict_network=subject.frozen_network,
        images=images,
        labels=labels,
        num_classes=classifier.num_classes,
        eps=_compute_largest_radius(row, images) if eps is None else eps,
        steps=row.steps,
        seed=0,
    )
    arms = _build_implementations(row, subject, peers)
    with warnings.catch_warnings(), classifier.evaluation_mode():
        warnings.simplefilter("ignore")
        if row.measures_memory:  # before anything else, so that all begin alike
            for arm in arms:
                _measure_memory(arm, job, device)
        for arm in arms:
            _warm_up(arm, row, job)
        for seed in range(rounds):
            bare = BarePassTimer(subject.frozen_network, images, lambda run: measure_time(run, device)[0])
            for arm in arms:
                if not arm.failure:
                    _run_round(arm, row, subject, replace(job, seed=seed), bare, device)
    return BenchmarkResult(row=row, subject=subject, eps=eps, image_count=len(images), implementations=arms)


def _build_implementations(
    row: BenchmarkRow, subject: BenchmarkModel, peers: dict[str, AttackFunction]
) -> list[Implementation]:
    """Ours first, then what nobody can do without, then the others."""
    network = subject.classifier.module
    assert network is not None
    ours_ = [
        Implementation(
            name=_get_our_name(row, method),
            attack=_build_our_attack(method, subject, row.norm),
            network=network,
        )
        for method in row.our_methods
    ]
    least = arithmetic.METHODS.get(row.peer_method)
    if least is not None and not row.is_radius_curve and row.norm == "Linf":
        ours_.append(
            Implementation(
                name=arithmetic.ARITHMETIC_NAME, attack=least, network=subject.frozen_network.network
            )
        )
    theirs = ((name, attack_each_radius(run) if row.is_radius_curve else run) for name, run in peers.items())
    return ours_ + [
        Implementation(name=name, attack=run, network=subject.trainable_network.network)
        for name, run in theirs
    ]


def _build_our_attack(method: str, subject: BenchmarkModel, norm: Norm) -> AttackFunction:
    return lambda job: ours.run_method(method, subject.classifier, job, norm)


def _get_our_name(row: BenchmarkRow, method: str) -> str:
    if len(row.our_methods) == 1:
        return "ours"
    return "ours, early stop" if method.endswith("early stop") else "ours"


def _shorten_job(job: BenchmarkJob) -> BenchmarkJob:
    """A short run, to warm up and to count by."""
    images, labels = job.images[:_OPERATION_COUNT_IMAGES], job.labels[:_OPERATION_COUNT_IMAGES]
    return replace(job, images=images, labels=labels, steps=min(job.steps, _OPERATION_COUNT_STEPS))


def _measure_memory(arm: Implementation, job: BenchmarkJob, device: str) -> None:
    with _record_failure(arm):
        peaks = [
            memory.measure_peak_mib(lambda: arm.attack(job), device, lambda: arm.attack(_shorten_job(job)))
            for _ in range(_MEMORY_REPEATS)
        ]
        known = [peak for peak in peaks if peak is not None]
        arm.peak_memory_mib = median(known) if known else None


def _warm_up(arm: Implementation, row: BenchmarkRow, job: BenchmarkJob) -> None:
    """A first, short run: it warms up, counts operations and shows whether the arm works at all."""
    with _record_failure(arm):
        if row.counts_operations:
            arm.operation_counts = operations.count_operations(
                lambda: arm.attack(_shorten_job(job)), arm.network
            )


def _run_round(
    arm: Implementation,
    row: BenchmarkRow,
    subject: BenchmarkModel,
    job: BenchmarkJob,
    bare: BarePassTimer,
    device: str,
) -> None:
    gc.collect()
    passes = PassCounts()
    with _record_failure(arm):
        with passes.count_passes(arm.network):
            seconds, candidates = measure_time(lambda: arm.attack(job), device)
        arm.seconds.append(_measure_seconds(seconds, lambda: arm.attack(job), device))
        arm.passes.append(passes.compute_per_image(len(job.images)))
        arm.bare_seconds.append(bare.estimate_seconds(passes))
        _judge_candidates(arm, row, subject, job, candidates.detach())


def _measure_seconds(first: float, run: Callable[[], object], device: str) -> float:
    """Seconds of a run whose first took so long: where that was short, the mean of further ones."""
    more = math.ceil(_MIN_RUN_SECONDS / first) - 1 if first > 0 else 0
    return measure_time(lambda: [run() for _ in range(more)], device)[0] / more if more > 0 else first


@contextmanager
def _record_failure(arm: Implementation) -> Iterator[None]:
    """A library that fails is a line of the table, not the end of the run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it may be
        arm.failure = f"{type(error).__name__}: {extract_first_line(error, 80)}"


def _judge_candidates(
    arm: Implementation, row: BenchmarkRow, subject: BenchmarkModel, job: BenchmarkJob, candidates: Tensor
) -> None:
    """Clean-correct and adversarial-correct; a candidate outside the ball or the box breaks nothing."""
    size = compute_norms((candidates - job.images).nan_to_num(torch.inf), row.norm)
    inside = (size <= job.eps * (1 + _RELATIVE_SLACK) + 1e-6) & _is_in_box(candidates)
    right = _predict(subject, job.images) == job.labels
    wrong_there = _predict(subject, candidates.nan_to_num(0.0)) != job.labels
    success = inside & wrong_there
    arm.outside_count += int((~inside & wrong_there & right).sum())
    arm.robust.append((right & ~success).cpu())
    arm.distances.append(torch.where(right, size.masked_fill(~success, torch.inf), 0.0).cpu())


def _is_in_box(candidates: Tensor) -> Tensor:
    flat = candidates.flatten(1)
    return (flat.amin(dim=1) >= -_RELATIVE_SLACK) & (flat.amax(dim=1) <= 1 + _RELATIVE_SLACK)


@torch.no_grad()
def _predict(subject: BenchmarkModel, images: Tensor) -> Tensor:
    logits: Tensor = subject.trainable_network(images)
    return logits.argmax(dim=1)


def measure_time(run: Callable[[], ReturnT], device: str) -> tuple[float, ReturnT]:
    """Seconds of the CPU, or of the GPU's own clock, and what ``run`` returned."""
    if not device.startswith("cuda"):
        before = time.process_time()
        result = run()
        return time.process_time() - before, result
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000, result


def _compute_largest_radius(row: BenchmarkRow, images: Tensor) -> float:
    """A radius that no image in the box can leave."""
    return 1.0 if row.norm == "Linf" else float(images[0].numel()) ** 0.5
