"""adv-lib (BSD-3-Clause)."""

from __future__ import annotations

import math
from typing import Any

import torch
from adv_lib import attacks
from torch import Tensor

from benchmarks.job import AttackFunction, BenchmarkJob


def _run_attack(job: BenchmarkJob, attack: Any, **parameters: Any) -> Tensor:
    torch.manual_seed(job.seed)
    return attack(job.module, job.images, job.labels, **parameters)


def _run_fgsm(job: BenchmarkJob) -> Tensor:
    return _run_attack(
        job, attacks.pgd_linf, ε=job.eps, steps=1, random_init=False, absolute_step_size=job.eps
    )


def _run_pgd(job: BenchmarkJob) -> Tensor:
    return _run_attack(job, attacks.pgd_linf, ε=job.eps, steps=job.steps, absolute_step_size=job.step_size)


def _run_apgd(job: BenchmarkJob) -> Tensor:
    return _run_attack(job, attacks.apgd, eps=job.eps, norm=math.inf, n_iter=job.steps, loss_function="ce")


def _run_apgd_t(job: BenchmarkJob) -> Tensor:
    return _run_attack(
        job, attacks.apgd_targeted, eps=job.eps, norm=math.inf, n_iter=job.steps, num_targets=9
    )


def _run_cw(job: BenchmarkJob) -> Tensor:
    return _run_attack(job, attacks.carlini_wagner_l2, max_iterations=job.steps, binary_search_steps=9)


METHODS: dict[str, AttackFunction] = {
    "fgsm": _run_fgsm,
    "pgd": _run_pgd,
    "apgd": _run_apgd,
    "apgd-t": _run_apgd_t,
    "ddn": lambda job: _run_attack(job, attacks.ddn, steps=job.steps, levels=None),
    "fmn": lambda job: _run_attack(job, attacks.fmn, norm=math.inf, steps=job.steps),
    "cw": _run_cw,
    "deepfool": lambda job: _run_attack(job, attacks.df, steps=job.steps, norm=2),
}
