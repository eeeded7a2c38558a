"""secml-torch (MIT), its native attacks."""

from __future__ import annotations

from typing import Any

import torch
from secmlt.adv.backends import Backends
from secmlt.adv.evasion.ddn import DDN
from secmlt.adv.evasion.fmn import FMN
from secmlt.adv.evasion.perturbation_models import LpPerturbationModels
from secmlt.adv.evasion.pgd import PGD
from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerFunction, PeerJob


def _run_attack(job: PeerJob, attack: Any) -> Tensor:
    torch.manual_seed(job.seed)
    images = DataLoader(TensorDataset(job.images, job.labels), batch_size=len(job.images))
    found = attack(BasePyTorchClassifier(job.module), images)
    return torch.cat([batch for batch, _ in found])


def _run_pgd(job: PeerJob) -> Tensor:
    attack = PGD(
        perturbation_model=LpPerturbationModels.LINF,
        epsilon=job.eps,
        num_steps=job.steps,
        step_size=job.step_size,
        random_start=True,
        backend=Backends.NATIVE,
    )
    return _run_attack(job, attack)


def _run_fmn(job: PeerJob, model: Any = LpPerturbationModels.LINF) -> Tensor:
    attack = FMN(
        perturbation_model=model,
        num_steps=job.steps,
        step_size=1.0,
        backend=Backends.NATIVE,
    )
    return _run_attack(job, attack)


METHODS: dict[str, PeerFunction] = {
    "pgd": _run_pgd,
    "ddn": lambda job: _run_attack(job, DDN(num_steps=job.steps, backend=Backends.NATIVE)),
    "fmn": _run_fmn,
}

MINIMUM_NORM: dict[str, dict[str, PeerAttack]] = {
    "L0": {"fmn": PeerAttack(lambda job: _run_fmn(job, LpPerturbationModels.L0))},
    "L1": {"fmn": PeerAttack(lambda job: _run_fmn(job, LpPerturbationModels.L1))},
    "L2": {
        "ddn": PeerAttack(METHODS["ddn"]),
        "fmn": PeerAttack(lambda job: _run_fmn(job, LpPerturbationModels.L2)),
    },
    "Linf": {"fmn": PeerAttack(_run_fmn)},
}
