"""The Adversarial Robustness Toolbox (MIT)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmarks.job import AttackFunction, BenchmarkJob


def _build_estimator(job: BenchmarkJob) -> PyTorchClassifier:
    return PyTorchClassifier(
        model=job.module,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(job.images.shape[1:]),
        nb_classes=job.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if job.images.is_cuda else "cpu",
    )


def _run_attack(job: BenchmarkJob, attack: Any) -> Tensor:
    np.random.seed(job.seed)
    torch.manual_seed(job.seed)
    found = attack.generate(x=job.images.cpu().numpy(), y=job.labels.cpu().numpy())
    return torch.from_numpy(found).to(job.images)


def _run_fgsm(job: BenchmarkJob) -> Tensor:
    size = len(job.images)
    attack = evasion.FastGradientMethod(_build_estimator(job), eps=job.eps, eps_step=job.eps, batch_size=size)
    return _run_attack(job, attack)


def _run_pgd(job: BenchmarkJob) -> Tensor:
    attack = evasion.ProjectedGradientDescentPyTorch(
        _build_estimator(job),
        eps=job.eps,
        eps_step=job.step_size,
        max_iter=job.steps,
        num_random_init=1,
        batch_size=len(job.images),
        verbose=False,
    )
    return _run_attack(job, attack)


def _run_apgd(job: BenchmarkJob) -> Tensor:
    attack = evasion.AutoProjectedGradientDescent(
        _build_estimator(job),
        eps=job.eps,
        eps_step=2 * job.eps,
        max_iter=job.steps,
        nb_random_init=1,
        batch_size=len(job.images),
        loss_type="cross_entropy",
        verbose=False,
    )
    return _run_attack(job, attack)


def _run_square(job: BenchmarkJob) -> Tensor:
    attack = evasion.SquareAttack(
        _build_estimator(job), eps=job.eps, max_iter=job.steps, batch_size=len(job.images), verbose=False
    )
    return _run_attack(job, attack)


def _run_deepfool(job: BenchmarkJob) -> Tensor:
    attack = evasion.DeepFool(
        _build_estimator(job), max_iter=job.steps, epsilon=0.02, batch_size=len(job.images), verbose=False
    )
    return _run_attack(job, attack)


METHODS: dict[str, AttackFunction] = {
    "fgsm": _run_fgsm,
    "pgd": _run_pgd,
    "apgd": _run_apgd,
    "square": _run_square,
    "deepfool": _run_deepfool,
}
