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
from robustbench_local.evaluation.harness.model_draws import (
    choose_draw_count,
    count_model_draws,
    may_answer_at_random,
)
from robustbench_local.evaluation.harness.verify import (
    count_successful_draws,
    predict,
    predict_in_shuffled_batches,
    read_draws,
    verify,
)
from robustbench_local.randomness import RandomStream, derive_seed
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


def test_the_estimate_of_passes_has_the_draws_of_the_model_and_of_a_defense(data):
    def estimate(classifier):
        attack = make_attack("fgsm")
        job = AttackJob(key="k", classifier=classifier, data=data, threat=BALL, seed=SEED, attack=attack)
        return [passes / len(data) for passes in job.max_passes]

    still = estimate(Classifier(Threshold(), num_classes=2))
    assert estimate(own_coin()) == [still[0] + 20, still[1]]
    two = Coin(Classifier(Threshold(), num_classes=2), draws=2, verdict_draws=3)
    fgsm = make_attack("fgsm").estimate_cost(BALL)
    finishing = [
        passes - more - 5 * (place == 0) for place, (passes, more) in enumerate(zip(still, fgsm, strict=True))
    ]
    attacked = [sum(passes) for passes in zip(fgsm, finishing, strict=True)]
    # each query is two draws and each verdict three; with the draw fixed each is one
    assert estimate(two) == [2 * attacked[0] + attacked[0] + 3 + 5 * 3, 2 * attacked[1] + attacked[1]]


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


class Watched(nn.Module):
    """Notes what it is asked with, and answers by chance; if it is weak, it raises on the first image."""

    def __init__(self, is_weak=False, width=2):
        super().__init__()
        self.is_weak, self.width, self.calls = is_weak, width, []

    def forward(self, images):
        self.calls.append((round(float(images.mean()), 2), torch.initial_seed(), torch.is_grad_enabled()))
        if self.is_weak and self.calls[-1][0] < 0.2 and len(self.calls) > 2:
            raise ValueError("tired")
        last = (torch.rand(len(images)) < 0.5).float()
        answers = torch.zeros(len(images), self.width)
        answers[:, 0], answers[:, -1] = 0.5, last
        return answers


def count_watched(watched, data, count=6, labels=None, **declared):
    """Count draws of the first two images, which are verified as nothing but themselves."""
    stream = RandomStream(SEED, data.ids[:2], "any")
    images, own = data.images[:2], data.labels[:2] if labels is None else labels
    still = Classifier(Threshold(), num_classes=2)
    classifier = Classifier(watched, num_classes=2, **declared)
    with still.evaluation_mode(), classifier.evaluation_mode():
        verified = verify(still, images, own, images, BALL)
        watched.calls.clear()
        state = torch.get_rng_state()
        drawn = count_model_draws(classifier, verified, own, BALL, stream, count)
        assert torch.equal(torch.get_rng_state(), state)
    return verified, drawn


def test_each_draw_has_the_seed_of_its_image_and_records_no_gradient(data):
    watched = Watched()
    verified, drawn = count_watched(watched, data)
    seeds = [derive_seed(SEED, image, "resubmission", draw) % 2**32 for image in "ab" for draw in range(6)]
    assert [seed for _, seed, _ in watched.calls] == seeds
    assert [mean for mean, *_ in watched.calls] == [0.1] * 6 + [0.25] * 6
    assert not any(records for *_, records in watched.calls)
    assert drawn.draws.tolist() == [6, 6]
    assert (verified.draws.tolist(), verified.successful_draws.tolist()) == ([0, 0], [0, 0])
    assert 0 < int(drawn.successful_draws.sum()) < 12


def test_an_image_on_which_the_model_raises_meanwhile_has_no_draws(data):
    _, drawn = count_watched(Watched(is_weak=True), data)
    assert drawn.draws.tolist() == [0, 6]
    assert drawn.successful_draws.tolist()[0] == 0
    assert drawn.successful_draws.tolist()[1] > 0


def test_a_draw_that_is_rejected_is_no_success(data):
    _, drawn = count_watched(Watched(width=3), data, abstain="last")
    assert drawn.draws.tolist() == [6, 6]
    assert drawn.successful_draws.tolist() == [0, 0]
    wrong = torch.ones(2, dtype=torch.int64)  # the other answer is class 0, which is accepted
    _, drawn = count_watched(Watched(width=3), data, labels=wrong, abstain="last")
    assert 0 < int(drawn.successful_draws.sum()) < 12


