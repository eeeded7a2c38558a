"""HopSkipJump and Boundary: label-only, against closed forms, budgets, bad models and foolbox."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from attack_samples import Sample, build_linear_sample
from torch import Tensor, nn

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.black_box import hopskipjump
from robustbench_local.attacks.black_box.boundary import Boundary
from robustbench_local.attacks.black_box.hopskipjump import HopSkipJump
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.evaluation.evaluate import evaluate
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

DUAL = {"Linf": 1, "L2": 2}
ANYWHERE = {"L2": ThreatModel(norm="L2", eps=30), "Linf": ThreatModel(norm="Linf", eps=1)}
BOTH = [HopSkipJump(queries=250), Boundary(queries=150)]


def linear(classes: int = 2, count: int = 8, side: int = 4) -> Sample:
    """Images far from black and white, so that the box does not bind near the border."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(classes, 3 * side * side, generator=generator)
    images = 0.5 + 0.2 * (torch.rand(count, 3, side, side, generator=generator) - 0.5)
    return build_linear_sample(weights, -(weights @ images.flatten(1).mean(dim=0)), images)


def to_the_border(sample: Sample, norm: str) -> Tensor:
    """Exact distance of each image from the border between two classes."""
    weight = sample.classifier.model[1].weight.detach()
    with torch.no_grad():
        logits = sample.classifier(sample.images)
    steepness = torch.linalg.vector_norm(weight[0] - weight[1], ord=DUAL[norm])
    return (logits[:, 0] - logits[:, 1]).abs() / steepness


def attacked(sample: Sample, attack: Attack, threat: ThreatModel, rows: list[int], size: int) -> Tensor:
    """Candidates of the images in ``rows``, in batches of ``size``, in the order of the data."""
    found = torch.full_like(sample.images, torch.nan)
    with sample.classifier.evaluation_mode():
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            stream = RandomStream(0, tuple(f"image-{row}" for row in some), repr(attack))
            found[some] = attack.perturb(
                sample.classifier, sample.images[some], sample.labels[some], threat, stream
            )
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "norm", "bound"),
    [
        (HopSkipJump(queries=4000), "L2", 1.03),
        (HopSkipJump(queries=6000), "Linf", 1.08),
        (Boundary(queries=1500), "L2", 1.05),
    ],
    ids=repr,
)
def test_linear_models_are_broken_at_their_exact_distance(attack: Attack, norm: str, bound: float):
    sample = linear(count=4)
    candidates = sample.attack(attack, ANYWHERE[norm])
    assert sample.find_adversarial(candidates, ANYWHERE[norm]).all()
    ratio = compute_norms(candidates - sample.images, norm) / to_the_border(sample, norm)
    assert (ratio > 1).all()
    assert (ratio < bound).all()


