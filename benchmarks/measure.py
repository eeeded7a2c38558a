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
from benchmarks.job import Job, Run
from benchmarks.ladder import independent
from benchmarks.passes import Bare, Passes
from benchmarks.rows import Row
from benchmarks.subjects import Subject
from robustbench_local.classifier.foreign_errors import first_line
from robustbench_local.threats.lp_ball import norm_of
from robustbench_local.threats.threat_model import Norm

T = TypeVar("T")

_COUNTED_IMAGES, _COUNTED_STEPS = 8, 20
_MEASURED = 5
"""Times that peak memory is measured: it moves by a tenth or two."""
_SHORTEST = 0.2
"""Seconds: a shorter run is repeated until so long has been measured, or its figure would be chance."""
_SLACK = 1e-5
"""Relative; a candidate outside the ball by more is no success."""


@dataclass(kw_only=True)
class Arm:
    """Who runs the row, and what came of it; lists have an entry for each round, whose number is the seed."""

    name: str
    run: Run
    network: nn.Module
    """What its passes go through, without what is done to the pixels before."""
    seconds: list[float] = field(default_factory=list)
    robust: list[Tensor] = field(default_factory=list)
    """(N,) boolean: read right, and still read right where the candidate is."""
    distances: list[Tensor] = field(default_factory=list)
    """(N,): of the candidate if it is a success, else infinite; 0 where the image is read wrong."""
    outside: int = 0
    """Candidates outside ball or box."""
    passes: list[tuple[float, float]] = field(default_factory=list)
    """Forward and backward, an image."""
    bare: list[float] = field(default_factory=list)
    """Seconds of the same passes, in batches of the same sizes, through the bare network."""
    tally: operations.Tally | None = None
    memory: float | None = None
    failure: str = ""


@dataclass(kw_only=True)
class Result:
    """A row on a subject at a radius."""

    row: Row
    subject: Subject
    eps: float | None
    n: int
    arms: list[Arm]

    def ratio(self, arm: Arm) -> float:
        """Its time over that of the first arm, the median over the rounds."""
        return median(a / b for a, b in zip(arm.seconds, self.arms[0].seconds, strict=True))

    def overhead(self, arm: Arm) -> float:
        """Its time over that of the same passes, in batches of the same sizes, through the bare network."""
        pairs = zip(arm.seconds, arm.bare, strict=True)
        return median(seconds / floor if floor else math.inf for seconds, floor in pairs)


def measure(
    row: Row, subject: Subject, eps: float | None, n: int, rounds: int, peers: dict[str, Run], device: str
) -> Result:
    """Run a row.

    Args:
        row: What to compare.
        subject: On what.
        eps: Radius; None where the method looks for the nearest adversarial image.
        n: Images, the subject's first.
        rounds: Times that every arm runs, with another seed each time.
        peers: The other libraries' implementations, by name.
        device: Where.
    """
    images, labels = subject.images[:n], subject.labels[:n]
    classifier = subject.classifier
    job = Job(
        module=subject.module,
        reader=subject.frozen,
        images=images,
        labels=labels,
        num_classes=classifier.num_classes,
        eps=_largest(row, images) if eps is None else eps,
        steps=row.steps,
        seed=0,
    )
    arms = _arms(row, subject, peers)
    with warnings.catch_warnings(), classifier.attacked():
        warnings.simplefilter("ignore")
        if row.memory:  # before anything else, so that all begin alike
            for arm in arms:
                _remember(arm, job, device)
        for arm in arms:
            _prepare(arm, row, job)
        for seed in range(rounds):
            bare = Bare(subject.frozen, images, lambda run: timed(run, device)[0])
            for arm in arms:
                if not arm.failure:
                    _round(arm, row, subject, replace(job, seed=seed), bare, device)
    return Result(row=row, subject=subject, eps=eps, n=len(images), arms=arms)


