"""foolbox (MIT)."""

from __future__ import annotations

from typing import Any

import foolbox
import torch
from torch import Tensor

from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerFunction, PeerJob


def _run_attack(job: PeerJob, attack: Any, eps: float | None) -> Tensor:
    torch.manual_seed(job.seed)
    model = foolbox.PyTorchModel(job.module, bounds=(0, 1), device=job.images.device)
    clipped: Tensor = attack(model, job.images, job.labels, epsilons=eps)[1]
    return clipped


def _run_pgd(job: PeerJob) -> Tensor:
    return _run_attack(job, foolbox.attacks.LinfPGD(steps=job.steps, abs_stepsize=job.step_size), job.eps)


def _run_cw(job: PeerJob) -> Tensor:
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=job.steps)
    return _run_attack(job, attack, None)


METHODS: dict[str, PeerFunction] = {
    "fgsm": lambda job: _run_attack(job, foolbox.attacks.LinfFastGradientAttack(), job.eps),
    "pgd": _run_pgd,
    "ddn": lambda job: _run_attack(job, foolbox.attacks.DDNAttack(steps=job.steps), None),
    "fmn": lambda job: _run_attack(job, foolbox.attacks.LInfFMNAttack(steps=job.steps), None),
    "cw": _run_cw,
    "deepfool": lambda job: _run_attack(job, foolbox.attacks.L2DeepFoolAttack(steps=job.steps), None),
}


def _run_ead(job: PeerJob) -> Tensor:
    attack = foolbox.attacks.EADAttack(binary_search_steps=9, steps=job.steps, decision_rule="L1")
    return _run_attack(job, attack, None)


MINIMUM_NORM: dict[str, dict[str, PeerAttack]] = {
    "L0": {
        "fmn": PeerAttack(lambda job: _run_attack(job, foolbox.attacks.L0FMNAttack(steps=job.steps), None))
    },
    "L1": {
        "ead": PeerAttack(_run_ead, calls_per_step=18),
        "fmn": PeerAttack(lambda job: _run_attack(job, foolbox.attacks.L1FMNAttack(steps=job.steps), None)),
    },
    "L2": {
        "cw": PeerAttack(_run_cw, calls_per_step=18),
        "ddn": PeerAttack(METHODS["ddn"]),
        "deepfool": PeerAttack(METHODS["deepfool"]),
        "fmn": PeerAttack(lambda job: _run_attack(job, foolbox.attacks.L2FMNAttack(steps=job.steps), None)),
    },
    "Linf": {
        "deepfool": PeerAttack(
            lambda job: _run_attack(job, foolbox.attacks.LinfDeepFoolAttack(steps=job.steps), None)
        ),
        "fmn": PeerAttack(METHODS["fmn"]),
    },
}
