"""FGSM and PGD: what they promise about budgets, paths, masks, passes and broken models."""

from __future__ import annotations

import pytest
import torch
from attack_samples import Sample, build_classifier
from torch import Tensor

from robustbench_local.attacks.apgd.apgd import APGD
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

ATTACKS: list[Attack] = [
    FGSM(),
    FGSM(loss="margin"),
    PGD(steps=7, restarts=2),
    PGD(steps=5, random_start=False, loss="margin"),
    PGD(steps=4, step_size=0.7, loss="dlr"),
]
THREATS = [
    ThreatModel(norm="Linf", eps="12/255"),
    ThreatModel(norm="L2", eps=0.5),
    ThreatModel(norm="Linf", eps="12/255", targets=(1,)),
    ThreatModel(norm="L2", eps=1e-4),
]
LINF = THREATS[0]


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_candidates_obey_ball_and_box_and_leave_the_input_alone(
    small: Sample, attack: Attack, threat: ThreatModel
):
    applicable = small.select_images((small.labels != 1).nonzero().flatten())
    before = applicable.images.clone()
    candidates = applicable.attack(attack, threat)
    assert torch.equal(applicable.images, before)
    assert candidates.shape == before.shape
    assert candidates.dtype == torch.float32
    assert not candidates.requires_grad
    assert (candidates >= 0).all()
    assert (candidates <= 1).all()
    size = compute_norms(candidates.double() - before.double(), threat.norm)
    assert (size <= (threat.eps + 1e-6 if threat.norm == "Linf" else threat.eps * (1 + 1e-5))).all()
    assert (size > 0.5 * threat.eps).float().mean() > 0.9


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_without_a_budget_the_original_bits_come_back_and_nothing_is_spent(
    small: Sample, attack: Attack, norm: str
):
    threat = ThreatModel(norm=norm, eps=0)
    with small.classifier.count_passes(len(small.images)) as meter:
        assert torch.equal(small.attack(attack, threat), small.images)
    assert not meter.forward_passes.any()
    assert attack.estimate_cost(threat) == (0, 0)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_no_images_give_no_candidates(small: Sample, attack: Attack):
    none = small.select_images(torch.arange(0))
    assert none.attack(attack, LINF).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "attack", [FGSM(), PGD(steps=6, restarts=2), PGD(steps=3, random_start=False)], ids=repr
)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_outside_the_mask_no_bit_changes(small: Sample, attack: Attack, norm: str):
    threat = ThreatModel(norm=norm, eps=0.3, region="mask")
    masks = torch.rand(len(small.images), 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.6
    masks[0] = False
    candidates = small.attack(attack, threat, masks)
    outside = ~masks.expand_as(candidates)
    assert torch.equal(candidates[outside], small.images[outside])
    assert (compute_norms((candidates - small.images)[1:], norm) > 0.2).float().mean() > 0.5
    assert torch.equal(candidates[0], small.images[0])


def test_a_masked_threat_needs_masks(small: Sample):
    for attack in (FGSM(), PGD()):
        with pytest.raises(ThreatError, match="the images have no masks"):
            small.attack(attack, ThreatModel(norm="Linf", eps=0.1, region="mask"))


def test_masks_are_ignored_when_the_region_is_the_image(small: Sample):
    nothing = torch.zeros(len(small.images), 1, 8, 8, dtype=torch.bool)
    assert torch.equal(small.attack(FGSM(), LINF, nothing), small.attack(FGSM(), LINF))


def test_passes_are_those_promised_and_fooled_images_stop_early(small: Sample):
    attack = PGD(steps=9, restarts=3)
    with small.classifier.count_passes(len(small.images)) as meter:
        broken = small.find_adversarial(small.attack(attack, LINF), LINF)
    forward, backward = attack.estimate_cost(LINF)
    # the verdict above is one more look at every image
    assert (meter.forward_passes[~broken] - 1 == forward).all()
    assert (meter.backward_passes[~broken] == backward).all()
    assert (meter.forward_passes[broken] - 1 <= forward).all()
    assert (meter.forward_passes[broken] - 1 < forward).float().mean() > 0.9
    assert 0.2 < float(broken.float().mean()) < 0.8


def test_the_batch_shrinks_to_the_images_still_standing(small: Sample):
    sizes: list[int] = []

    class Watched(Classifier):
        def compute_gradient(self, images: Tensor, loss, rows=None):
            sizes.append(len(images))
            return super().compute_gradient(images, loss, rows)

    watched = Sample(Watched(small.classifier.model, num_classes=5), small.images, small.labels)
    broken = watched.find_adversarial(watched.attack(PGD(steps=10), LINF), LINF)
    assert sizes[0] == 96
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 96 - int(broken.sum()) + 8


def test_a_better_budget_never_breaks_fewer_images(small: Sample):
    def count(attack: Attack, eps: float) -> int:
        threat = ThreatModel(norm="Linf", eps=eps / 255)
        return int(small.find_adversarial(small.attack(attack, threat), threat).sum())

    by_radius = [count(PGD(steps=10), eps) for eps in (4, 8, 12, 16, 24)]
    assert by_radius == sorted(by_radius)
    assert by_radius[0] < 10
    assert by_radius[-1] >= 95
    assert count(FGSM(), 12) <= count(PGD(steps=10), 12) <= count(PGD(steps=10, restarts=4), 12)
    assert count(PGD(steps=20), 255) == 96


def test_what_one_restart_breaks_three_break_too(small: Sample):
    with small.classifier.evaluation_mode():
        once, thrice = (
            small.find_adversarial(
                PGD(steps=5, restarts=count).perturb(
                    small.classifier, small.images, small.labels, LINF, small.build_stream(PGD())
                ),
                LINF,
            )
            for count in (1, 3)
        )
    assert not (once & ~thrice).any()
    assert int(thrice.sum()) > int(once.sum())


def test_an_adversarial_point_on_the_path_is_never_lost():
    # rising along the gradient crosses a narrow adversarial strip and leaves it again on the far side
    def forward(images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        bump = torch.exp(-(((pixel - 0.6) / 0.02) ** 2))
        return torch.stack([1 + 0 * pixel, pixel + 0.8 * bump], dim=1)

    sample = Sample(build_classifier(forward, 2), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]))
    attack = PGD(steps=4, step_size=0.1, random_start=False)
    threat = ThreatModel(norm="Linf", eps=0.5)
    candidate = sample.attack(attack, threat)
    assert float(candidate) == pytest.approx(0.6)
    assert sample.find_adversarial(candidate, threat).all()


