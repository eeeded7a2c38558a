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

from benchmarks import memory, operations, ours
from benchmarks.job import Job, Run
from benchmarks.ladder import independent
from benchmarks.rows import Row
from benchmarks.subjects import Subject
from robustbench_local.failures import first_line
from robustbench_local.geometry import norm_of
from robustbench_local.passes import CountedModule
from robustbench_local.threat import Norm

T = TypeVar("T")

_BARE_REPEATS = 5
"""Bare passes are short: so many are timed at once."""
_COUNTED_IMAGES, _COUNTED_STEPS = 8, 20
_SLACK = 1e-5
"""Relative; a candidate outside the ball by more is no success."""


@dataclass(kw_only=True)
class Arm:
    """Who runs the row, and what came of it; lists have an entry for each round, whose number is the seed."""

    name: str
    run: Callable[[Job], tuple[Tensor, tuple[float, float]]]
    seconds: list[float] = field(default_factory=list)
    robust: list[Tensor] = field(default_factory=list)
    """(N,) boolean: read right, and still read right where the candidate is."""
    distances: list[Tensor] = field(default_factory=list)
    """(N,): of the candidate if it is a success, else infinite; 0 where the image is read wrong."""
    outside: int = 0
    """Candidates outside ball or box."""
    passes: list[tuple[float, float]] = field(default_factory=list)
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
    bare: list[tuple[float, float]]
    """For each round, seconds an image of a forward pass, and of a forward and a backward pass."""

    def ratio(self, arm: Arm) -> float:
        """Its time over that of the first arm, the median over the rounds."""
        return median(a / b for a, b in zip(arm.seconds, self.arms[0].seconds, strict=True))

    def overhead(self, arm: Arm) -> float:
        """Its time over that of the same passes through the bare network with frozen parameters."""
        floors = [
            self.n * ((forward - backward) * one + backward * both)
            for (forward, backward), (one, both) in zip(arm.passes, self.bare, strict=True)
        ]
        pairs = zip(arm.seconds, floors, strict=True)
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
    arms = [Arm(name=_our_name(row, method), run=_ours(method, subject, row.norm)) for method in row.ours]
    arms += [
        Arm(name=name, run=_theirs(independent(run) if row.ladder else run)) for name, run in peers.items()
    ]
    bare: list[tuple[float, float]] = []
    with warnings.catch_warnings(), classifier.attacked():
        warnings.simplefilter("ignore")
        for arm in arms:
            _prepare(arm, row, subject, job, device)
        for seed in range(rounds):
            bare.append(_bare(subject.frozen, images, device))
            for arm in arms:
                if not arm.failure:
                    _round(arm, row, subject, replace(job, seed=seed), device)
    return Result(row=row, subject=subject, eps=eps, n=len(images), arms=arms, bare=bare)


def _ours(method: str, subject: Subject, norm: Norm) -> Callable[[Job], tuple[Tensor, tuple[float, float]]]:
    return lambda job: ours.run(method, subject.classifier, job, norm)


def _theirs(run: Run) -> Callable[[Job], tuple[Tensor, tuple[float, float]]]:
    def counted(job: Job) -> tuple[Tensor, tuple[float, float]]:
        total = [0, 0]
        module = CountedModule(job.module, total, job.module).eval()
        candidates = run(replace(job, module=module))
        return candidates, (total[0] / len(job.images), total[1] / len(job.images))

    return counted


def _our_name(row: Row, method: str) -> str:
    if len(row.ours) == 1:
        return "ours"
    return "ours, early stop" if method.endswith("early stop") else "ours"


def _prepare(arm: Arm, row: Row, subject: Subject, job: Job, device: str) -> None:
    """A first, short run: it warms up, counts operations and shows whether the arm works at all."""
    few = replace(
        job,
        images=job.images[:_COUNTED_IMAGES],
        labels=job.labels[:_COUNTED_IMAGES],
        steps=min(job.steps, _COUNTED_STEPS),
    )
    network = subject.classifier.module if arm.name.startswith("ours") else subject.module.network
    with _noting_failure(arm):
        if row.memory:
            arm.memory = memory.peak_increase(lambda: arm.run(job), device)
        if row.counted:
            arm.tally = operations.count(lambda: arm.run(few), network)


def _round(arm: Arm, row: Row, subject: Subject, job: Job, device: str) -> None:
    gc.collect()
    with _noting_failure(arm):
        seconds, (candidates, passes) = timed(lambda: arm.run(job), device)
        arm.seconds.append(seconds)
        arm.passes.append(passes)
        _score(arm, row, subject, job, candidates.detach())


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


def _bare(whole: nn.Module, images: Tensor, device: str) -> tuple[float, float]:
    """Seconds an image of a forward pass, and of a forward and a backward pass."""

    def forward() -> None:
        with torch.no_grad():
            for _ in range(_BARE_REPEATS):
                whole(images)

    def both() -> None:
        for _ in range(_BARE_REPEATS):
            leaf = images.detach().requires_grad_()
            torch.autograd.grad(whole(leaf).sum(), leaf)

    forward()
    both()
    scale = 1 / (_BARE_REPEATS * len(images))
    return timed(forward, device)[0] * scale, timed(both, device)[0] * scale


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
