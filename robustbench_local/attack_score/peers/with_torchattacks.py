"""torchattacks (MIT)."""

from __future__ import annotations

import torch
import torchattacks
from torch import Tensor

from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerFunction, PeerJob

_MAX_FAB_CLASSES = 10
"""FAB on more of them takes longer than all other rows together."""


def _run_fgsm(job: PeerJob) -> Tensor:
    candidates: Tensor = torchattacks.FGSM(job.module, eps=job.eps)(job.images, job.labels)
    return candidates


def _run_pgd(job: PeerJob) -> Tensor:
    torch.manual_seed(job.seed)
    attack = torchattacks.PGD(job.module, eps=job.eps, alpha=job.step_size, steps=job.steps)
    candidates: Tensor = attack(job.images, job.labels)
    return candidates


def _run_apgd(job: PeerJob) -> Tensor:
    attack = torchattacks.APGD(job.module, eps=job.eps, steps=job.steps, seed=job.seed, loss="ce")
    candidates: Tensor = attack(job.images, job.labels)
    return candidates


def _run_apgd_t(job: PeerJob) -> Tensor:
    attack = torchattacks.APGDT(
        job.module, eps=job.eps, steps=job.steps, seed=job.seed, n_classes=job.num_classes
    )
    candidates: Tensor = attack(job.images, job.labels)
    return candidates


def _run_fab_t(job: PeerJob) -> Tensor:
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
    candidates: Tensor = attack(job.images, job.labels)
    return candidates


def _run_square(job: PeerJob) -> Tensor:
    attack = torchattacks.Square(job.module, eps=job.eps, n_queries=job.steps, seed=job.seed)
    candidates: Tensor = attack(job.images, job.labels)
    return candidates


def _run_deepfool(job: PeerJob) -> Tensor:
    candidates: Tensor = torchattacks.DeepFool(job.module, steps=job.steps)(job.images, job.labels)
    return candidates


METHODS: dict[str, PeerFunction] = {
    "fgsm": _run_fgsm,
    "pgd": _run_pgd,
    "apgd": _run_apgd,
    "apgd-t": _run_apgd_t,
    "fab-t": _run_fab_t,
    "square": _run_square,
    "deepfool": _run_deepfool,
}


def _run_cw(job: PeerJob) -> Tensor:
    candidates: Tensor = torchattacks.CW(job.module, c=1, steps=job.steps)(job.images, job.labels)
    return candidates


def _run_ead(job: PeerJob) -> Tensor:
    attack = torchattacks.EADL1(job.module, max_iterations=job.steps, binary_search_steps=9)
    candidates: Tensor = attack(job.images, job.labels)
    return candidates


MINIMUM_NORM: dict[str, dict[str, PeerAttack]] = {
    "L1": {"ead": PeerAttack(_run_ead, calls_per_step=18)},
    "L2": {"cw": PeerAttack(_run_cw), "deepfool": PeerAttack(_run_deepfool)},
}
