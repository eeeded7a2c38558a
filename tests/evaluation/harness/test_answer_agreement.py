"""A model that begins to remember under attack is found out, on both sides of each limit."""

from __future__ import annotations

import inconsistent_models as models
import pytest
import torch

from robustbench_local.classifier import Classifier, Consistency
from robustbench_local.classifier.state_guard import RandomStates
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.harness.answer_agreement import (
    AgreementCounts,
    _compute_logit_ranges,
    _compute_margins,
    _find_differing,
    compare_batch_sizes,
    compare_clean_answers,
    compare_with_fresh_copy,
)
from robustbench_local.evaluation.harness.verify import predict

IMAGES, LABELS = models.make_images(), torch.arange(12) % 5


@pytest.mark.parametrize(
    ("count", "disagreeing", "agrees"),
    [(0, 0, True), (1, 0, True), (1, 1, False), (4, 1, True), (4, 2, False), (8, 2, True), (8, 3, False)],
)
def test_how_many_may_disagree(count, disagreeing, agrees):
    readings = AgreementCounts(count, disagreeing)
    if agrees:
        readings.check_agreement("it")
        return
    with pytest.raises(ModelError, match=f"answers {disagreeing} of {count} images? otherwise") as caught:
        readings.check_agreement("it")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("count", "disagreeing", "agrees"), [(0, 0, True), (1, 1, False), (4, 1, True), (4, 2, False)]
)
def test_how_many_may_disagree_in_a_batch_of_another_size(count, disagreeing, agrees):
    readings = AgreementCounts(size_compared=count, size_disagreements=disagreeing)
    if agrees:
        readings.check_agreement("it")
        return
    with pytest.raises(ModelError, match=f"size of the batch: {disagreeing} of {count} images"):
        readings.check_agreement("it")


def test_sums():
    first, second = AgreementCounts(4, 1, 4, 0, 9, 5), AgreementCounts(3, 2, 1, 1, 2, 3)
    assert first + second == AgreementCounts(7, 3, 5, 1, 11, 8)


@pytest.mark.parametrize(
    ("count", "disagreeing", "agrees"),
    [(0, 0, True), (1, 0, True), (1, 1, False), (4, 1, True), (4, 2, False), (40, 1, True), (40, 2, False)],
)
def test_how_many_clean_images_may_be_answered_otherwise_after_the_attack(count, disagreeing, agrees):
    readings = AgreementCounts(repeated=count, repeated_disagreements=disagreeing)
    if agrees:
        readings.check_agreement("it")
        return
    with pytest.raises(ModelError, match=f"{disagreeing} of {count} clean images") as caught:
        readings.check_agreement("it")
    assert caught.value.where == "it"


CALLS: list[tuple[int, bool]] = []


def remember_calls(self, images):
    """Answer otherwise from the second call on, which is counted outside of the model."""
    CALLS.append((len(images), torch.is_grad_enabled()))
    answers = self.layers(images)
    return answers.roll(1, 1) if len(CALLS) > self.calls else answers


@pytest.mark.parametrize(
    ("consistency", "count"),
    [
        (Consistency(is_random=False), 4),
        (Consistency(is_random=True), 0),
        (Consistency(is_random=False, is_unrepeatable=True), 0),
        (Consistency(is_random=False, inconsistency_note="allowed"), 0),
    ],
)
@pytest.mark.parametrize("is_changed", [True, False])
def test_clean_answers_are_compared_after_the_attack(consistency, count, is_changed):
    CALLS.clear()
    network = models.make_variant(forward=remember_calls)
    network.calls = 1 if is_changed else 10
    classifier = Classifier(network, num_classes=5).configure(consistency=consistency)
    with classifier.evaluation_mode():
        margins = predict(classifier, IMAGES, LABELS).margin
        found = compare_clean_answers(classifier, IMAGES, LABELS, margins)
        assert compare_clean_answers(classifier, IMAGES[:0], LABELS[:0], margins[:0]) == AgreementCounts()
    disagreeing = count if is_changed else 0
    assert found == AgreementCounts(repeated=count, repeated_disagreements=disagreeing)
    assert CALLS[1:2] == [(4, False)] * (count > 0)


