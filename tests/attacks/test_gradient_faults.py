"""Every attack that follows gradients, on networks whose gradients break: as on the same network without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from attack_samples import Sample
from torch import Tensor, nn

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.pgd import PGDSearch
from robustbench_local.classifier import Classifier
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps="12/255")
L2, L1 = ThreatModel(norm="L2", eps=0.55), ThreatModel(norm="L1", eps=6.0)
STICKER = ThreatModel(norm="sticker", eps=1, transformation="poster", targets=(0, 1))
PATCH = ThreatModel(norm="patch", eps=0.25, targets=(0, 1))
SHORT_STICKER = {"steps": 3, "views": 2, "place_steps": 2, "layout_steps": 1}

CASES: list[tuple[str, dict[str, Any], ThreatModel]] = [
    ("fgsm", {}, LINF),
    ("fgsm", {}, L2),
    ("pgd", {"steps": 4, "restarts": 2}, LINF),
    ("pgd", {"steps": 4, "loss": "margin"}, L2),
    ("pgd", {"steps": 4}, L1),
    ("apgd", {"steps": 6}, LINF),
    ("apgd", {"steps": 6}, L2),
    ("apgd", {"steps": 6}, L1),
    ("apgd-t", {"steps": 4, "targets": 2}, LINF),
    ("fab-t", {"steps": 4, "targets": 2}, LINF),
    ("fab-t", {"steps": 4, "targets": 2}, L1),
    ("curve", {"steps": 3}, LINF),
    ("cw", {"steps": 4, "searches": 2}, L2),
    ("ead", {"steps": 3, "searches": 2}, L1),
    ("ddn", {"steps": 6}, L2),
    ("deepfool", {"steps": 4, "classes": 3}, L2),
    ("fmn", {"steps": 6}, LINF),
    ("fmn", {"steps": 6}, L1),
    ("mi-fgsm", {"steps": 3}, LINF),
    ("di-fgsm", {"steps": 3, "probability": 1.0}, L2),
    ("ti-fgsm", {"steps": 3, "kernel_size": 3}, LINF),
    ("vmi-fgsm", {"steps": 3, "neighbours": 2}, LINF),
    ("sticker", SHORT_STICKER, STICKER),
    ("patch", {"steps": 2, "views": 2}, PATCH),
]
IDS = [f"{name}-{threat.norm}" for name, _, threat in CASES]
assert len(set(IDS)) == len(CASES)


class _Broken(torch.autograd.Function):
    """Zeros, (N, 1), whose gradient by the images is NaN or infinite in some rows, now and then."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.value = value
        ctx.save_for_backward(images)
        return images.new_zeros(len(images), 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors
        return ctx.value(images), None


class Faulty(nn.Module):
    """A network beside a branch that adds exactly nothing, and whose gradient breaks."""

    def __init__(self, network: nn.Module, fault: str) -> None:
        super().__init__()
        self.network, self.fault, self.calls = network, fault, 0

    def forward(self, images: Tensor) -> Tensor:
        if self.fault == "sqrt":
            return self.network(images) + ((images - images) ** 2).flatten(1).sum(1).sqrt()[:, None]
        if self.fault == "where":
            masked = torch.where(images > 2, images * torch.nan, images)
            return self.network(masked)
        return self.network(images) + _Broken.apply(images, self.value)

    def value(self, images: Tensor) -> Tensor:
        self.calls += 1
        nothing, bad = torch.zeros_like(images), torch.full_like(images, torch.inf)
        bad[:, :, ::2] = -torch.inf
        if self.fault == "later":
            return bad if self.calls > 5 else nothing  # two of them find out about borders
        if self.fault == "rows":
            some = images.flatten(1).sum(1) * 1000 % 2 < 1
            return torch.where(some.view(-1, 1, 1, 1), bad, nothing)
        return bad


def sample_of(small: Sample, forward: nn.Module, count: int = 6) -> Sample:
    chosen = small.select_images((small.labels > 1).nonzero().flatten()[:count])
    return replace(chosen, classifier=Classifier(forward.eval(), num_classes=5, name="faulty"))


def run(sample: Sample, attack: Attack, threat: ThreatModel) -> tuple[Tensor, list[Any]]:
    with sample.classifier.count_passes(len(sample.images)) as meter:
        found = sample.attack(attack, threat)
    return found, meter.gradient_counts


@pytest.fixture(scope="module")
def expected(small: Sample) -> Callable[[int], Tensor]:
    """What an attack finds on the network itself."""

    @cache
    def find(number: int) -> Tensor:
        method, given, threat = CASES[number]
        return run(sample_of(small, small.classifier.model), make_attack(method, given), threat)[0]

    return find


FAULTS = ("sqrt", "rows", "later", "where", "inf")
# each attack meets two faults in the fast tests, and each fault meets sixteen attacks
PAIRS = [
    pytest.param(
        number, fault, id=f"{IDS[number]}-{fault}", marks=[pytest.mark.slow] * (place in {number % 3, 3, 4})
    )
    for number in range(len(CASES))
    for place, fault in enumerate(FAULTS)
]


@pytest.mark.parametrize(("number", "fault"), PAIRS)
def test_a_branch_that_adds_nothing_changes_nothing(
    small: Sample, expected: Callable[[int], Tensor], number: int, fault: str
):
    method, given, threat = CASES[number]
    found, counts = run(
        sample_of(small, Faulty(small.classifier.model, fault)), make_attack(method, given), threat
    )
    assert torch.equal(found, expected(number))
    looks = sum(count.steps for count in counts)
    seen = sum(count.nonfinite_steps for count in counts)
    assert sum(count.zero_steps + count.unconfirmed_steps for count in counts) <= 0.1 * looks
    if fault in {"sqrt", "where", "inf"}:
        assert seen == looks > 0
        # by its own entries: a margin may not depend on all of the pixels, but a NaN reaches all
        assert sum(count.nonfinite_entries for count in counts) >= seen * small.images[0].numel()
    elif fault == "later":
        assert seen < looks


@pytest.mark.parametrize("method", ["PGD", "CW", "FAB", "DeepFool", "MIFGSM"])
def test_attacks_of_another_library_follow_the_network_too(small: Sample, torchattacks, method: str):
    steps = {} if method == "FAB" else {"steps": 3}
    attack = make_attack(f"torchattacks:{method}", steps)
    threat = L2 if method in {"CW", "DeepFool"} else LINF
    plain, _ = run(sample_of(small, small.classifier.model), attack, threat)
    found, counts = run(sample_of(small, Faulty(small.classifier.model, "sqrt")), attack, threat)
    assert torch.equal(found, plain)
    assert all(count.nonfinite_steps > 0 for count in counts)


@pytest.mark.slow
def test_the_published_autoattack_follows_the_network_too(small: Sample):
    attack = make_attack("reference:autoattack")
    plain, _ = run(sample_of(small, small.classifier.model, 2), attack, ThreatModel(norm="Linf", eps=0.2))
    sample = sample_of(small, Faulty(small.classifier.model, "sqrt"), 2)
    found, counts = run(sample, attack, ThreatModel(norm="Linf", eps=0.2))
    assert torch.equal(found, plain)
    assert all(count.nonfinite_steps > 0 for count in counts)


def test_faults_in_another_librarys_attack_are_counted_for_the_right_image(small: Sample, torchattacks):
    sample = sample_of(small, Faulty(small.classifier.model, "sqrt"))
    bad = sample.images[2].clone()

    class OneBad(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            near = (images - bad).flatten(1).abs().amax(1) < 0.06
            side = ((images - images) ** 2).flatten(1).sum(1).sqrt() * near
            return small.classifier.model(images) + torch.where(near, side, 0.0)[:, None]

    # 0 * inf reaches only the row whose branch is taken
    sample = replace(sample, classifier=Classifier(OneBad().eval(), num_classes=5))
    _, counts = run(sample, make_attack("torchattacks:PGD", {"steps": 3}), LINF)
    assert counts[2].nonfinite_steps >= 3


CLAMPS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(0, 1),
    "clip": lambda x: torch.clip(x, 0, 1),
    "levels": lambda x: (x * 255).clamp(0, 255) / 255,
    "signed": lambda x: ((2 * x - 1).clamp(-1, 1) + 1) / 2,
    "pair": lambda x: torch.minimum(torch.maximum(x, torch.zeros(1)), torch.ones(1)),
    "bounds": lambda x: torch.clamp(x, torch.zeros(1), torch.ones(1)),
    "hardtanh": lambda x: nn.functional.hardtanh(x, 0, 1),
    "relu6": lambda x: nn.functional.relu6(6 * x) / 6,
    "only below": lambda x: x.clamp_min(0),
    "only above": lambda x: x.clamp_max(1),
    "root": lambda x: x.sqrt() ** 2,
}


class Clamped(nn.Module):
    def __init__(self, network: nn.Module, clamp: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.clamp = network, clamp

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.clamp(images))


def contrasted(small: Sample, forward: nn.Module, count: int = 48) -> Sample:
    """Images of which two thirds of the pixels are exactly 0 or 1, labelled as the network reads them."""
    images = (4 * small.images[:count] - 1.5).clamp(0, 1)
    assert float(((images == 0) | (images == 1)).float().mean()) > 0.4
    labels = small.classifier(images).argmax(dim=1)
    return Sample(Classifier(forward.eval(), num_classes=5, name="clamped"), images, labels)


@pytest.mark.parametrize("clamp", list(CLAMPS.values()), ids=list(CLAMPS))
def test_a_clamp_at_the_border_hides_nothing(small: Sample, clamp: Callable[[Tensor], Tensor]):
    near, far = ThreatModel(norm="L2", eps=1.2), ThreatModel(norm="Linf", eps="36/255")
    for method, given, threat in (("fgsm", {}, far), ("pgd", {"steps": 5, "random_start": False}, near)):
        attack = make_attack(method, given)
        plain = contrasted(small, small.classifier.model)
        clamped = contrasted(small, Clamped(small.classifier.model, clamp))
        broken = plain.find_adversarial(plain.attack(attack, threat), threat)
        assert 0.1 < float(broken.float().mean()) < 0.95
        found = clamped.find_adversarial(clamped.attack(attack, threat), threat)
        assert torch.equal(found, broken)
        assert [note for note in clamped.classifier.notes if "just inside" in note]


def test_a_network_that_does_not_clamp_is_attacked_to_the_bit_as_ever(small: Sample, monkeypatch):
    sample, attack = contrasted(small, small.classifier.model), make_attack("pgd", {"steps": 5})
    found = sample.attack(attack, LINF)
    assert not [note for note in sample.classifier.notes if "just inside" in note]
    monkeypatch.setattr(Classifier, "find_masked_borders", lambda *_: None)
    assert torch.equal(contrasted(small, small.classifier.model).attack(attack, LINF), found)


def test_a_nan_draw_does_not_poison_the_mean_over_draws(small: Sample):
    """Expectation over transformation in the engine: every second look has a broken backward pass."""

    class Odd(Faulty):
        def value(self, images: Tensor) -> Tensor:
            self.calls += 1
            return torch.full_like(images, torch.nan if self.calls % 3 else 0.0)

    points = []
    for network in (small.classifier.model, Odd(small.classifier.model, "nan")):
        sample = sample_of(small, network)
        attack = make_attack("pgd", {"steps": 4})
        with sample.classifier.evaluation_mode():
            engine = Engine(
                sample.classifier, sample.images, sample.labels, sample.build_stream(attack), eot_samples=3
            )
            engine.run(PGDSearch(attack=attack, threat=LINF), engine.build_items())
        points.append(engine.points)
    assert torch.equal(*points)


def test_a_surrogate_s_faults_are_counted_where_it_is_attacked(small: Sample):
    sample = sample_of(small, Faulty(small.classifier.model, "sqrt"))
    _, counts = run(sample, make_attack("mi-fgsm", {"steps": 3}), LINF)
    assert [count.steps for count in counts] == [count.nonfinite_steps for count in counts] == [3] * 6


class _Opaque(torch.autograd.Function):
    """The images, with nothing but NaN for a gradient."""

    @staticmethod
    def forward(_ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(_ctx: Any, *slopes: Tensor) -> Tensor:
        return slopes[0] * torch.nan


class Opaque(nn.Module):
    """A network of which no gradient tells anything, and none can be repaired."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(_Opaque.apply(images))


@pytest.mark.slow
def test_our_autoattack_ends_with_square_where_no_gradient_tells_anything(small: Sample):
    threat = ThreatModel(norm="Linf", eps="24/255")
    sample, attack = sample_of(small, Opaque(small.classifier.model), 4), make_attack("autoattack")
    with sample.classifier.count_passes(4) as meter:
        found = sample.attack(attack, threat)
    square = make_attack("square", {"queries": 5000})
    alone = sample.find_adversarial(sample.attack(square, threat), threat)
    broken = sample.find_adversarial(found, threat)
    assert bool(alone.any())
    assert torch.equal(broken, alone)
    assert {stage for stage, one in zip(meter.stages, broken.tolist(), strict=True) if one} == {"square"}
    for count in meter.gradient_counts:
        assert count.nonfinite_steps == count.steps > 0
        assert count.zero_steps + count.unconfirmed_steps == count.steps