def test_a_declared_random_defense_needs_no_further_draws():
    drawing = Consistency(draws_numbers=True)
    coin = Coin(Classifier(Threshold(), num_classes=2), draws=2, verdict_draws=3)
    assert may_answer_at_random(own_coin())
    assert not may_answer_at_random(coin.configure(consistency=drawing))
    assert not may_answer_at_random(Classifier(Threshold(), num_classes=2))


def test_a_verdict_keeps_what_each_draw_predicts(data):
    classifier = Coin(Classifier(Threshold(), num_classes=2), draws=2, verdict_draws=7)
    stream = RandomStream(SEED, data.ids, "any")
    with classifier.evaluation_mode():
        found = predict(classifier, data.images, data.labels, stream=stream)
    assert found.draw_predictions.shape == found.draw_correct.shape == (6, 7)
    assert torch.equal(found.draw_correct, found.draw_predictions == data.labels[:, None])
    assert not bool(found.draw_correct.all())
    with classifier.evaluation_mode():
        verified = verify(classifier, data.images, data.labels, data.images, BALL, stream=stream)
        still = predict(Classifier(Threshold(), num_classes=2), data.images, data.labels)
    assert (still.draw_predictions.shape, still.draw_predictions.dtype) == ((6, 0), torch.int64)
    assert (still.draw_correct.shape, still.draw_correct.dtype) == ((6, 0), torch.bool)
    assert verified.draws.tolist() == [7] * 6
    assert verified.successful_draws.tolist() == (~found.draw_correct).sum(dim=1).tolist()


def test_draws_are_read_by_image_and_rejection_as_it_is_asked_for():
    """Three draws of two images: the class, the other one, and rejection."""
    samples = torch.eye(3)[torch.tensor([[0, 1], [1, 1], [2, 2]])]
    labels = torch.tensor([0, 1])
    may_reject = Classifier(Threshold(), num_classes=2, abstain="last")
    for allows, rejected_is_correct in ((True, True), (False, False)):
        predictions, correct = read_draws(samples, labels, may_reject, allows_rejection=allows)
        assert predictions.tolist() == [[0, 1, 2], [1, 1, 2]]
        assert correct.tolist() == [[True, False, rejected_is_correct], [True, True, rejected_is_correct]]
    without = Classifier(Threshold(), num_classes=3)
    assert read_draws(samples, labels, without, allows_rejection=True)[1].tolist() == [
        [True, False, False],
        [True, True, False],
    ]


@pytest.mark.parametrize(
    ("targets", "may_reject", "expected"),
    [
        ((), True, [4, 4]),  # all but the correct answer and the rejection
        ((), False, [5, 5]),
        ((2,), True, [2, 2]),
        ((3,), True, [1, 1]),  # class 3 is the rejection: only the answer that is not finite counts
        ((3,), False, [2, 2]),
    ],
)
def test_a_draw_succeeds_by_the_goal_and_where_it_is_not_finite(targets, may_reject, expected):
    """The label, a tie with it, two other classes (one of them is class 3 or the rejection), no number."""
    predictions = torch.tensor([[0, 0, 1, 2, 3, -1], [1, 1, 0, 2, 3, -1]])
    correct = torch.tensor([[True, False, False, False, may_reject, False]]).repeat(2, 1)
    classifier = Classifier(Threshold(), num_classes=3 if may_reject else 4)
    if may_reject:
        classifier = Classifier(Threshold(), num_classes=3, abstain="last")
    threat = ThreatModel(norm="Linf", eps=0.1, targets=targets)
    found = count_successful_draws(predictions, correct, torch.tensor([0, 1]), threat, classifier)
    assert found.tolist() == expected


def test_one_image_that_is_rejected_is_as_good_as_correct_under_attack():
    class Rejecting(nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, 1.0, 2.0]]).repeat(len(images), 1)

    classifier = Classifier(Rejecting(), num_classes=2, abstain="last")
    images, labels = torch.rand(1, 1, 1, 2), torch.tensor([0])
    for allows in (True, False):
        found = predict_in_shuffled_batches(classifier, images, labels, allows_rejection=allows)
        assert found.correct.tolist() == [allows]
        assert found.rejected.tolist() == [True]
