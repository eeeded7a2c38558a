"""The transferable attacks against torchattacks: image by image without draws, by strength with them."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from attack_samples import Sample
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.transfer.di_fgsm import DIFGSM, build_resize_matrices
from robustbench_local.attacks.transfer.mi_fgsm import MIFGSM
from robustbench_local.attacks.transfer.ti_fgsm import TIFGSM
from robustbench_local.attacks.transfer.vmi_fgsm import VMIFGSM
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps="8/255")


def peer(
    kind: ModuleType, name: str, sample: Sample, target: int | None = None, **settings: object
) -> Tensor:
    attack = getattr(kind, name)(
        sample.classifier.model.eval(), eps=THREAT.eps, alpha=THREAT.eps / 10, **settings
    )
    labels = sample.labels
    if target is not None:
        attack.set_mode_targeted_by_label(quiet=True)
        labels = torch.full_like(labels, target)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return attack(sample.images, labels)


def assert_same_images(sample: Sample, ours: Tensor, theirs: Tensor, threat: ThreatModel) -> None:
    """Pixels whose momentum is all but zero may take another sign; they decide nothing."""
    assert ((ours - theirs).abs() < 1e-5).float().mean() > 0.995
    assert int((sample.find_adversarial(ours, threat) ^ sample.find_adversarial(theirs, threat)).sum()) <= 1


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_mi_fgsm_gives_torchattacks_images(small: Sample, torchattacks: ModuleType, decay: float):
    theirs = peer(torchattacks, "MIFGSM", small, decay=decay)
    ours = small.attack(MIFGSM(decay=decay), THREAT)
    assert 5 < int(small.find_adversarial(theirs, THREAT).sum()) < 90
    assert_same_images(small, ours, theirs, THREAT)


def test_targeted_mi_fgsm_gives_torchattacks_images(small: Sample, torchattacks: ModuleType):
    sample = small.select_images((small.labels != 2).nonzero().flatten())
    threat = ThreatModel(norm="Linf", eps=THREAT.eps, targets=(2,))
    theirs = peer(torchattacks, "MIFGSM", sample, target=2)
    assert_same_images(sample, sample.attack(MIFGSM(), threat), theirs, threat)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_ti_fgsm_gives_torchattacks_images(small: Sample, torchattacks: ModuleType, kernel_size: int):
    theirs = peer(torchattacks, "TIFGSM", small, decay=1.0, len_kernel=kernel_size, diversity_prob=0.0)
    assert_same_images(small, small.attack(TIFGSM(kernel_size=kernel_size), THREAT), theirs, THREAT)


class AlwaysSeven(DIFGSM):
    """Of 8 pixels the peer always makes 7, at the top left."""

    def _draw_resize_matrices(self, case: AttackInputs, draw: str) -> tuple[Tensor, Tensor]:
        count = len(case.images)
        matrices = build_resize_matrices(torch.full((count,), 7.0), torch.zeros(count), 8)[:, None]
        return matrices, matrices


def test_di_fgsm_gives_torchattacks_images_where_it_draws_the_same(small: Sample, torchattacks: ModuleType):
    theirs = peer(torchattacks, "DIFGSM", small, decay=1.0, diversity_prob=1.0)
    assert_same_images(small, small.attack(AlwaysSeven(probability=1.0), THREAT), theirs, THREAT)


@pytest.mark.slow
def test_vmi_fgsm_has_torchattacks_strength_and_direction(small: Sample, torchattacks: ModuleType):
    theirs, ours = peer(torchattacks, "VMIFGSM", small, N=20), small.attack(VMIFGSM(), THREAT)
    assert int((small.find_adversarial(theirs, THREAT) ^ small.find_adversarial(ours, THREAT)).sum()) <= 3
    moves = [(each - small.images).flatten(1) for each in (theirs, ours)]
    # two runs of the peer with other seeds agree to .997 on average
    assert F.cosine_similarity(*moves).mean() > 0.99
