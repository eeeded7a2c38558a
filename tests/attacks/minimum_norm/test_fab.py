"""FAB: exact on linear models, within its budget, and the reference's verdicts."""

from __future__ import annotations

import pyautoattack
import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample, train_sample
from torch import Tensor, nn

from robustbench_local.attacks.apgd.targeted import APGDT
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import compute_success_margin
from robustbench_local.attacks.core.target_ranking import rank_classes, rank_targets
from robustbench_local.attacks.core.work_items import ActiveSet
from robustbench_local.attacks.minimum_norm.fab import FAB, FABSearch
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

NORMS = ["Linf", "L2", "L1"]
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
MIDDLE = {"Linf": "12/255", "L2": 0.5, "L1": 3.0}
"""Radii at which about half of the small network's images fall."""


class NearestFAB(FABSearch):
    """FAB that knows no ball and keeps the nearest success."""

    def score_points(self, front: ActiveSet, logits: Tensor) -> tuple[Tensor, Tensor]:
        reached = compute_success_margin(logits, front.labels, self.threat) > 0
        distances = compute_norms(front.points - front.originals, self.threat.norm)
        return torch.where(reached, -distances, -torch.inf), torch.zeros_like(reached)


def linear(classes: int) -> Sample:
    """Images so far from black and white and so near to the border that the box never binds."""
    generator = torch.Generator().manual_seed(classes)
    weights = torch.randn(classes, 48, generator=generator)
    images = 0.5 + 0.01 * (torch.rand(30, 3, 4, 4, generator=generator) - 0.5)
    return build_linear_sample(weights, -(weights @ images.flatten(1).mean(dim=0)), images)


