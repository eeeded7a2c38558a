"""PGD on published checkpoints and real photographs: the published figures, where they lie beside us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attack_samples import Sample

from robustbench_local.attacks import make_attack
from robustbench_local.catalogue import find_card
from robustbench_local.models import sources
from robustbench_local.threat import ThreatModel

pytestmark = pytest.mark.slow


def load(folder: Path, checkpoint: str, architecture: str, images: str) -> tuple[Sample, list[str]]:
    classifier = sources.load_classifier(
        f"checkpoint:{folder / 'checkpoints' / checkpoint}.safetensors", architecture=architecture
    )
    archive = np.load(folder / images, allow_pickle=False)
    pixels = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2).float() / 255
    return Sample(classifier, pixels, torch.from_numpy(archive["y"]).long()), archive["class_names"].tolist()


@pytest.mark.parametrize(("radius", "published"), [(1, 0.6224), (2, 0.5482)])
def test_cifar10_resnet2b_keeps_its_published_pgd_accuracy(shared_data: Path, radius: int, published: float):
    sample, _ = load(
        shared_data, "cifar10_resnet2b_vnncomp21", "cifar10_resnet2b", "cifar10_test_strat1000.npz"
    )
    threat = ThreatModel(norm="Linf", eps=radius / 255)
    candidates = sample.attack(make_attack("pgd", {"steps": 20, "loss": "margin"}), threat)
    with torch.no_grad():
        robust = (sample.classifier(candidates).argmax(dim=1) == sample.labels).float().mean()
    assert abs(float(robust) - published) < 0.02


def test_stop_signs_read_as_speed_limits_more_often_the_larger_the_radius(shared_data: Path):
    sample, names = load(shared_data, "gtsrb_stn_poojahira", "gtsrb_stn", "gtsrb_test_strat1000.npz")
    card = find_card("stop-to-speed-limit")
    targets = [names.index(target) for target in card.threat.targets]
    stops = sample.select((sample.labels == names.index("Stop")).nonzero().flatten()[:40])
    attack = make_attack(card.method, {**card.parameters, "steps": 20, "restarts": 1})
    shares = []
    for radius in (2, 4, 8):
        threat = ThreatModel(norm="Linf", eps=radius / 255, targets=tuple(targets))
        shares.append(float(stops.broken(stops.attack(attack, threat), threat).float().mean()))
    assert shares == sorted(shares)
    assert shares[0] <= 0.1
    assert 0.2 <= shares[2] <= 0.6