def test_neither_a_service_nor_a_randomized_classifier_is_asked_for_clean_answers_again():
    same = Consistency(is_random=False)
    service = Classifier(models.make_variant().forward, num_classes=5, access="scores")
    noisy = Noisy(Classifier(models.make_variant(), num_classes=5), draws=2, verdict_draws=2)
    for classifier in (service.configure(consistency=same), noisy.configure(consistency=same)):
        with classifier.evaluation_mode():
            found = compare_clean_answers(classifier, IMAGES, LABELS, torch.zeros(12))
        assert found == AgreementCounts()


@pytest.mark.parametrize(("gap", "disagreeing"), [(0.9e-2, 0), (1.1e-2, 4)])
def test_clean_answers_may_differ_by_the_models_rounding(gap, disagreeing):
    classifier = Classifier(models.Network(), num_classes=5)
    classifier.configure(consistency=Consistency(is_random=False, tolerance=1e-2))
    with classifier.evaluation_mode():
        margins, answers = predict(classifier, IMAGES, LABELS).margin, classifier(IMAGES)
        margins += gap * (answers.amax(1) - answers.amin(1))
        found = compare_clean_answers(classifier, IMAGES, LABELS, margins)
    assert found == AgreementCounts(repeated=4, repeated_disagreements=disagreeing)


def test_a_margin_is_a_number_where_every_logit_is():
    answers = torch.tensor([[1.0, 3.0], [torch.inf, 1.0], [torch.nan, torch.nan]])
    margins = _compute_margins(answers, torch.tensor([1, 1, 1]))
    assert margins[0] == 2
    assert margins.isnan().tolist() == [False, True, True]
    ranges = _compute_logit_ranges(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).tolist()
    assert ranges[0] == 2
    assert 0 < ranges[1] < 1e-9  # equal logits have no range, and a share of it is no tolerance


def test_a_difference_has_to_exceed_rounding():
    numbers = torch.tensor([1.0, 1.0, torch.nan, torch.nan, 1.0])
    expected = torch.tensor([0.5, 0.5, torch.nan, 0.5, torch.nan])
    tolerance = torch.tensor([0.5, 0.4, 1.0, 1.0, 1.0])
    assert _find_differing(numbers, expected, tolerance).tolist() == [False, True, False, True, True]


@pytest.mark.parametrize(
    ("odd", "disagreeing"),
    [(None, 0), (6, 0), (8, 4), (12, 4), (4, 4)],  # 12 is how many were read; 8 the work's; 4 are asked again
)
def test_batches_of_the_sizes_at_work_are_compared(odd, disagreeing):
    def forward(self, images):
        answers = self.layers(images)
        return answers.roll(1, 1) if len(images) == odd else answers

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5)
    classifier.configure(consistency=Consistency(is_random=False))
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        margins = predict(fresh, IMAGES, LABELS).margin
        found = compare_batch_sizes(fresh, IMAGES, LABELS, margins, {8})
    assert found == AgreementCounts(size_compared=4, size_disagreements=disagreeing)


@pytest.mark.parametrize(
    "consistency",
    [
        Consistency(is_random=False, is_unrepeatable=True),
        Consistency(is_random=True),
        Consistency(is_random=False, inconsistency_note="m"),
    ],
)
def test_sizes_are_not_compared_where_answers_are_random_or_marked(consistency):
    classifier = Classifier(models.make_variant(), num_classes=5)
    classifier.configure(consistency=consistency)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert compare_batch_sizes(fresh, IMAGES, LABELS, torch.zeros(12), {8}) == AgreementCounts()


@pytest.mark.parametrize(("consistency", "count"), [
    (Consistency(), 4),
    (Consistency(is_unrepeatable=True), 0),
    (Consistency(inconsistency_note="allowed"), 0),
])  # fmt: skip
def test_a_counter_is_seen_where_answers_can_be_compared(consistency, count):
    def forward(self, images):
        self.calls += 1
        return self.layers(images) + 0.1 * self.calls * self.layers(images)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5)
    classifier.configure(consistency=consistency)
    with classifier.evaluation_mode():
        classifier(IMAGES)
        with classifier.open_fresh_copy() as fresh:
            assert compare_with_fresh_copy(classifier, fresh, IMAGES, LABELS) == AgreementCounts(count, count)
            assert compare_with_fresh_copy(classifier, classifier, IMAGES, LABELS) == AgreementCounts()