def test_without_success_the_most_damaging_point_comes_back():
    # the loss has its top at 0.6; big steps keep leaping over it
    def forward(images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        return torch.stack([1 + 0 * pixel, -((pixel - 0.6) ** 2)], dim=1)

    sample = Sample(build_classifier(forward, 2), torch.full((1, 1, 1, 1), 0.45), torch.tensor([0]))
    attack = PGD(steps=5, step_size=0.2, random_start=False)
    candidate = sample.attack(attack, ThreatModel(norm="Linf", eps=0.5))
    assert float(candidate) == pytest.approx(0.65)


def test_the_last_point_of_a_path_is_looked_at_too():
    def forward(images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        return torch.stack([0 * pixel + 0.75, pixel], dim=1)

    sample = Sample(build_classifier(forward, 2), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]))
    threat = ThreatModel(norm="Linf", eps=0.4)
    candidate = sample.attack(PGD(steps=1, step_size=0.3, random_start=False), threat)
    assert sample.find_adversarial(candidate, threat).all()


def spoiled(images: Tensor, logits: Tensor, value: float) -> Tensor:
    """Logits that are ``value`` for images whose first pixel is black."""
    return torch.where((images[:, 0, 0, 0] < 1e-9)[:, None], value, logits)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=6, restarts=2)], ids=repr)
def test_an_answer_that_is_not_finite_spoils_no_other_image(small: Sample, attack: Attack, value: float):
    images = small.images.clone()
    images[:, 0, 0, 0] = images[:, 0, 0, 0].clamp_min(0.2)
    images[3, 0, 0, 0] = 0.0
    threat = ThreatModel(norm="L2", eps=1e-3) if attack == FGSM() else LINF
    wild = build_classifier(lambda batch: spoiled(batch, small.classifier.model(batch), value), 5)
    spoiled_sample = Sample(wild, images, small.labels)
    tame = build_classifier(small.classifier.model.forward, 5)  # asked in the very same way
    clean_sample = Sample(tame, images, small.labels)
    ours, theirs = spoiled_sample.attack(attack, threat), clean_sample.attack(attack, threat)
    others = torch.arange(len(images)) != 3
    assert torch.equal(ours[others], theirs[others])
    assert torch.isfinite(ours).all()


def test_a_point_where_the_answer_is_not_finite_is_what_the_harness_is_shown():
    def forward(images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        answer = torch.stack([1 + 0 * pixel, pixel], dim=1)
        return torch.where((pixel > 0.55)[:, None], torch.nan, answer)

    sample = Sample(build_classifier(forward, 2), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]))
    candidate = sample.attack(PGD(steps=5, random_start=False), ThreatModel(norm="Linf", eps=0.2))
    assert float(candidate) > 0.55
    assert not torch.isfinite(sample.classifier(candidate)).any()


