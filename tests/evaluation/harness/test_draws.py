"""Models with random answers: how often a stored adversarial example succeeds, and one fixed draw."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_local.attacks import make_attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.consistency import Consistency
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.model_draws import choose_draw_count, count_model_draws
from robustbench_local.evaluation.harness.verify import verify
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

BALL = ThreatModel(norm="Linf", eps=0.1)
SEED = 3


class Threshold(nn.Module):
    """Class 1 if the mean of the two pixels exceeds 0.5."""

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


class Coin(RandomizedClassifier):
    """Answers the wrong class in a share of the draws, where the mean of the pixels is near 0.5."""

    identity = "coin"

    def sample(self, images, numbers):
        logits = self.inner(images)
        share = (0.6 - images.flatten(1).mean(dim=1).sub(0.5).abs() * 2).clamp(0, 0.5)
        flips = numbers.sample_uniform((1,)).flatten() < share
        return torch.where(flips[:, None], logits.flip(1), logits)


class OwnCoin(nn.Module):
    """The same with random numbers of its own."""

    def forward(self, images):
        logits = Threshold()(images)
        flips = torch.rand(len(images)) < 0.25
        return torch.where(flips[:, None], logits.flip(1), logits)


@pytest.fixture
def data():
    means = torch.tensor([0.1, 0.25, 0.35, 0.65, 0.8, 0.95])
    images = means[:, None, None, None].expand(6, 1, 1, 2).contiguous()
    labels = (means > 0.5).long()
    return Dataset(
        images=images, labels=labels, ids=tuple("abcdef"), class_names=("low", "high"), name="two pixels"
    )


def run(classifier, data, attack="fgsm", positions=None):
    job = AttackJob(
        key="k", classifier=classifier, data=data, threat=BALL, seed=SEED, attack=make_attack(attack)
    )
    with classifier.evaluation_mode():
        return job.run(list(range(len(data))) if positions is None else positions).outcomes


def test_a_deterministic_model_has_no_draws(data):
    rows = run(Classifier(Threshold(), num_classes=2), data)
    assert {(row.draws, row.successful_draws, row.broken_fixed_draw) for row in rows} == {(0, 0, None)}


def test_draws_of_a_random_defense_are_those_of_its_verdict(data):
    classifier = Coin(Classifier(Threshold(), num_classes=2), draws=4, verdict_draws=200)
    rows = [row for row in run(classifier, data) if row.clean_correct]
    assert len(rows) == 6
    for row in rows:
        mean = float(data.images[row.position].mean()) + (-0.1 if row.label else 0.1)
        share = max(0.0, min(0.5, 0.6 - 2 * abs(mean - 0.5)))
        assert row.draws == 200
        if not row.linf:
            continue
        assert row.successful_draws / 200 == pytest.approx(share, abs=0.11)


def test_draws_depend_neither_on_the_batch_nor_on_its_order(data):
    def count(positions):
        classifier = Coin(Classifier(Threshold(), num_classes=2), draws=4, verdict_draws=50)
        rows = run(classifier, data, positions=positions)
        return {row.image: (row.successful_draws, row.broken_fixed_draw) for row in rows}

    together = count([0, 1, 2, 3, 4, 5])
    assert count([4, 2]) == {image: together[image] for image in "ec"}
    assert any(k for k, _ in together.values())


def test_with_the_draw_fixed_attacker_and_harness_see_one_draw(data):
    classifier = Coin(Classifier(Threshold(), num_classes=2), draws=4, verdict_draws=50)
    rows = [row for row in run(classifier, data) if row.clean_correct]
    assert all(row.broken_fixed_draw is not None for row in rows)
    assert not any(row.broken_fixed_draw for row in rows if row.image == "f" and not row.successful_draws)
    assert classifier.draws == 4


def own_coin():
    classifier = Classifier(OwnCoin(), num_classes=2)
    return classifier.configure(consistency=Consistency(draws_numbers=True))


def test_a_model_that_draws_by_itself_is_asked_again_and_again(data):
    torch.manual_seed(1)
    rows = [row for row in run(own_coin(), data) if row.clean_correct]
    assert rows
    for row in rows:
        assert row.draws == choose_draw_count(2) == 20
        assert 0 <= row.successful_draws <= 14
        assert row.forward_passes >= 20
        assert row.broken_fixed_draw is None
    assert sum(row.successful_draws for row in rows) > 0


def test_its_draws_belong_to_the_image(data):
    def count(rows):
        classifier = own_coin()
        images, labels = data.images[rows], data.labels[rows]
        stream = RandomStream(SEED, tuple(data.ids[row] for row in rows), "any")
        with classifier.evaluation_mode(), classifier.count_passes(len(rows)) as counter:
            verified = verify(classifier, images, labels, images, BALL, stream=stream)
            drawn = count_model_draws(classifier, verified, labels, BALL, stream, 30)
        assert counter.forward_passes.ge(31).all()
        return dict(zip(stream.ids, drawn.successful_draws.tolist(), strict=True))

    together = count([0, 1, 2, 3, 4, 5])
    assert count([4, 1]) == {image: together[image] for image in "eb"}
    assert len(set(together.values())) > 1


@pytest.mark.parametrize(
    ("passes", "draws"), [(2, 20), (39, 20), (42, 21), (198, 99), (200, 100), (10_000, 100)]
)
def test_draws_follow_the_cost_of_the_attack(passes, draws):
    assert choose_draw_count(passes) == draws


def test_a_targeted_success_is_a_draw_of_the_target(data):
    target = ThreatModel(norm="Linf", eps=0.1, targets=(1,))
    classifier = own_coin()
    stream = RandomStream(SEED, data.ids, "any")
    with classifier.evaluation_mode():
        verified = verify(classifier, data.images[:3], data.labels[:3], data.images[:3], target)
        drawn = count_model_draws(classifier, verified, data.labels[:3], target, stream, 40)
    assert ((drawn.successful_draws > 2) & (drawn.successful_draws < 20)).all()