@pytest.mark.parametrize(("shift", "disagreeing"), [(0.5e-4, 0), (2e-4, 4)])
def test_rounding_is_tolerated(shift, disagreeing):
    def forward(self, images):
        self.calls += 1
        answers = self.layers(images)
        spread = answers.amax(1, keepdim=True) - answers.amin(1, keepdim=True)
        first = torch.eye(5)[0]
        return answers + (shift * spread * first if self.calls > 1 else 0)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5)
    with classifier.evaluation_mode():
        classifier(IMAGES)
        with classifier.open_fresh_copy() as fresh:
            readings = compare_with_fresh_copy(classifier, fresh, IMAGES, 0 * LABELS)
    assert readings == AgreementCounts(4, disagreeing)


def test_a_random_model_is_compared_with_equal_draws():
    classifier = Classifier(models.make_consistent_models()["draws"], num_classes=5)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert compare_with_fresh_copy(classifier, fresh, IMAGES, LABELS) == AgreementCounts(4, 0)


@pytest.mark.parametrize(("gap", "disagreeing"), [(0.9e-2, 0), (1.1e-2, 4)])
def test_what_a_fresh_copy_said_in_other_company_is_compared_within_the_models_rounding(gap, disagreeing):
    classifier = Classifier(models.Network(), num_classes=5)
    classifier.configure(consistency=Consistency(is_random=False, tolerance=1e-2))
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        margins = predict(fresh, IMAGES, LABELS).margin
        answers = fresh(IMAGES)
        margins += gap * (answers.amax(1) - answers.amin(1))
        readings = compare_with_fresh_copy(classifier, fresh, IMAGES, LABELS, margins)
    assert readings == AgreementCounts(4, disagreeing)


@pytest.mark.parametrize(
    ("count", "disagreeing", "agrees"),
    [(2, 1, True), (2, 2, False), (3, 1, True), (3, 2, False), (100, 25, True), (100, 26, False)],
)
def test_one_may_be_chance_and_a_quarter_rounding(count, disagreeing, agrees):
    for readings in (AgreementCounts(count, disagreeing), AgreementCounts(0, 0, count, disagreeing)):
        if agrees:
            readings.check_agreement("it")
        else:
            with pytest.raises(ModelError, match="it: "):
                readings.check_agreement("it")


def turn_to_nan(self, images):
    self.calls += 1
    answers = self.layers(images)
    return answers * torch.nan if self.calls > self.finite_calls else answers


def make_fading(finite_calls):
    network = models.make_variant(forward=turn_to_nan)
    network.finite_calls = finite_calls
    return Classifier(network, num_classes=5)


@pytest.mark.parametrize(("finite_calls", "disagreeing"), [(1, 4), (0, 0)])
def test_nan_agrees_with_nan_alone(finite_calls, disagreeing):
    fading = make_fading(finite_calls)
    fading.configure(consistency=Consistency(is_random=False))
    with fading.evaluation_mode():
        fading(IMAGES)
        with fading.open_fresh_copy() as fresh:
            margins = predict(fresh, IMAGES, LABELS).margin
            again = compare_with_fresh_copy(fading, fresh, IMAGES, LABELS)
            assert compare_with_fresh_copy(fading, fresh, IMAGES, LABELS, margins) == AgreementCounts(
                4, disagreeing
            )
    assert again == AgreementCounts(4, 0)  # both were asked before


