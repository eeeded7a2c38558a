"""APGD under L1, and APGD-T: closed forms, phases, and the reference's verdicts."""

from __future__ import annotations

import pyautoattack
import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample, train_sample
from torch import Tensor

from robustbench_local.attacks.apgd.apgd import APGD
from robustbench_local.attacks.apgd.l1_search import APGDL1Schedule, APGDL1Search
from robustbench_local.attacks.apgd.lp_search import APGDSearch
from robustbench_local.attacks.apgd.search_by_norm import build_apgd_search
from robustbench_local.attacks.apgd.targeted import APGDT
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

L1 = ThreatModel(norm="L1", eps=3)
ATTACKS: list[Attack] = [APGD(steps=12, restarts=2), APGD(steps=12, loss="dlr"), APGDT(steps=12, targets=2)]


def watched(sample: Sample) -> tuple[Sample, list[tuple[Tensor, Tensor]]]:
    """The sample with a classifier that remembers which points it was asked for, and for which rows."""
    points: list[tuple[Tensor, Tensor]] = []

    class Watched(Classifier):
        def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
            points.append((images.detach(), rows))
            return super().__call__(images, rows)

    count = sample.classifier.num_classes
    return Sample(Watched(sample.classifier.model, num_classes=count), sample.images, sample.labels), points


def test_the_norm_chooses_the_search():
    for norm, kind in (("Linf", APGDSearch), ("L2", APGDSearch), ("L1", APGDL1Search)):
        search = build_apgd_search(threat=ThreatModel(norm=norm, eps=1), steps=7, loss="ce", name="stage")
        assert type(search) is kind
        assert (search.steps, search.name) == (7, "stage")


def test_phases_take_their_shares_of_the_steps():
    schedule = APGDL1Schedule.from_steps(100)
    assert [int((schedule.radius_factors == factor).sum()) for factor in (3, 2, 1)] == [30, 30, 41]
    assert schedule.ends_phase.nonzero().flatten().tolist() == [29, 59]
    assert not schedule.is_review[[0, 30, 60]].any()
    assert APGDL1Schedule.from_steps(500).is_review.nonzero().flatten().tolist()[:3] == [6, 12, 18]
    for steps in (1, 2, 3):
        assert APGDL1Schedule.from_steps(steps).radius_factors.tolist() == [1.0] * (steps + 1)


def test_the_ball_shrinks_and_only_its_last_radius_counts():
    # another class is read where the first pixel is moved further than the last radius allows
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(2, 75)
    weights[1, 0], weights[1, 1:] = 1.0, 0.01
    images = 0.2 + 0.1 * torch.rand(6, 3, 5, 5, generator=generator)
    sample, points = watched(build_linear_sample(weights, torch.tensor([0.76, 0.0]), images))
    threat = ThreatModel(norm="L1", eps=0.25)
    candidates = sample.attack(APGD(steps=40), threat)
    reach = torch.stack([compute_norms(point - images[rows], "L1").amax() for point, rows in points])
    assert torch.allclose(reach[[11, 23, 40]], torch.tensor([0.75, 0.5, 0.25]), rtol=1e-4)
    for phase, factor in ((reach[:12], 3), (reach[12:24], 2), (reach[24:], 1)):
        assert (phase <= 0.25 * factor * 1.00001).all()
    assert any(sample.find_adversarial(point, threat).any() for point, _ in points[:24])
    assert not sample.find_adversarial(candidates, threat).any()
    assert (compute_norms(candidates - images, "L1") <= 0.25 * (1 + 1e-5)).all()


@pytest.mark.parametrize("eps", [pytest.param(0.05, marks=pytest.mark.slow), 0.1])
def test_linear_margins_fall_by_eps_times_the_largest_weight(eps: float):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 48, generator=generator)
    images = 0.5 + 0.02 * (torch.rand(40, 3, 4, 4, generator=generator) - 0.5)
    centred = -(weights @ images.flatten(1).mean(dim=0))
    sample = build_linear_sample(weights, centred + torch.tensor([0.5, 0.0]), images)
    with torch.no_grad():
        margins = -compute_margin(sample.classifier(images), sample.labels)
    expected = margins - eps * float((weights[0] - weights[1]).abs().max())
    threat = ThreatModel(norm="L1", eps=eps)
    for attack in (APGD(), APGDT()):
        candidates = sample.attack(attack, threat)
        assert torch.equal(sample.find_adversarial(candidates, threat), expected < 0)
        with torch.no_grad():
            found = -compute_margin(sample.classifier(candidates), sample.labels)
        standing = expected > 0
        assert torch.allclose(found[standing], expected[standing], atol=1e-4)


