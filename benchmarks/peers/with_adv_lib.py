"""adv-lib (BSD-3-Clause)."""

from __future__ import annotations

import math
from typing import Any

import torch
from adv_lib import attacks
from torch import Tensor

from benchmarks.job import Job, Run


def _run(job: Job, attack: Any, **parameters: Any) -> Tensor:
    torch.manual_seed(job.seed)
    return attack(job.module, job.images, job.labels, **parameters)


def _fgsm(job: Job) -> Tensor:
    return _run(job, attacks.pgd_linf, ε=job.eps, steps=1, random_init=False, absolute_step_size=job.eps)


def _pgd(job: Job) -> Tensor:
    return _run(job, attacks.pgd_linf, ε=job.eps, steps=job.steps, absolute_step_size=job.step_size)


def _apgd(job: Job) -> Tensor:
    return _run(job, attacks.apgd, eps=job.eps, norm=math.inf, n_iter=job.steps, loss_function="ce")


def _apgd_t(job: Job) -> Tensor:
    return _run(job, attacks.apgd_targeted, eps=job.eps, norm=math.inf, n_iter=job.steps, num_targets=9)


def _cw(job: Job) -> Tensor:
    return _run(job, attacks.carlini_wagner_l2, max_iterations=job.steps, binary_search_steps=9)


METHODS: dict[str, Run] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "apgd": _apgd,
    "apgd-t": _apgd_t,
    "ddn": lambda job: _run(job, attacks.ddn, steps=job.steps, levels=None),
    "fmn": lambda job: _run(job, attacks.fmn, norm=math.inf, steps=job.steps),
    "cw": _cw,
    "deepfool": lambda job: _run(job, attacks.df, steps=job.steps, norm=2),
}