@pytest.mark.parametrize("slope", [0.0, torch.nan])
def test_an_image_without_a_usable_gradient_stands_still(slope: float):
    class Flat(torch.autograd.Function):
        @staticmethod
        def forward(_, pixel):
            return pixel

        @staticmethod
        def backward(_, gradient):
            return gradient * slope

    def forward(images: Tensor) -> Tensor:
        pixel = Flat.apply(images.flatten(1)[:, 0])
        return torch.stack([1 + 0 * pixel, 0.5 * pixel], dim=1)

    sample = Sample(build_classifier(forward, 2), torch.full((2, 1, 1, 1), 0.5), torch.tensor([0, 0]))
    for norm in ("Linf", "L2", "L1"):
        attack = PGD(steps=10, random_start=False)
        assert torch.equal(sample.attack(attack, ThreatModel(norm=norm, eps=0.1)), sample.images)


def test_constant_logits_are_no_success():
    sample = Sample(
        build_classifier(lambda images: images.flatten(1)[:, :2] * 0 + 3, 2),
        torch.rand(2, 1, 2, 1),
        torch.tensor([0, 1]),
    )
    candidates = sample.attack(PGD(steps=3), LINF)
    assert torch.isfinite(candidates).all()


@pytest.mark.parametrize("shift", [-100.0, 100.0])
def test_shifted_logits_change_no_verdict(small: Sample, shift: float):
    shifted = Sample(
        build_classifier(lambda x: small.classifier.model(x) + shift, 5), small.images, small.labels
    )
    attack = PGD(steps=10)
    assert torch.equal(
        shifted.find_adversarial(shifted.attack(attack, LINF), LINF),
        small.find_adversarial(small.attack(attack, LINF), LINF),
    )


def test_the_margin_loss_sees_through_a_saturated_softmax(small: Sample):
    # trust.md D6c: with logits x1000 the cross-entropy underflows and its gradient is exactly zero
    steep = Sample(
        build_classifier(lambda x: small.classifier.model(x) * 1000, 5), small.images, small.labels
    )
    by_margin = steep.find_adversarial(steep.attack(PGD(steps=10, loss="margin"), LINF), LINF)
    by_ce = steep.find_adversarial(steep.attack(PGD(steps=10), LINF), LINF)
    plain = small.find_adversarial(small.attack(PGD(steps=10, loss="margin"), LINF), LINF)
    assert torch.equal(by_margin, plain)
    assert int(by_ce.sum()) < int(by_margin.sum())


def test_the_default_step_size_and_its_warnings():
    assert PGD().list_warnings(LINF) == []
    assert PGD().list_warnings(ThreatModel(norm="Linf", eps=0)) == []
    assert "more than twice eps" in PGD(step_size=0.2).list_warnings(LINF)[0]
    assert "do not go half the way" in PGD(steps=10, step_size=0.001).list_warnings(LINF)[0]
    assert PGD(steps=10, step_size=LINF.eps / 20 * 1.01).list_warnings(LINF) == []
    assert PGD(steps=1, step_size=2 * LINF.eps).list_warnings(LINF) == []


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"restarts": 0}, {"step_size": 0.0}, {"step_size": float("nan")}, {"step_size": -1.0}],
)
def test_impossible_budgets_are_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigError, match="PGD"):
        PGD(**wrong)


@pytest.mark.parametrize("attack", [PGD(steps=3), APGD(steps=3)], ids=repr)
@pytest.mark.parametrize("threat", THREATS[:2], ids=str)
def test_steps_write_over_no_gradient_that_shares_its_memory(attack: Attack, threat: ThreatModel):
    def brightness(images: Tensor) -> Tensor:
        total = images.sum(dim=(1, 2, 3))  # its gradient is one number, seen from every pixel
        return torch.stack([total, 20 - total], dim=1)

    model = Classifier(brightness, num_classes=2, access="gradients")
    images, labels = torch.full((2, 3, 4, 4), 0.4), torch.tensor([0, 0])
    with model.evaluation_mode():
        found = attack.perturb(model, images, labels, threat, RandomStream(0, ("a", "b"), repr(attack)))
    assert bool((found.sum(dim=(1, 2, 3)) < images.sum(dim=(1, 2, 3))).all())


def test_unknown_losses_are_refused():
    for kind in (FGSM, PGD):
        with pytest.raises(ConfigError, match="unknown loss 'l1'"):
            kind(loss="l1")


def test_repr_is_the_whole_configuration():
    attack = PGD(steps=20, step_size=0.01, restarts=2, random_start=False, loss="margin")
    assert (
        repr(attack)
        == "PGD(steps=20, step_size=0.01, restarts=2, random_start=False, loss='margin', early_stop=True)"
    )
    assert eval(repr(attack)) == attack
    assert hash(attack) == hash(eval(repr(attack)))
