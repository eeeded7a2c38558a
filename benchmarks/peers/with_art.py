"""The Adversarial Robustness Toolbox (MIT)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmarks.job import Job, Run


def _estimator(job: Job) -> PyTorchClassifier:
    return PyTorchClassifier(
        model=job.module,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(job.images.shape[1:]),
        nb_classes=job.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if job.images.is_cuda else "cpu",
    )


def _run(job: Job, attack: Any) -> Tensor:
    np.random.seed(job.seed)
    torch.manual_seed(job.seed)
    found = attack.generate(x=job.images.cpu().numpy(), y=job.labels.cpu().numpy())
    return torch.from_numpy(found).to(job.images)


def _fgsm(job: Job) -> Tensor:
    size = len(job.images)
    attack = evasion.FastGradientMethod(_estimator(job), eps=job.eps, eps_step=job.eps, batch_size=size)
    return _run(job, attack)


def _pgd(job: Job) -> Tensor:
    attack = evasion.ProjectedGradientDescentPyTorch(
        _estimator(job),
        eps=job.eps,
        eps_step=job.step_size,
        max_iter=job.steps,
        num_random_init=1,
        batch_size=len(job.images),
        verbose=False,
    )
    return _run(job, attack)


def _apgd(job: Job) -> Tensor:
    attack = evasion.AutoProjectedGradientDescent(
        _estimator(job),
        eps=job.eps,
        eps_step=2 * job.eps,
        max_iter=job.steps,
        nb_random_init=1,
        batch_size=len(job.images),
        loss_type="cross_entropy",
        verbose=False,
    )
    return _run(job, attack)


def _square(job: Job) -> Tensor:
    attack = evasion.SquareAttack(
        _estimator(job), eps=job.eps, max_iter=job.steps, batch_size=len(job.images), verbose=False
    )
    return _run(job, attack)


def _deepfool(job: Job) -> Tensor:
    attack = evasion.DeepFool(
        _estimator(job), max_iter=job.steps, epsilon=0.02, batch_size=len(job.images), verbose=False
    )
    return _run(job, attack)


METHODS: dict[str, Run] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "apgd": _apgd,
    "square": _square,
    "deepfool": _deepfool,
}
