"""The Adversarial Robustness Toolbox (MIT)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerFunction, PeerJob


def _build_estimator(job: PeerJob) -> PyTorchClassifier:
    return PyTorchClassifier(
        model=job.module,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(job.images.shape[1:]),
        nb_classes=job.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if job.images.is_cuda else "cpu",
    )


def _run_attack(job: PeerJob, attack: Any) -> Tensor:
    np.random.seed(job.seed)
    torch.manual_seed(job.seed)
    found = attack.generate(x=job.images.cpu().numpy(), y=job.labels.cpu().numpy())
    return torch.from_numpy(found).to(job.images)


def _run_fgsm(job: PeerJob) -> Tensor:
    size = len(job.images)
    attack = evasion.FastGradientMethod(_build_estimator(job), eps=job.eps, eps_step=job.eps, batch_size=size)
    return _run_attack(job, attack)


def _run_pgd(job: PeerJob) -> Tensor:
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


def _run_apgd(job: PeerJob) -> Tensor:
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


def _run_square(job: PeerJob) -> Tensor:
    attack = evasion.SquareAttack(
        _build_estimator(job), eps=job.eps, max_iter=job.steps, batch_size=len(job.images), verbose=False
    )
    return _run_attack(job, attack)


def _run_deepfool(job: PeerJob) -> Tensor:
    attack = evasion.DeepFool(
        _build_estimator(job), max_iter=job.steps, epsilon=0.02, batch_size=len(job.images), verbose=False
    )
    return _run_attack(job, attack)


METHODS: dict[str, PeerFunction] = {
    "fgsm": _run_fgsm,
    "pgd": _run_pgd,
    "apgd": _run_apgd,
    "square": _run_square,
    "deepfool": _run_deepfool,
}


def _run_cw(job: PeerJob) -> Tensor:
    attack = evasion.CarliniL2Method(
        _build_estimator(job),
        max_iter=job.steps,
        binary_search_steps=9,
        batch_size=len(job.images),
        verbose=False,
    )
    return _run_attack(job, attack)


def _run_ead(job: PeerJob) -> Tensor:
    attack = evasion.ElasticNet(
        _build_estimator(job),
        max_iter=job.steps,
        binary_search_steps=9,
        decision_rule="L1",
        batch_size=len(job.images),
        verbose=False,
    )
    return _run_attack(job, attack)


MINIMUM_NORM: dict[str, dict[str, PeerAttack]] = {
    "L1": {"ead": PeerAttack(_run_ead, calls_per_step=18)},
    "L2": {"cw": PeerAttack(_run_cw, calls_per_step=18), "deepfool": PeerAttack(_run_deepfool)},
}
