"""Median distances on published checkpoints beside foolbox's, at the same number of steps."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from attack_samples import Sample

from robustbench_local.attacks.minimum_norm.base import MinimumNormAttack
from robustbench_local.attacks.minimum_norm.cw import CW
from robustbench_local.attacks.minimum_norm.ddn import DDN
from robustbench_local.attacks.minimum_norm.deepfool import DeepFool
from robustbench_local.attacks.minimum_norm.fmn import FMN
from robustbench_local.models import model_sources as sources
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.slow

CASES: list[tuple[MinimumNormAttack, str, str, dict[str, int]]] = [
    (DDN(), "L2", "DDNAttack", {"steps": 100}),
    (FMN(), "Linf", "LInfFMNAttack", {"steps": 100}),
    (FMN(), "L1", "L1FMNAttack", {"steps": 100}),
    (DeepFool(), "L2", "L2DeepFoolAttack", {"steps": 50}),
    (DeepFool(), "Linf", "LinfDeepFoolAttack", {"steps": 50}),
    (CW(steps=100), "L2", "L2CarliniWagnerAttack", {"steps": 100}),
]


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> Sample:
    """Every 20th of the CIFAR-10 images that the checkpoint reads correctly."""
    classifier = sources.load_classifier(
        f"checkpoint:{shared_data / 'checkpoints' / 'cifar10_resnet2b_vnncomp21'}.safetensors",
        architecture="cifar10_resnet2b",
    )
    archive = np.load(shared_data / "cifar10_test_strat1000.npz", allow_pickle=False)
    images = torch.from_numpy(archive["x"][::20]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(archive["y"][::20]).long()
    with torch.no_grad():
        right = classifier(images).argmax(dim=1) == labels
    return Sample(classifier, images[right], labels[right])


@pytest.mark.parametrize(("attack", "norm", "name", "options"), CASES, ids=[case[2] for case in CASES])
def test_medians_are_at_most_a_fiftieth_above_the_peers(
    photographs: Sample,
    foolbox: ModuleType,
    attack: MinimumNormAttack,
    norm: str,
    name: str,
    options: dict[str, int],
):
    sample, threat = photographs, ThreatModel(norm=norm, eps={"Linf": 1.0, "L2": 20.0, "L1": 300.0}[norm])
    model = foolbox.PyTorchModel(sample.classifier.as_module().eval(), bounds=(0, 1), device="cpu")
    theirs = getattr(foolbox.attacks, name)(**options)(model, sample.images, sample.labels, epsilons=None)[1]
    medians = []
    for candidates in (sample.attack(attack, threat), theirs):
        size = compute_norms(candidates - sample.images, norm)
        medians.append(
            float(torch.where(sample.find_adversarial(candidates, threat), size, torch.inf).median())
        )
    assert medians[0] <= 1.02 * medians[1]
