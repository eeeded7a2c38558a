"""torchattacks (MIT)."""

from __future__ import annotations

import torch
import torchattacks
from torch import Tensor

from benchmarks.job import AttackFunction, BenchmarkJob

_MAX_FAB_CLASSES = 10
"""FAB on more of them takes longer than all other rows together."""


def _run_fgsm(job: BenchmarkJob) -> Tensor:
    return torchattacks.FGSM(job.module, eps=job.eps)(job.images, job.labels)


def _run_pgd(job: BenchmarkJob) -> Tensor:
    torch.manual_seed(job.seed)
    attack = torchattacks.PGD(job.module, eps=job.eps, alpha=job.step_size, steps=job.steps)
    return attack(job.images, job.labels)


def _run_apgd(job: BenchmarkJob) -> Tensor:
    attack = torchattacks.APGD(job.module, eps=job.eps, steps=job.steps, seed=job.seed, loss="ce")
    return attack(job.images, job.labels)


def _run_apgd_t(job: BenchmarkJob) -> Tensor:
    attack = torchattacks.APGDT(
        job.module, eps=job.eps, steps=job.steps, seed=job.seed, n_classes=job.num_classes
    )
    return attack(job.images, job.labels)


def _run_fab_t(job: BenchmarkJob) -> Tensor:
    if job.num_classes > _MAX_FAB_CLASSES:
        raise TimeoutError(f"takes the gradients of all {job.num_classes} classes at every step")
    attack = torchattacks.FAB(
        job.module,
        eps=job.eps,
        steps=job.steps,
        seed=job.seed,
        multi_targeted=True,
        n_classes=job.num_classes,
    )
    return attack(job.images, job.labels)


def _run_square(job: BenchmarkJob) -> Tensor:
    attack = torchattacks.Square(job.module, eps=job.eps, n_queries=job.steps, seed=job.seed)
    return attack(job.images, job.labels)


def _run_deepfool(job: BenchmarkJob) -> Tensor:
    return torchattacks.DeepFool(job.module, steps=job.steps)(job.images, job.labels)


METHODS: dict[str, AttackFunction] = {
    "fgsm": _run_fgsm,
    "pgd": _run_pgd,
    "apgd": _run_apgd,
    "apgd-t": _run_apgd_t,
    "fab-t": _run_fab_t,
    "square": _run_square,
    "deepfool": _run_deepfool,
}
