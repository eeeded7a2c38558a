"""pyautoattack (MIT): the published AutoAttack as a package."""

from __future__ import annotations

import logging
from typing import Any

from pyautoattack import AutoAttack
from torch import Tensor

from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerFunction, PeerJob

logging.getLogger("auto-attack").setLevel(logging.CRITICAL)


def _run_attack(job: PeerJob, attack: Any) -> Tensor:
    candidates: Tensor = attack.run_standard_evaluation(job.images, job.labels, batch_size=len(job.images))[0]
    return candidates


def _build_single_attack(name: str) -> PeerFunction:
    """One of its parts with the restarts that they have in its standard version."""

    def run(job: PeerJob) -> Tensor:
        attack = AutoAttack(
            job.module, eps=job.eps, seed=job.seed, version="custom", attacks=[name], device=job.images.device
        )
        for part in (attack.apgd, attack.apgd_targeted, attack.fab):
            part.n_iter, part.n_restarts = job.steps, 1
        attack.square.n_queries = job.steps
        return _run_attack(job, attack)

    return run


def _run_autoattack(job: PeerJob) -> Tensor:
    return _run_attack(job, AutoAttack(job.module, eps=job.eps, seed=job.seed, device=job.images.device))


METHODS: dict[str, PeerFunction] = {
    "apgd": _build_single_attack("apgd-ce"),
    "apgd-t": _build_single_attack("apgd-t"),
    "fab-t": _build_single_attack("fab-t"),
    "square": _build_single_attack("square"),
    "autoattack": _run_autoattack,
}

MINIMUM_NORM: dict[str, dict[str, PeerAttack]] = {}
"""None: its FAB reports no point outside the ball."""