def distances(sample: Sample, norm: str) -> Tensor:
    """From each image to the nearest border, in closed form."""
    layer = sample.classifier.model[1]
    with torch.no_grad():
        logits = sample.classifier(sample.images)
        rows = torch.arange(len(logits))
        gaps = logits[rows, sample.labels][:, None] - logits
        slopes = layer.weight[sample.labels][:, None] - layer.weight[None]
        return (
            (gaps / torch.linalg.vector_norm(slopes, ord=DUAL[norm], dim=2)).nan_to_num(torch.inf).amin(dim=1)
        )


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("norm", NORMS)
def test_linear_distances_are_found_to_a_ten_thousandth(norm: str, classes: int):
    sample = linear(classes)
    exact = distances(sample, norm)
    threat = ThreatModel(norm=norm, eps=1)
    engine = Engine(sample.classifier, sample.images, sample.labels, sample.build_stream(FAB()))
    with sample.classifier.evaluation_mode():
        targets = rank_targets(engine, threat, 9)
        engine.run(NearestFAB(threat=threat, steps=20), engine.build_items(targets=targets))
    assert targets.shape == (30, classes - 1)
    assert torch.allclose(-engine.scores, exact, atol=1e-4, rtol=0.01)
    assert (-engine.scores >= exact - 1e-6).all()
    assert torch.allclose(compute_norms(engine.points - sample.images, norm), -engine.scores, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_images_fall_beyond_their_distance_and_never_before(norm: str):
    sample = linear(4)
    exact = distances(sample, norm)
    for row in (3, 11):
        one = sample.select_images(torch.tensor([row]))
        for share, falls in ((1.02, True), (0.999, False)):
            threat = ThreatModel(norm=norm, eps=float(exact[row]) * share)
            assert bool(one.find_adversarial(one.attack(FAB(steps=15), threat), threat)) is falls


@pytest.mark.parametrize("norm", NORMS)
def test_candidates_obey_ball_and_box_and_passes_are_those_promised(small: Sample, norm: str):
    threat, attack = ThreatModel(norm=norm, eps=MIDDLE[norm]), FAB(steps=10, restarts=2)
    before = small.images.clone()
    with small.classifier.count_passes(96) as meter:
        candidates = small.attack(attack, threat)
    assert torch.equal(small.images, before)
    assert (
        compute_norms(candidates.double() - before.double(), norm) <= threat.eps * (1 + 1e-5) + 1e-7
    ).all()
    assert ((candidates >= 0) & (candidates <= 1)).all()
    broken = small.find_adversarial(candidates, threat)
    assert 0.2 < float(broken.float().mean()) < 0.95
    # four other classes, where the default asks for nine
    looks = 15 if norm == "L1" else 10
    assert (meter.forward_passes[~broken] == 1 + 2 * 4 * (looks + 1)).all()
    assert (meter.backward_passes[~broken] == 2 * 4 * looks).all()
    assert attack.estimate_cost(threat) == (1 + 2 * 9 * (looks + 1), 2 * 9 * looks)
    assert float(meter.forward_passes[broken].float().mean()) < 40


@pytest.mark.parametrize("norm", ["Linf", pytest.param("L2", marks=pytest.mark.slow), "L1"])
def test_verdicts_do_not_depend_on_the_batch(small: Sample, norm: str):
    threat, attack = ThreatModel(norm=norm, eps=MIDDLE[norm]), FAB(steps=5, restarts=2, targets=2)
    whole = small.find_adversarial(small.attack(attack, threat), threat)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    for size, rows in ((1, order[:5]), (7, order[:21]), (64, order)):
        flips = 0
        for chosen in rows.split(size):
            part = small.select_images(chosen)
            with part.classifier.evaluation_mode():
                ids = tuple(f"image-{row}" for row in chosen.tolist())
                stream = RandomStream(0, ids, repr(attack))
                found = attack.perturb(part.classifier, part.images, part.labels, threat, stream)
            flips += int((part.find_adversarial(found, threat) != whole[chosen]).sum())
        assert flips <= 1


@pytest.mark.slow
@pytest.mark.parametrize("attack", [FAB(), APGDT()], ids=repr)
@pytest.mark.parametrize("norm", NORMS)
def test_the_reference_breaks_as_many(small: Sample, norm: str, attack: FAB | APGDT):
    threat = ThreatModel(norm=norm, eps=MIDDLE[norm])
    ours = small.find_adversarial(small.attack(attack, threat), threat)
    with torch.random.fork_rng([]):
        peer = pyautoattack.AutoAttack(small.classifier.as_module().eval(), norm=norm, eps=threat.eps, seed=0)
        peer.attacks_to_run = ["fab-t" if isinstance(attack, FAB) else "apgd-t"]
        peer.apgd_targeted.n_target_classes = peer.fab.n_target_classes = 4
        candidates, _ = peer.run_standard_evaluation(small.images, small.labels, batch_size=96)
    theirs = small.find_adversarial(candidates, threat)
    assert 0.2 < float(ours.float().mean()) < 0.95
    assert int((theirs & ~ours).sum()) <= 2
    assert int(ours.sum()) >= int(theirs.sum()) - 1


@pytest.mark.parametrize("norm", NORMS)
def test_outside_the_mask_no_bit_changes(small: Sample, norm: str):
    threat = ThreatModel(norm=norm, eps=4 * ThreatModel(norm=norm, eps=MIDDLE[norm]).eps, region="mask")
    masks = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    candidates = small.attack(FAB(steps=6, restarts=2, targets=2), threat, masks)
    outside = ~masks.expand_as(candidates)
    assert torch.equal(candidates[outside], small.images[outside])
    assert float(small.find_adversarial(candidates, threat).float().mean()) > 0.3


def test_a_targeted_goal_is_steered_for_its_own_classes(small: Sample):
    threat = ThreatModel(norm="L2", eps=1.5, targets=(1, 3))
    candidates = small.attack(FAB(steps=20), threat)
    with torch.no_grad():
        predictions = small.classifier(candidates).argmax(dim=1)
    changed = (candidates != small.images).flatten(1).any(dim=1)
    assert float(changed.float().mean()) > 0.3
    assert torch.isin(predictions[changed], torch.tensor([1, 3])).all()
    assert (predictions != small.labels)[changed].all()
    assert FAB(steps=20).estimate_cost(threat) == (1 + 2 * 21, 2 * 20)


def test_without_a_target_the_nearest_border_is_the_runner_ups(small: Sample):
    threat = ThreatModel(norm="L2", eps=0.5)
    engine = Engine(small.classifier, small.images, small.labels, small.build_stream(FAB()))
    with small.classifier.evaluation_mode():
        engine.run(FABSearch(threat=threat, steps=30, name="fab"), engine.build_items())
    steered = small.find_adversarial(small.attack(FAB(steps=30), threat), threat)
    assert abs(int(small.find_adversarial(engine.points, threat).sum()) - int(steered.sum())) <= 4


@pytest.mark.parametrize("norm", NORMS)
def test_constant_logits_and_no_budget_leave_images_alone(norm: str):
    flat = build_classifier(
        lambda x: x.sum(dim=(1, 2, 3))[:, None] * torch.zeros(3) + torch.tensor([2.0, 1.0, 0.0]), 3
    )
    sample = Sample(flat, torch.rand(4, 1, 5, 5), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(sample.attack(FAB(steps=5), ThreatModel(norm=norm, eps=0.3)), sample.images)
    with flat.count_passes(4) as meter:
        assert torch.equal(sample.attack(FAB(), ThreatModel(norm=norm, eps=0)), sample.images)
    assert not meter.forward_passes.any()
    assert FAB().estimate_cost(ThreatModel(norm=norm, eps=0)) == (0, 0)


@pytest.mark.parametrize(
    "norm", ["Linf", pytest.param("L2", marks=pytest.mark.slow), pytest.param("L1", marks=pytest.mark.slow)]
)
def test_broken_numbers_stay_with_their_image(norm: str):
    """NaN logits count as broken; a gradient that is no number stands still; neither touches a neighbour."""
    sample = train_sample(count=24)
    model = sample.classifier.model

    class Sick(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = model(images)
            marked = images[:, 0, 0, 0]
            worse = torch.where((marked > 0.995)[:, None], torch.nan, logits)
            # the square root's slope at 0 is infinite, so the gradient is not a number
            return worse + torch.sqrt(torch.where(marked < 0.005, 0.0 * marked, 1.0))[:, None]

    images = sample.images.clone()
    images[:, 0, 0, 0] = 0.5
    threat, attack = ThreatModel(norm=norm, eps=MIDDLE[norm]), FAB(steps=6, targets=2)
    healthy = Sample(sample.classifier, images, sample.labels)
    expected = healthy.find_adversarial(healthy.attack(attack, threat), threat)
    images[3, 0, 0, 0], images[5, 0, 0, 0] = 1.0, 0.0
    sick = Sample(build_classifier(Sick(), 5), images, sample.labels)
    candidates = sick.attack(attack, threat)
    assert torch.isfinite(candidates).all()
    assert torch.equal(candidates[3], images[3])
    others = torch.tensor([row for row in range(24) if row not in {3, 5}])
    assert torch.equal(sick.find_adversarial(candidates, threat)[others], expected[others])
    assert expected[others].any()


def test_classes_are_ranked_by_their_logit():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0], [5.0, 4.0, torch.nan, 6.0], [1.0, 2.0, -torch.inf, 3.0]])
    labels = torch.tensor([1, 3, 0])
    anything = ThreatModel(norm="L2", eps=1)
    assert rank_classes(logits, labels, anything, 3).tolist() == [[2, 3, 0], [0, 1, 2], [3, 1, 2]]
    goal = ThreatModel(norm="L2", eps=1, targets=(0, 2))
    # the third image is read as one of the targets: its other one stands twice
    assert rank_classes(logits, labels, goal, 2).tolist() == [[2, 0], [0, 2], [2, 2]]


def test_numbers_that_make_no_sense_are_refused():
    for wrong in ({"steps": 0}, {"restarts": 0}, {"targets": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            FAB(**wrong)