def test_candidates_obey_ball_and_box_and_passes_are_those_promised(small: Sample):
    for attack in ATTACKS:
        before = small.images.clone()
        with small.classifier.count_passes(96) as meter:
            candidates = small.attack(attack, L1)
        assert torch.equal(small.images, before)
        assert (compute_norms(candidates.double() - before.double(), "L1") <= L1.eps * (1 + 1e-5)).all()
        assert ((candidates >= 0) & (candidates <= 1)).all()
        broken = small.find_adversarial(candidates, L1)
        assert 0.1 < float(broken.float().mean()) < 0.95
        assert (meter.forward_passes[~broken] == attack.estimate_cost(L1)[0]).all()
        assert (meter.backward_passes[~broken] == attack.estimate_cost(L1)[1]).all()
        assert (meter.forward_passes[broken] < attack.estimate_cost(L1)[0]).float().mean() > 0.8


@pytest.mark.parametrize("attack", [APGD(steps=8), APGDT(steps=6, targets=2)], ids=repr)
def test_verdicts_do_not_depend_on_the_batch(small: Sample, attack: Attack):
    whole = small.find_adversarial(small.attack(attack, L1), L1)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    for size, rows in ((1, order[:5]), (7, order[:21]), (64, order)):
        flips = 0
        for chosen in rows.split(size):
            part = small.select_images(chosen)
            ids = tuple(f"image-{row}" for row in chosen.tolist())
            with part.classifier.evaluation_mode():
                stream = RandomStream(0, ids, repr(attack))
                found = attack.perturb(part.classifier, part.images, part.labels, L1, stream)
            flips += int((part.find_adversarial(found, L1) != whole[chosen]).sum())
        assert flips <= 1


def test_outside_the_mask_no_bit_changes(small: Sample):
    threat = ThreatModel(norm="L1", eps=12, region="mask")
    masks = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    candidates = small.attack(APGD(steps=10), threat, masks)
    outside = ~masks.expand_as(candidates)
    assert torch.equal(candidates[outside], small.images[outside])
    assert float(small.find_adversarial(candidates, threat).float().mean()) > 0.3


@pytest.mark.parametrize(
    ("classes", "norm"),
    [
        (2, "L2"), (2, "L1"), (3, "Linf"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, "Linf"), (3, "L2"), (3, "L1"))),
    ],
)  # fmt: skip
def test_targeted_apgd_needs_no_four_classes(classes: int, norm: str):
    sample = train_sample(classes=classes, count=24)
    threat = ThreatModel(norm=norm, eps={"Linf": 0.3, "L2": 3.0, "L1": 30.0}[norm])
    assert sample.find_adversarial(sample.attack(APGDT(steps=20), threat), threat).all()


@pytest.mark.parametrize("attack", [APGD(steps=8), APGDT(steps=6, targets=2)], ids=repr)
def test_broken_numbers_stay_with_their_image(small: Sample, attack: Attack):
    """NaN logits count as broken; a gradient that is no number stands still; neither touches a neighbour."""
    model = small.classifier.model

    def sick(images: Tensor) -> Tensor:
        flat = images.flatten(1).mean(dim=1)
        rows = torch.arange(len(images))
        crashed = torch.where((rows == 3) & (len(images) == 12), torch.nan, 0.0)
        # the square root's slope at 0 is infinite, so this row's gradient is not a number
        stuck = torch.sqrt(torch.where(rows == 5, 0.0 * flat, 1.0))
        return model(images) + (crashed + stuck)[:, None]

    some = small.select_images(torch.arange(12))
    candidates = Sample(build_classifier(sick, 5), some.images, some.labels).attack(attack, L1)
    assert torch.isfinite(candidates).all()
    assert (compute_norms(candidates - some.images, "L1") <= L1.eps * (1 + 1e-5)).all()
    assert float(compute_norms(candidates - some.images, "L1").median()) > 0.5 * L1.eps


@pytest.mark.slow
def test_the_reference_breaks_as_many(small: Sample):
    attack = APGD()
    ours = small.find_adversarial(small.attack(attack, L1), L1)
    with torch.random.fork_rng([]):
        peer = pyautoattack.AutoAttack(small.classifier.as_module().eval(), norm="L1", eps=L1.eps, seed=0)
        peer.attacks_to_run, peer.apgd.n_restarts = ["apgd-ce"], 1
        candidates, _ = peer.run_standard_evaluation(small.images, small.labels, batch_size=96)
    theirs = small.find_adversarial(candidates, L1)
    assert 0.2 < float(ours.float().mean()) < 0.95
    # either breaks 66 to 71 of the 96, depending on its seed
    assert int((theirs & ~ours).sum()) <= 5
    assert int(ours.sum()) >= 66
