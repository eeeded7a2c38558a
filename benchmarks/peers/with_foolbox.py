"""foolbox (MIT)."""

from __future__ import annotations

from typing import Any

import foolbox
import torch
from torch import Tensor

from benchmarks.job import AttackFunction, BenchmarkJob


def _run_attack(job: BenchmarkJob, attack: Any, eps: float | None) -> Tensor:
    torch.manual_seed(job.seed)
    model = foolbox.PyTorchModel(job.module, bounds=(0, 1), device=job.images.device)
    _, clipped, _ = attack(model, job.images, job.labels, epsilons=eps)
    return clipped


def _run_pgd(job: BenchmarkJob) -> Tensor:
    return _run_attack(job, foolbox.attacks.LinfPGD(steps=job.steps, abs_stepsize=job.step_size), job.eps)


def _run_cw(job: BenchmarkJob) -> Tensor:
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=job.steps)
    return _run_attack(job, attack, None)


METHODS: dict[str, AttackFunction] = {
    "fgsm": lambda job: _run_attack(job, foolbox.attacks.LinfFastGradientAttack(), job.eps),
    "pgd": _run_pgd,
    "ddn": lambda job: _run_attack(job, foolbox.attacks.DDNAttack(steps=job.steps), None),
    "fmn": lambda job: _run_attack(job, foolbox.attacks.LInfFMNAttack(steps=job.steps), None),
    "cw": _run_cw,
    "deepfool": lambda job: _run_attack(job, foolbox.attacks.L2DeepFoolAttack(steps=job.steps), None),
}
