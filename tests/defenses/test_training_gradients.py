"""Trainings on networks whose gradients break: their adversaries work as on the same network without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.smoothadv import build_l2_examples
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples


class Net(nn.Module):
    def __init__(self, *, faulty: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(27, 16), nn.Tanh(), nn.Linear(16, 4))
        self.faulty = faulty

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layers(images)
        return logits + ((images - images) ** 2).flatten(1).sum(1).sqrt()[:, None] if self.faulty else logits


IMAGES = torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4


@pytest.mark.parametrize("steps", [1, 3])
def test_pgd_in_training(steps: int):
    plain, faulty = (
        build_linf_examples(Net(faulty=fault), IMAGES, LABELS, eps=0.1, steps=steps, step_size=0.05)
        for fault in (False, True)
    )
    assert torch.equal(plain, faulty)
    assert not torch.equal(plain, IMAGES)


def test_smoothadv_s_adversary():
    def loss_of(net: nn.Module):
        return lambda images: nn.functional.cross_entropy(net(images), LABELS, reduction="none")

    plain, faulty = (
        build_l2_examples(IMAGES, loss_of(Net(faulty=fault)), eps=0.5, steps=3) for fault in (False, True)
    )
    assert torch.equal(plain, faulty)
    assert not torch.equal(plain, IMAGES)
