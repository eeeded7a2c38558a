"""torchattacks (MIT)."""

from __future__ import annotations

import torch
import torchattacks
from torch import Tensor

from benchmarks.job import Job, Run

_MOST_CLASSES = 10
"""FAB on more of them takes longer than all other rows together."""


def _fgsm(job: Job) -> Tensor:
    return torchattacks.FGSM(job.module, eps=job.eps)(job.images, job.labels)


def _pgd(job: Job) -> Tensor:
    torch.manual_seed(job.seed)
    attack = torchattacks.PGD(job.module, eps=job.eps, alpha=job.step_size, steps=job.steps)
    return attack(job.images, job.labels)


def _apgd(job: Job) -> Tensor:
    attack = torchattacks.APGD(job.module, eps=job.eps, steps=job.steps, seed=job.seed, loss="ce")
    return attack(job.images, job.labels)


def _apgd_t(job: Job) -> Tensor:
    attack = torchattacks.APGDT(
        job.module, eps=job.eps, steps=job.steps, seed=job.seed, n_classes=job.num_classes
    )
    return attack(job.images, job.labels)


def _fab_t(job: Job) -> Tensor:
    if job.num_classes > _MOST_CLASSES:
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


def _square(job: Job) -> Tensor:
    attack = torchattacks.Square(job.module, eps=job.eps, n_queries=job.steps, seed=job.seed)
    return attack(job.images, job.labels)


def _deepfool(job: Job) -> Tensor:
    return torchattacks.DeepFool(job.module, steps=job.steps)(job.images, job.labels)


METHODS: dict[str, Run] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "apgd": _apgd,
    "apgd-t": _apgd_t,
    "fab-t": _fab_t,
    "square": _square,
    "deepfool": _deepfool,
}
