"""adv-lib (BSD-3-Clause)."""

from __future__ import annotations

import math
from typing import Any

import torch
from adv_lib import attacks
from torch import Tensor

from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerFunction, PeerJob


def _run_attack(job: PeerJob, attack: Any, **parameters: Any) -> Tensor:
    torch.manual_seed(job.seed)
    candidates: Tensor = attack(job.module, job.images, job.labels, **parameters)
    return candidates.detach()


def _run_fgsm(job: PeerJob) -> Tensor:
    return _run_attack(
        job, attacks.pgd_linf, ε=job.eps, steps=1, random_init=False, absolute_step_size=job.eps
    )


def _run_pgd(job: PeerJob) -> Tensor:
    return _run_attack(job, attacks.pgd_linf, ε=job.eps, steps=job.steps, absolute_step_size=job.step_size)


def _run_apgd(job: PeerJob) -> Tensor:
    return _run_attack(job, attacks.apgd, eps=job.eps, norm=math.inf, n_iter=job.steps, loss_function="ce")


def _run_apgd_t(job: PeerJob) -> Tensor:
    return _run_attack(
        job, attacks.apgd_targeted, eps=job.eps, norm=math.inf, n_iter=job.steps, num_targets=9
    )


def _run_cw(job: PeerJob) -> Tensor:
    return _run_attack(job, attacks.carlini_wagner_l2, max_iterations=job.steps, binary_search_steps=9)


METHODS: dict[str, PeerFunction] = {
    "fgsm": _run_fgsm,
    "pgd": _run_pgd,
    "apgd": _run_apgd,
    "apgd-t": _run_apgd_t,
    "ddn": lambda job: _run_attack(job, attacks.ddn, steps=job.steps, levels=None),
    "fmn": lambda job: _run_attack(job, attacks.fmn, norm=math.inf, steps=job.steps),
    "cw": _run_cw,
    "deepfool": lambda job: _run_attack(job, attacks.df, steps=job.steps, norm=2),
}

MINIMUM_NORM: dict[str, dict[str, PeerAttack]] = {
    "L0": {
        "fmn": PeerAttack(lambda job: _run_attack(job, attacks.fmn, norm=0, steps=job.steps)),
        "sigma-zero": PeerAttack(lambda job: _run_attack(job, attacks.sigma_zero, num_steps=job.steps)),
    },
    "L1": {
        "alma": PeerAttack(lambda job: _run_attack(job, attacks.alma, distance="l1", num_steps=job.steps)),
        "fmn": PeerAttack(lambda job: _run_attack(job, attacks.fmn, norm=1, steps=job.steps)),
        "pdpgd": PeerAttack(lambda job: _run_attack(job, attacks.pdpgd, norm=1, num_steps=job.steps)),
    },
    "L2": {
        "alma": PeerAttack(lambda job: _run_attack(job, attacks.alma, distance="l2", num_steps=job.steps)),
        "cw": PeerAttack(_run_cw, calls_per_step=18),
        "ddn": PeerAttack(METHODS["ddn"]),
        "deepfool": PeerAttack(METHODS["deepfool"]),
        "fmn": PeerAttack(lambda job: _run_attack(job, attacks.fmn, norm=2, steps=job.steps)),
        "pdgd": PeerAttack(lambda job: _run_attack(job, attacks.pdgd, num_steps=job.steps)),
        "trust-region": PeerAttack(lambda job: _run_attack(job, attacks.tr, p=2, iter=job.steps)),
    },
    "Linf": {
        "deepfool": PeerAttack(lambda job: _run_attack(job, attacks.df, norm=math.inf, steps=job.steps)),
        "fmn": PeerAttack(METHODS["fmn"]),
        "pdpgd": PeerAttack(lambda job: _run_attack(job, attacks.pdpgd, norm=math.inf, num_steps=job.steps)),
        "trust-region": PeerAttack(lambda job: _run_attack(job, attacks.tr, p=math.inf, iter=job.steps)),
    },
}