def _arms(row: Row, subject: Subject, peers: dict[str, Run]) -> list[Arm]:
    """Ours first, then what nobody can do without, then the others."""
    network = subject.classifier.module
    assert network is not None
    ours_ = [
        Arm(name=_our_name(row, method), run=_ours(method, subject, row.norm), network=network)
        for method in row.ours
    ]
    least = arithmetic.METHODS.get(row.method)
    if least is not None and not row.ladder and row.norm == "Linf":
        ours_.append(Arm(name=arithmetic.NAME, run=least, network=subject.frozen.network))
    theirs = ((name, independent(run) if row.ladder else run) for name, run in peers.items())
    return ours_ + [Arm(name=name, run=run, network=subject.module.network) for name, run in theirs]


def _ours(method: str, subject: Subject, norm: Norm) -> Run:
    return lambda job: ours.run(method, subject.classifier, job, norm)


def _our_name(row: Row, method: str) -> str:
    if len(row.ours) == 1:
        return "ours"
    return "ours, early stop" if method.endswith("early stop") else "ours"


def _few(job: Job) -> Job:
    """A short run, to warm up and to count by."""
    images, labels = job.images[:_COUNTED_IMAGES], job.labels[:_COUNTED_IMAGES]
    return replace(job, images=images, labels=labels, steps=min(job.steps, _COUNTED_STEPS))


def _remember(arm: Arm, job: Job, device: str) -> None:
    with _noting_failure(arm):
        peaks = [
            memory.peak_increase(lambda: arm.run(job), device, lambda: arm.run(_few(job)))
            for _ in range(_MEASURED)
        ]
        known = [peak for peak in peaks if peak is not None]
        arm.memory = median(known) if known else None


def _prepare(arm: Arm, row: Row, job: Job) -> None:
    """A first, short run: it warms up, counts operations and shows whether the arm works at all."""
    with _noting_failure(arm):
        if row.counted:
            arm.tally = operations.count(lambda: arm.run(_few(job)), arm.network)


def _round(arm: Arm, row: Row, subject: Subject, job: Job, bare: Bare, device: str) -> None:
    gc.collect()
    passes = Passes()
    with _noting_failure(arm):
        with passes.of(arm.network):
            seconds, candidates = timed(lambda: arm.run(job), device)
        arm.seconds.append(_steady(seconds, lambda: arm.run(job), device))
        arm.passes.append(passes.an_image(len(job.images)))
        arm.bare.append(bare.seconds(passes))
        _score(arm, row, subject, job, candidates.detach())


def _steady(first: float, run: Callable[[], object], device: str) -> float:
    """Seconds of a run whose first took so long: where that was short, the mean of further ones."""
    more = math.ceil(_SHORTEST / first) - 1 if first > 0 else 0
    return timed(lambda: [run() for _ in range(more)], device)[0] / more if more > 0 else first


@contextmanager
def _noting_failure(arm: Arm) -> Iterator[None]:
    """A library that fails is a line of the table, not the end of the run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it may be
        arm.failure = f"{type(error).__name__}: {first_line(error, 80)}"


def _score(arm: Arm, row: Row, subject: Subject, job: Job, candidates: Tensor) -> None:
    """Clean-correct and adversarial-correct; a candidate outside the ball or the box breaks nothing."""
    size = norm_of((candidates - job.images).nan_to_num(torch.inf), row.norm)
    inside = (size <= job.eps * (1 + _SLACK) + 1e-6) & _in_box(candidates)
    right = _read(subject, job.images) == job.labels
    wrong_there = _read(subject, candidates.nan_to_num(0.0)) != job.labels
    success = inside & wrong_there
    arm.outside += int((~inside & wrong_there & right).sum())
    arm.robust.append((right & ~success).cpu())
    arm.distances.append(torch.where(right, size.masked_fill(~success, torch.inf), 0.0).cpu())


def _in_box(candidates: Tensor) -> Tensor:
    flat = candidates.flatten(1)
    return (flat.amin(dim=1) >= -_SLACK) & (flat.amax(dim=1) <= 1 + _SLACK)


@torch.no_grad()
def _read(subject: Subject, images: Tensor) -> Tensor:
    logits: Tensor = subject.module(images)
    return logits.argmax(dim=1)


def timed(run: Callable[[], T], device: str) -> tuple[float, T]:
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


def _largest(row: Row, images: Tensor) -> float:
    """A radius that no image in the box can leave."""
    return 1.0 if row.norm == "Linf" else float(images[0].numel()) ** 0.5