@pytest.mark.parametrize("queries", [100, 137, 300])
@pytest.mark.parametrize("kind", [HopSkipJump, Boundary])
def test_queries_are_spent_and_never_overspent(kind: type[Attack], queries: int):
    sample, attack = linear(classes=3), kind(queries=queries)
    with sample.classifier.count_passes(8, queries) as meter:
        sample.attack(attack, ANYWHERE["L2"])
    assert (meter.forward_passes <= queries).all()
    assert (meter.forward_passes > queries - 40).all()
    assert attack.estimate_cost(ANYWHERE["L2"]) == (queries, 0)
    assert (attack.queries, attack.knowledge, attack.measure) == (queries, "labels", "distance")


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_a_meter_with_fewer_queries_is_obeyed(attack: Attack):
    sample = linear()
    for limit in (0, 1, 110):
        with sample.classifier.count_passes(8, limit) as meter:
            candidates = sample.attack(attack, ANYWHERE["L2"])
        assert (meter.forward_passes <= limit).all()
        assert sample.find_adversarial(candidates, ANYWHERE["L2"]).all() == (limit == 110)


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_an_image_that_is_read_wrongly_comes_back_after_one_query(attack: Attack):
    sample = linear()
    labels = sample.labels.clone()
    labels[3] = 1 - labels[3]
    reference = sample.attack(attack, ANYWHERE["L2"])
    with sample.classifier.count_passes(8) as meter:
        candidates = replace(sample, labels=labels).attack(attack, ANYWHERE["L2"])
    assert torch.equal(candidates[3], sample.images[3])
    assert int(meter.forward_passes[3]) == 1
    others = torch.arange(8) != 3
    assert torch.allclose(candidates[others], reference[others], atol=1e-6)


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_where_nothing_is_adversarial_the_original_comes_back(attack: Attack):
    sample = linear()
    stubborn = Classifier(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), num_classes=2)
    one_class = Sample(stubborn, sample.images, torch.zeros(8, dtype=torch.int64))
    with stubborn.count_passes(8) as meter:
        assert torch.equal(one_class.attack(attack, ANYWHERE["L2"]), sample.images)
    assert (meter.forward_passes <= attack.queries // 2 + 1).all()  # it gives up at half of its queries


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_an_answer_that_is_not_finite_is_a_success_and_never_spreads(attack: Attack):
    sample = linear()

    def scores(images: Tensor) -> Tensor:
        logits = sample.classifier.model(images)
        return torch.where(images.mean(dim=(1, 2, 3), keepdim=False)[:, None] > 0.515, torch.nan, logits)

    broken = Sample(Classifier(scores, num_classes=2), sample.images, sample.labels)
    candidates = broken.attack(attack, ANYWHERE["L2"])
    assert torch.isfinite(candidates).all()
    with torch.no_grad():
        logits = broken.classifier(candidates)
    success = (logits.argmax(dim=1) != sample.labels) | logits.isnan().any(dim=1)
    assert success.all()


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_a_model_that_answers_at_random_ends_without_nan(attack: Attack):
    sample, generator = linear(), torch.Generator().manual_seed(0)
    dice = Classifier(lambda x: torch.rand(len(x), 2, generator=generator), num_classes=2)
    candidates = Sample(dice, sample.images, sample.labels).attack(attack, ANYWHERE["L2"])
    assert ((candidates >= 0) & (candidates <= 1)).all()


@pytest.mark.parametrize("attack", [HopSkipJump(queries=700), Boundary(queries=300)], ids=repr)
def test_targets_are_reached_from_random_images(attack: Attack):
    sample = linear(classes=4, count=20)
    threat = ThreatModel(norm="L2", eps=30, targets=(1, 2))
    sample = sample.select_images(
        (~torch.isin(sample.labels, torch.tensor(threat.targets))).nonzero().flatten()
    )
    candidates = sample.attack(attack, threat)
    assert len(sample.labels) > 6
    assert sample.find_adversarial(candidates, threat).all()
    # as near as the nearer target, up to a few percent: for single targets the distances are larger
    single = [sample.attack(attack, replace(threat, targets=(target,))) for target in threat.targets]
    either = torch.stack([compute_norms(each - sample.images, "L2") for each in single]).amin(dim=0)
    assert float((compute_norms(candidates - sample.images, "L2") / either).median()) < 1.2


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_only_candidates_within_eps_count_and_the_rest_are_originals(small: Sample, attack: Attack):
    sample = small.select_images(torch.arange(12))
    everywhere = sample.attack(attack, ANYWHERE["L2"])
    distance = compute_norms(everywhere - sample.images, "L2")
    threat = ThreatModel(norm="L2", eps=float(distance.median()))
    within = sample.attack(attack, threat)
    near = distance <= threat.eps
    assert torch.equal(compute_norms(within - sample.images, "L2") > 0, near)
    assert torch.equal(sample.find_adversarial(within, threat), near)
    assert torch.equal(within[near], everywhere[near])
    assert torch.equal(sample.attack(attack, ThreatModel(norm="L2", eps=0)), sample.images)


@pytest.mark.slow
@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_results_do_not_depend_on_batch_order_or_company(small: Sample, attack: Attack):
    threat, order = ANYWHERE["L2"], list(range(12))
    reference = attacked(small, attack, threat, order, 12)[order]
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    for size, rows in ((1, order[:2]), (5, order), (12, shuffled), (3, [11, 3, 7])):
        found = attacked(small, attack, threat, rows, size)
        assert small.find_adversarial(found, threat)[rows].all()
        # floating-point sums depend on the shape of the batch, and a walk along the border can amplify that
        apart = compute_norms(found[rows] - reference[rows], "Linf") > 1e-3
        assert int(apart.sum()) <= len(rows) // 8


@pytest.mark.parametrize("attack", BOTH, ids=repr)
def test_labels_are_all_that_is_used(small: Sample, attack: Attack):
    sample = small.select_images(torch.arange(6))
    mute = Classifier(sample.classifier.model, num_classes=5, access="labels")
    seen = Sample(mute, sample.images, sample.labels).attack(attack, ANYWHERE["L2"])
    assert torch.equal(seen, sample.attack(attack, ANYWHERE["L2"]))


def test_probes_held_at_once_decide_no_number(small: Sample, monkeypatch: pytest.MonkeyPatch):
    sample, attack = small.select_images(torch.arange(6)), HopSkipJump(queries=300)
    together = sample.attack(attack, ANYWHERE["Linf"])
    monkeypatch.setattr(hopskipjump, "_MAX_HELD_NUMBERS", 2 * 100 * 192)
    assert torch.allclose(sample.attack(attack, ANYWHERE["Linf"]), together, atol=1e-6)


def test_a_black_box_callable_is_evaluated_end_to_end(small: Sample):
    model = small.classifier.model

    def service(images: Tensor) -> Tensor:
        return model(images).argmax(dim=1)

    classifier = Classifier(service, num_classes=5, access="labels", name="service")
    data = (small.images[:12], small.labels[:12])
    result = evaluate(classifier, data, attack=HopSkipJump(queries=400), norm="L2", eps=1.0)
    assert 0 < result.counts.broken < 12
    assert (result.outcomes["l2"] <= 1.0 + 1e-5).all()
    assert result.outcomes["forward_passes"].between(380, 403).all()
    assert (result.outcomes["status"] == "ok").all()
    with pytest.raises(ConfigError, match="PGD needs gradients, the model 'service' gives labels only"):
        evaluate(classifier, data, attack="pgd50-linf-8")


def test_impossible_hyper_parameters_and_threats_are_refused(small: Sample):
    with pytest.raises(ConfigError, match="HopSkipJump needs at least 100 queries, got 99"):
        HopSkipJump(queries=99)
    with pytest.raises(ConfigError, match="at least 10 probes, got 1"):
        HopSkipJump(probes=1)
    with pytest.raises(ConfigError, match=r"must be between 0 and 1, got 0\.01 and 2"):
        Boundary(forward=2)
    with pytest.raises(ThreatError, match="Boundary does not support the norm 'Linf'"):
        Boundary().check_support(ANYWHERE["Linf"], small.classifier)


class Counted(nn.Module):
    """Counts the images that go through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.model(images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "peer", "options", "norm"),
    [
        (HopSkipJump, "HopSkipJumpAttack", {"steps": 6, "constraint": "l2"}, "L2"),
        (HopSkipJump, "HopSkipJumpAttack", {"steps": 6, "constraint": "linf"}, "Linf"),
        (Boundary, "BoundaryAttack", {"steps": 1500}, "L2"),
    ],
)
def test_at_equal_queries_no_farther_than_foolbox(
    small: Sample, foolbox: ModuleType, kind: type[Attack], peer: str, options: dict[str, object], norm: str
):
    sample, counted = small.select_images(torch.arange(32)), Counted(small.classifier.model).eval()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(counted, bounds=(0, 1), device="cpu")
        goal = foolbox.criteria.Misclassification(sample.labels)
        theirs = getattr(foolbox.attacks, peer)(**options).run(model, sample.images, goal)
    queries = counted.images // 32
    ours = sample.attack(kind(queries=queries), ANYWHERE[norm])
    assert sample.find_adversarial(ours, ANYWHERE[norm]).all()
    medians = [float(compute_norms(each - sample.images, norm).median()) for each in (ours, theirs)]
    assert medians[0] < 1.05 * medians[1], (queries, medians)
