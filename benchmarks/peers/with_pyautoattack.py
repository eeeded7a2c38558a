"""pyautoattack (MIT): the published AutoAttack as a package."""

from __future__ import annotations

import logging
from typing import Any

from pyautoattack import AutoAttack
from torch import Tensor

from benchmarks.job import Job, Run

logging.getLogger("auto-attack").setLevel(logging.CRITICAL)


def _run(job: Job, attack: Any) -> Tensor:
    candidates, _ = attack.run_standard_evaluation(job.images, job.labels, batch_size=len(job.images))
    return candidates


def _one(name: str) -> Run:
    """One of its parts with the restarts that they have in its standard version."""

    def run(job: Job) -> Tensor:
        attack = AutoAttack(
            job.module, eps=job.eps, seed=job.seed, version="custom", attacks=[name], device=job.images.device
        )
        for part in (attack.apgd, attack.apgd_targeted, attack.fab):
            part.n_iter, part.n_restarts = job.steps, 1
        attack.square.n_queries = job.steps
        return _run(job, attack)

    return run


def _autoattack(job: Job) -> Tensor:
    return _run(job, AutoAttack(job.module, eps=job.eps, seed=job.seed, device=job.images.device))


METHODS: dict[str, Run] = {
    "apgd": _one("apgd-ce"),
    "apgd-t": _one("apgd-t"),
    "fab-t": _one("fab-t"),
    "square": _one("square"),
    "autoattack": _autoattack,
}
