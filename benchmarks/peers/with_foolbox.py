"""foolbox (MIT)."""

from __future__ import annotations

from typing import Any

import foolbox
import torch
from torch import Tensor

from benchmarks.job import Job, Run


def _run(job: Job, attack: Any, eps: float | None) -> Tensor:
    torch.manual_seed(job.seed)
    model = foolbox.PyTorchModel(job.module, bounds=(0, 1), device=job.images.device)
    _, clipped, _ = attack(model, job.images, job.labels, epsilons=eps)
    return clipped


def _pgd(job: Job) -> Tensor:
    return _run(job, foolbox.attacks.LinfPGD(steps=job.steps, abs_stepsize=job.step_size), job.eps)


def _cw(job: Job) -> Tensor:
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=job.steps)
    return _run(job, attack, None)


METHODS: dict[str, Run] = {
    "fgsm": lambda job: _run(job, foolbox.attacks.LinfFastGradientAttack(), job.eps),
    "pgd": _pgd,
    "ddn": lambda job: _run(job, foolbox.attacks.DDNAttack(steps=job.steps), None),
    "fmn": lambda job: _run(job, foolbox.attacks.LInfFMNAttack(steps=job.steps), None),
    "cw": _cw,
    "deepfool": lambda job: _run(job, foolbox.attacks.L2DeepFoolAttack(steps=job.steps), None),
}
