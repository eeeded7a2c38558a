"""Image by image against torchattacks and foolbox, where those are right and nothing is random."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from attack_samples import Sample
from torch import Tensor

from robustbench_local.attacks.core.objective import build_objective
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps="8/255")
L2 = ThreatModel(norm="L2", eps=0.3)
STEPS = 6


def visible(sample: Sample) -> Tensor:
    """Pixels whose gradient is large enough for its sign to be the same in every implementation."""
    _, _, gradient = sample.classifier.compute_gradient(
        sample.images, build_objective("ce", LINF, sample.labels)
    )
    return gradient.abs() > 1e-7


def foolbox_attack(foolbox: ModuleType, sample: Sample, attack: object, eps: float) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(sample.classifier.model.eval(), bounds=(0, 1), device="cpu")
        return attack(model, sample.images, foolbox.criteria.Misclassification(sample.labels), epsilons=eps)[
            1
        ]


class Path:
    """The points that our PGD visits, by image, in order."""

    def __init__(self, sample: Sample) -> None:
        self.points: list[list[Tensor]] = [[] for _ in sample.images]
        path = self

        class Watched(Classifier):
            def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
                for row, point in zip(rows.tolist(), images.detach(), strict=True):
                    path.points[row].append(point)
                return super().__call__(images, rows)

        model = sample.classifier.model
        self.sample = Sample(Watched(model, num_classes=5), sample.images, sample.labels)

    def compare(self, attack: PGD, threat: ThreatModel, peer: Callable[[int], Tensor]) -> int:
        """Walk, and compare each point with the peer's result after as many steps; returns how many."""
        self.sample.attack(attack, threat)
        compared = 0
        for steps in range(1, attack.steps + 1):
            theirs = peer(steps)
            for row, points in enumerate(self.points):
                if len(points) > steps:  # ours stops once an image is fooled
                    assert torch.allclose(points[steps], theirs[row], atol=2e-6), (row, steps)
                    compared += 1
        return compared


def test_fgsm_gives_torchattacks_images(small: Sample, torchattacks: ModuleType):
    theirs = torchattacks.FGSM(small.classifier.model.eval(), eps=LINF.eps)(small.images, small.labels)
    ours = small.attack(FGSM(), LINF)
    where = visible(small)
    assert where.float().mean() > 0.95
    assert torch.equal(ours[where], theirs[where])
    assert torch.equal(small.find_adversarial(ours, LINF), small.find_adversarial(theirs, LINF))


def test_targeted_fgsm_gives_torchattacks_images(small: Sample, torchattacks: ModuleType):
    sample = small.select_images((small.labels != 2).nonzero().flatten())
    threat = ThreatModel(norm="Linf", eps=LINF.eps, targets=(2,))
    attack = torchattacks.FGSM(sample.classifier.model.eval(), eps=LINF.eps)
    attack.set_mode_targeted_by_label(quiet=True)
    theirs = attack(sample.images, torch.full_like(sample.labels, 2))
    ours = sample.attack(FGSM(), threat)
    _, _, gradient = sample.classifier.compute_gradient(
        sample.images, build_objective("ce", threat, sample.labels)
    )
    where = gradient.abs() > 1e-7
    assert torch.equal(ours[where], theirs[where])


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_fgsm_gives_foolbox_images(small: Sample, foolbox: ModuleType, threat: ThreatModel):
    kind = (
        foolbox.attacks.LinfFastGradientAttack
        if threat.norm == "Linf"
        else foolbox.attacks.L2FastGradientAttack
    )
    theirs = foolbox_attack(foolbox, small, kind(random_start=False), threat.eps)
    ours = small.attack(FGSM(), threat)
    where = visible(small)
    assert torch.allclose(ours[where], theirs[where], atol=1e-6)
    assert torch.equal(small.find_adversarial(ours, threat), small.find_adversarial(theirs, threat))


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_pgd_walks_torchattacks_path(small: Sample, torchattacks: ModuleType, threat: ThreatModel):
    step_size = threat.eps / 3
    kind = torchattacks.PGD if threat.norm == "Linf" else torchattacks.PGDL2

    def peer(steps: int) -> Tensor:
        settings = {"eps": threat.eps, "alpha": step_size, "steps": steps, "random_start": False}
        return kind(small.classifier.model.eval(), **settings)(small.images, small.labels)

    attack = PGD(steps=STEPS, step_size=step_size, random_start=False)
    assert Path(small).compare(attack, threat, peer) > 96
    theirs, ours = peer(STEPS), small.attack(attack, threat)
    # the peer returns its last point, ours the best of the path: nothing may be broken there only
    assert not (small.find_adversarial(theirs, threat) & ~small.find_adversarial(ours, threat)).any()
    assert int((small.find_adversarial(ours, threat) ^ small.find_adversarial(theirs, threat)).sum()) <= 1


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_pgd_walks_foolbox_path(small: Sample, foolbox: ModuleType, threat: ThreatModel):
    step_size = threat.eps / 3
    kind = foolbox.attacks.LinfPGD if threat.norm == "Linf" else foolbox.attacks.L2PGD

    def peer(steps: int) -> Tensor:
        attack = kind(abs_stepsize=step_size, steps=steps, random_start=False)
        return foolbox_attack(foolbox, small, attack, threat.eps)

    attack = PGD(steps=STEPS, step_size=step_size, random_start=False)
    assert Path(small).compare(attack, threat, peer) > 96
    theirs, ours = peer(STEPS), small.attack(attack, threat)
    assert not (small.find_adversarial(theirs, threat) & ~small.find_adversarial(ours, threat)).any()


def test_targeted_pgd_walks_torchattacks_path(small: Sample, torchattacks: ModuleType):
    sample = small.select_images((small.labels != 2).nonzero().flatten())
    threat = ThreatModel(norm="Linf", eps=LINF.eps, targets=(2,))

    def peer(steps: int) -> Tensor:
        attack = torchattacks.PGD(
            sample.classifier.model.eval(), threat.eps, threat.eps / 3, steps, random_start=False
        )
        attack.set_mode_targeted_by_label(quiet=True)
        return attack(sample.images, torch.full_like(sample.labels, 2))

    attack = PGD(steps=STEPS, step_size=threat.eps / 3, random_start=False)
    assert Path(sample).compare(attack, threat, peer) > 96
