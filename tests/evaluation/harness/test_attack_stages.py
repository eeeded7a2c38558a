"""One batch of an attack: who is asked what, how often, and what the record of each image has of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier, Consistency
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import InvariantError, ModelError, UnreachableError
from robustbench_local.evaluation.harness import attack_job
from robustbench_local.evaluation.harness.answer_agreement import AgreementCounts
from robustbench_local.evaluation.harness.attack_job import AttackJob, replace_remedy
from robustbench_local.evaluation.harness.job import AttackFailedError
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps=0.02)


@dataclass(frozen=True, kw_only=True)
class Scripted(Attack):
    """Does what a test says."""

    access = "scores"
    script: Callable[..., object]
    queries: int | None = None

    def __repr__(self):
        return "Scripted()"

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return self.script(classifier, images, labels, masks, stream)

    def estimate_cost(self, threat):
        return (0, 0)


def stay(classifier, images, labels, masks, stream):
    return images


def make_job(classifier, data, script=stay, queries=None, **changes):
    given = {"threat": LINF, "seed": 1, **changes}
    return AttackJob(
        key="cell", classifier=classifier, data=data, attack=Scripted(script=script, queries=queries), **given
    )


def run(job, positions):
    with job.classifier.evaluation_mode(), job.queried_model.evaluation_mode():
        return job.run(positions)


def test_the_attack_gets_the_correctly_classified_images_that_are_not_proven(linear, data):
    seen = []

    def look(classifier, images, labels, masks, stream):
        seen.append((stream.ids, images.clone(), labels.tolist(), masks))
        return images

    job = make_job(linear, data, look, proven_images=frozenset({"made/2", "made/10", "made/99"}))
    batch = run(job, [3, 2, 10, 1])  # every tenth is misclassified
    assert [ids for ids, *_ in seen] == [("made/3", "made/1")]
    assert torch.equal(seen[0][1], data.images[[3, 1]])
    assert seen[0][2:] == (data.labels[[3, 1]].tolist(), None)
    assert [row.position for row in batch.outcomes] == [3, 2, 10, 1]
    assert [row.status for row in batch.outcomes] == ["ok", "ok", "clean-wrong", "ok"]
    assert [row.certified for row in batch.outcomes] == [None, True, None, None]
    assert [row.forward_passes for row in batch.outcomes] == [2, 1, 1, 2]
    assert torch.equal(batch.candidates, data.images[[3, 2, 10, 1]])
    everything = make_job(linear, data, look, proven_images=frozenset(data.ids))
    run(everything, [3, 1])
    assert len(seen) == 1


def test_candidates_and_verdicts_go_to_their_own_images(linear, data):
    def move_second(classifier, images, labels, masks, stream):
        moved = images.clone()
        moved[1] = (moved[1] + 0.02).clamp(0, 1)
        return moved

    batch = run(make_job(linear, data, move_second), [10, 3, 1])
    assert [row.linf > 0 for row in batch.outcomes] == [False, False, True]
    assert torch.equal(batch.candidates[:2], data.images[[10, 3]])
    assert not torch.equal(batch.candidates[2], data.images[1])


def test_time_is_shared_by_the_images_of_a_batch(linear, data, monkeypatch):
    clock = iter([100.0, 112.0])
    monkeypatch.setattr(attack_job.time, "perf_counter", lambda: next(clock))
    batch = run(make_job(linear, data), [1, 2, 3])
    assert {row.seconds for row in batch.outcomes} == {4.0}


@pytest.mark.parametrize(("positions", "compared"), [([0, 1, 2], 3), ([1, 0], 2), ([1, 2], 0)])
def test_sizes_of_batches_are_compared_once_with_the_first_image(linear, data, positions, compared):
    linear.configure(consistency=Consistency(is_random=False))
    attacked = sum(position % 10 > 0 for position in positions)
    assert run(make_job(linear, data), positions).agreement == AgreementCounts(
        attacked, 0, compared, 0, len(positions), 0
    )


@pytest.mark.parametrize(
    ("batch_size", "odd", "disagreeing"), [(None, 5, 0), (7, 7, 4), (7, 6, 0), (None, 7, 0)]
)
def test_the_size_at_work_is_among_the_compared(linear, data, batch_size, odd, disagreeing):
    class Odd(torch.nn.Module):
        def forward(self, images):
            return linear.module(images) * (3 if len(images) == odd else 1)

    classifier = Classifier(Odd(), num_classes=4)
    classifier.configure(consistency=Consistency(is_random=False))
    job = make_job(classifier, data)
    with classifier.evaluation_mode():
        classifier.configure(batch_size=None)
        if batch_size:
            with classifier.use_batch_size(batch_size):
                found = job.run(list(range(12))).agreement
        else:
            found = job.run(list(range(12))).agreement
    assert found.size_disagreements == disagreeing


@pytest.mark.parametrize("region", ["image", "mask"])
def test_masks_reach_the_attack_and_bind_it_in_their_region_alone(linear, data, region):
    masks = torch.zeros(60, 1, 4, 4, dtype=torch.bool)
    masks[3, 0, 0, 0] = masks[1, 0, 3, 3] = True
    seen = []

    def move(classifier, images, labels, given, stream):
        seen.append(given)
        moved = images.clone()
        moved[:, :, 0, 0] = (moved[:, :, 0, 0] + 0.01).clamp(0, 1)
        return moved

    job = make_job(linear, replace(data, masks=masks), move, threat=replace(LINF, region=region))
    batch = run(job, [3, 1])
    assert torch.equal(seen[0], masks[[3, 1]])
    assert [row.status for row in batch.outcomes] == ["ok", "rejected" if region == "mask" else "ok"]


class Noisy(RandomizedClassifier):
    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images + 0.01 * numbers.sample_normal(images.shape[1:]))


def test_passes_are_those_of_attack_and_harness_on_the_image(linear, data):
    def ask_for_the_second(classifier, images, labels, masks, stream):
        for _ in range(3):
            classifier(images[1:], torch.tensor([1]))
        return images

    noisy = Noisy(linear, draws=2, verdict_draws=5)
    batch = run(make_job(noisy, data, ask_for_the_second), [10, 3, 1])
    assert [row.forward_passes for row in batch.outcomes] == [5, 5 + 5 + 2, 5 + 5 + 3 * 2 + 2 + 3]
    surrogate = Classifier(linear.module, num_classes=4, name="surrogate")
    batch = run(make_job(linear, data, ask_for_the_second, surrogate=surrogate), [10, 3, 1])
    assert [row.forward_passes for row in batch.outcomes] == [1, 2, 5]


def test_passes_of_another_library_are_shared_evenly(linear, data):
    def ask_outside(classifier, images, labels, masks, stream):
        module = classifier.as_module()
        module(images[:1])
        for _ in range(2):
            moved = images.clone().requires_grad_()
            module(moved)[:, 0].sum().backward()
        return images

    job = make_job(linear, data, ask_outside)
    batch = run(job, [1, 2])
    assert [row.forward_passes - 2 for row in batch.outcomes] == [3, 2]  # five in all
    assert [row.backward_passes for row in batch.outcomes] == [2, 2]
    assert [row.gradient_steps for row in batch.outcomes] == [2, 2]
    assert linear.external_passes == (0, 0)


def test_gradients_are_counted_for_their_image(linear, data):
    def take_gradients(classifier, images, labels, masks, stream):
        classifier.compute_gradient(images[1:], lambda logits: logits[:, 0], rows=torch.tensor([1]))
        return images

    batch = run(make_job(linear, data, take_gradients), [10, 3, 1])
    assert [row.gradient_steps for row in batch.outcomes] == [0, 0, 1]
    assert [row.backward_passes for row in batch.outcomes] == [0, 0, 1]


def test_gradients_that_were_missed_are_taken_again(linear, data, monkeypatch):
    calls, missed = [], iter([True, True, False])

    def look(classifier, images, labels, masks, stream):
        calls.append(1)
        classifier(images)
        return images

    monkeypatch.setattr(linear.gradient_guard, "detect_missed_faults", lambda: next(missed))
    batch = run(make_job(linear, data, look), [1])
    assert len(calls) == 3
    assert batch.outcomes[0].forward_passes == 3  # the clean image, the last attack, and the candidate


@pytest.mark.parametrize("limit", [None, 20])
def test_the_search_on_successes_gets_the_queries_that_are_left(linear, data, monkeypatch, limit):
    told = []

    def finish(attacked, verified, verify_rows):
        told.append(attacked)
        return verified

    def ask(classifier, images, labels, masks, stream):
        classifier(images[1:], torch.tensor([1]))
        return images

    monkeypatch.setattr(attack_job, "finish_successes", finish)
    run(make_job(linear, data, ask, queries=limit), [3, 1])
    noisy = Noisy(linear, draws=4, verdict_draws=6)
    run(make_job(noisy, data, ask, queries=limit), [3, 1])
    surrogate = Classifier(linear.module, num_classes=4, name="surrogate")
    run(make_job(linear, data, ask, queries=limit, surrogate=surrogate), [3, 1])
    left = [None if one.queries_left is None else one.queries_left.tolist() for one in told]
    assert left == [None if limit is None else [20, 19]] * 3
    assert [one.is_transfer for one in told] == [False, False, True]
    assert [one.attacked_model for one in told] == [linear, noisy, surrogate]
    assert told[0].stream.ids == ("made/3", "made/1")
    assert torch.equal(told[0].images, data.images[[3, 1]])
    assert torch.equal(told[0].labels, data.labels[[3, 1]])
    assert told[0].masks is None


@pytest.mark.parametrize("region", ["image", "mask"])
def test_the_search_on_successes_is_bound_by_masks_in_their_region_alone(linear, data, monkeypatch, region):
    masks, told = torch.ones(60, 1, 4, 4, dtype=torch.bool), []

    def finish(attacked, verified, verify_rows):
        told.append(attacked.masks)
        return verified

    monkeypatch.setattr(attack_job, "finish_successes", finish)
    run(make_job(linear, replace(data, masks=masks), threat=replace(LINF, region=region)), [3, 1])
    assert (told[0] is None) == (region == "image")
    assert told[0] is None or torch.equal(told[0], masks[:2])


class Pooled(Noisy):
    answers_with_one_draw = False


def test_the_draw_is_fixed_where_users_get_one_and_the_attack_asks_this_classifier(linear, data):
    surrogate = Classifier(linear.module, num_classes=4, name="surrogate")
    noisy, pooled = Noisy(linear, draws=2, verdict_draws=3), Pooled(linear, draws=2, verdict_draws=3)
    for job, is_fixed in (
        (make_job(noisy, data), True),
        (make_job(pooled, data), False),
        (make_job(linear, data), False),
        (make_job(noisy, data, surrogate=surrogate), False),
    ):
        assert job.fixes_draw is is_fixed
        if job.surrogate is None:
            (row,) = run(job, [3]).outcomes
            assert (row.broken_fixed_draw is not None) is is_fixed


def test_gradients_and_stages_are_those_of_the_attack_alone(linear, data):
    """The draw is fixed later on, with counters of its own."""

    def take_gradients(classifier, images, labels, masks, stream):
        with torch.enable_grad():
            classifier.compute_gradient(images, lambda logits: logits[:, 0])
        classifier.record_stage(torch.tensor([0]), "fixed" if classifier.has_fixed_draw else "first")
        return (1 - images).clamp(0, 1)

    noisy = Noisy(linear, draws=2, verdict_draws=3)
    batch = run(make_job(noisy, data, take_gradients, threat=replace(LINF, eps=1)), [3])
    assert (batch.outcomes[0].broken, batch.outcomes[0].stage) == (True, "first")
    assert batch.outcomes[0].gradient_steps == 1
    assert batch.outcomes[0].backward_passes >= 2 + 1


def test_what_is_compared_after_the_attack_is_what_was_verified(linear, data):
    linear.configure(consistency=Consistency(is_random=False))

    def leave(classifier, images, labels, masks, stream):
        return 1 - images

    batch = run(make_job(linear, data, leave), [3, 1])
    assert [row.status for row in batch.outcomes] == ["rejected", "rejected"]
    assert (batch.agreement.compared, batch.agreement.disagreements) == (2, 0)


def test_an_image_whose_attack_raises_keeps_what_is_known_of_it(linear, data, monkeypatch):
    def fail(classifier, images, labels, masks, stream):
        classifier(images)
        raise ValueError("broken")

    clock = iter([100.0, 102.5, 200.0])
    monkeypatch.setattr(attack_job.time, "perf_counter", lambda: next(clock))
    with pytest.raises(AttackFailedError) as caught:
        run(make_job(linear, data, fail), [3])
    row = caught.value.outcome
    assert (row.position, row.status, row.error) == (3, "error", "ValueError: broken")
    assert (row.forward_passes, row.seconds, row.clean_correct) == (2, 2.5, True)
    assert str(caught.value.cause) == "broken"
    monkeypatch.setattr(attack_job.time, "perf_counter", lambda: 0.0)
    with pytest.raises(ValueError, match="broken"):
        run(make_job(linear, data, fail), [3, 1])


@pytest.mark.parametrize("kind", [InvariantError, UnreachableError])
def test_what_is_no_fault_of_an_image_is_raised_as_it_is(linear, data, kind):
    def fail(*given):
        raise kind("no")

    with pytest.raises(kind):
        run(make_job(linear, data, fail), [3])


def make_model_error(cause=True):
    error = ModelError("raised", where="it", remedy="check input_size and channels")
    error.__cause__ = ValueError("inside") if cause else None
    return error


def test_advice_about_the_shape_is_replaced_where_the_clean_image_raised_nothing(linear, data):
    replaced = replace_remedy(make_model_error())
    assert "clean image raises nothing" in str(replaced)
    assert (replaced.what, replaced.where) == ("raised", "it")
    assert str(replaced.__cause__) == "inside"
    other = ValueError("other")
    other.__cause__ = KeyError("inside")
    for same in (make_model_error(cause=False), ValueError("other"), other):
        assert replace_remedy(same) is same

    def fail(*given):
        raise make_model_error()

    surrogate = Classifier(linear.module, num_classes=4, name="surrogate")
    for job, is_replaced in (
        (make_job(linear, data, fail), True),
        (make_job(linear, data, fail, surrogate=surrogate), False),
    ):
        with pytest.raises(AttackFailedError) as caught:
            run(job, [3])
        assert ("input_size" not in caught.value.outcome.error) is is_replaced


def test_after_the_attack_the_attacked_model_is_asked_and_not_its_copy(linear, data):
    class Tiring(torch.nn.Module):
        """Answers otherwise after four calls."""

        def __init__(self):
            super().__init__()
            self.inner, self.calls = linear.module, 0

        def forward(self, images):
            self.calls += 1
            return self.inner(images).roll(int(self.calls > 4), 1)

    def ask(classifier, images, labels, masks, stream):
        for _ in range(5):
            classifier(images)
        return images

    tiring = Classifier(Tiring(), num_classes=4, name="tiring")
    tiring.configure(consistency=Consistency(is_random=False))
    agreement = run(make_job(tiring, data, ask), [3, 1]).agreement
    assert (agreement.compared, agreement.disagreements) == (2, 2)
    assert agreement.repeated_disagreements == 0