@pytest.mark.parametrize("count", [1, 3])
def test_few_images_are_all_compared(count):
    classifier = Classifier(models.make_variant(), num_classes=5)
    classifier.configure(consistency=Consistency(is_random=False))
    images, labels = IMAGES[:count], LABELS[:count]
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        margins = predict(fresh, images, labels).margin
        assert compare_with_fresh_copy(classifier, fresh, images, labels) == AgreementCounts(count)
        assert compare_with_fresh_copy(classifier, fresh, images, labels, margins) == AgreementCounts(count)
        for sizes in (set(), {30}):  # more than there are: the images come again
            expected = AgreementCounts(size_compared=count)
            assert compare_batch_sizes(fresh, images, labels, margins, sizes) == expected
        none = IMAGES[:0], LABELS[:0]
        assert compare_with_fresh_copy(classifier, fresh, *none) == AgreementCounts()
        assert compare_batch_sizes(fresh, *none, margins[:0], {8}) == AgreementCounts()


def test_a_larger_batch_is_filled_with_the_same_images():
    sizes = []

    def forward(self, images):
        sizes.append(len(images))
        return self.layers(images) * (2 if len(images) == 30 else 1)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5)
    classifier.configure(consistency=Consistency(is_random=False))
    with classifier.evaluation_mode():
        margins = predict(classifier, IMAGES, LABELS).margin
        sizes.clear()
        found = compare_batch_sizes(classifier, IMAGES, LABELS, margins, {30, 12})
    assert sizes == [4, 30]  # twelve were asked before
    assert found == AgreementCounts(size_compared=4, size_disagreements=4)


def test_a_comparison_costs_no_counted_pass_and_no_random_number():
    def forward(self, images):
        return self.layers(images) + 0 * torch.rand(len(images), 5)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5)
    with classifier.evaluation_mode(), classifier.count_passes(12) as counter:
        margins = predict(classifier, IMAGES, LABELS).margin
        classifier.configure(consistency=Consistency(is_random=False))
        before = RandomStates.from_process()
        compare_batch_sizes(classifier, IMAGES, LABELS, margins, {8})
        with classifier.open_fresh_copy() as fresh:
            compare_with_fresh_copy(classifier, fresh, IMAGES, LABELS, margins)
        assert before.is_same_as(RandomStates.from_process())
        assert counter.forward_passes.tolist() == [1] * 12


class Noisy(RandomizedClassifier):
    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images + 0.2 * numbers.sample_normal(images.shape[1:]))


def test_a_classifier_that_draws_is_compared_without_its_draws():
    noisy = Noisy(Classifier(models.make_variant(), num_classes=5))
    noisy.configure(consistency=Consistency(is_random=False))
    with noisy.evaluation_mode(), noisy.open_fresh_copy() as fresh:
        wrong = torch.full((12,), 100.0)  # margins of other draws say nothing
        assert compare_with_fresh_copy(noisy, fresh, IMAGES, LABELS, wrong) == AgreementCounts(4)
        assert compare_batch_sizes(fresh, IMAGES, LABELS, wrong, {8}) == AgreementCounts()


def test_a_model_that_draws_is_asked_again_whatever_its_margins_were():
    classifier = Classifier(models.make_consistent_models()["draws"], num_classes=5)
    classifier.configure(consistency=Consistency(is_random=True))
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        wrong = torch.full((12,), 100.0)
        assert compare_with_fresh_copy(classifier, fresh, IMAGES, LABELS, wrong) == AgreementCounts(4)


def test_a_service_is_not_asked_in_batches_of_other_sizes():
    service = Classifier(models.make_variant().forward, num_classes=5, access="scores")
    service.configure(consistency=Consistency(is_random=False))
    assert compare_batch_sizes(service, IMAGES, LABELS, torch.zeros(12), {8}) == AgreementCounts()


def test_a_tied_answer_has_a_range_of_its_own():
    """Equal logits have no range: what differs then differs by more than rounding."""

    def forward(self, images):
        self.calls += 1
        return torch.zeros(len(images), 5) + (1e-9 * torch.eye(5)[0] if self.calls > 1 else 0)

    classifier = Classifier(models.make_variant(forward=forward), num_classes=5)
    classifier.configure(consistency=Consistency(is_random=False))
    with classifier.evaluation_mode():
        classifier(IMAGES)
        with classifier.open_fresh_copy() as fresh:
            margins = predict(fresh, IMAGES, 0 * LABELS).margin
            found = compare_with_fresh_copy(classifier, fresh, IMAGES, 0 * LABELS, margins)
    assert found == AgreementCounts(4, 4)
