"""Transfer: crafted on the surrogate, judged on the target, counted apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_attack_job import outcomes, task

import robustbench_local as rbl
from robustbench_local.attacks.core.eight_bit_search import estimate_finishing_cost
from robustbench_local.attacks.pgd import PGD
from robustbench_local.attacks.transfer.mi_fgsm import MIFGSM
from robustbench_local.classifier import Classifier
from robustbench_local.data.class_labels import describe_class_difference, fit_labels
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps=0.02)


@pytest.fixture
def cousin(linear):
    """Another linear model, much like the first one."""
    weight = linear.model.weight.detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    return Classifier(type(linear.model)(), num_classes=4, name="cousin"), weight + 0.7 * noise


@pytest.fixture
def surrogate(cousin):
    classifier, weight = cousin
    with torch.no_grad():
        classifier.model.weight.copy_(weight)
    return classifier


class Watched(Classifier):
    """A classifier that notes how many images it was asked about, and whether for gradients."""

    def __init__(self, model, **options):
        super().__init__(model, **options)
        self.asked, self.gradients = [], 0

    def __call__(self, images, rows=None):
        self.asked.append(len(images))
        return super().__call__(images, rows)

    def compute_gradient(self, images, loss, rows=None):
        self.gradients += 1
        return super().compute_gradient(images, loss, rows)


def transferred(linear, surrogate, data, attack=None, **options):
    job = replace(task(linear, data, attack or MIFGSM()), surrogate=surrogate)
    return outcomes(job, **options)


def test_candidates_are_those_of_the_surrogate_for_what_the_target_reads(linear, surrogate, data):
    rows = transferred(linear, surrogate, data)
    result = rbl.evaluate(linear, data, attack=MIFGSM(), norm="Linf", eps=0.02, surrogate=surrogate)
    assert result.outcomes["adversarial_hash"].tolist() == [row.adversarial_hash for row in rows]
    with torch.no_grad():
        read = (linear(data.images).argmax(dim=1) == data.labels).nonzero().flatten()
        known = (surrogate(data.images).argmax(dim=1) == data.labels)[read]
    assert not known.all()  # some images that the surrogate misreads are attacked all the same
    stream = RandomStream(0, tuple(data.ids[row] for row in read.tolist()), repr(MIFGSM()))
    expected = MIFGSM().perturb(surrogate, data.images[read], data.labels[read], THREAT, stream)
    with torch.no_grad():
        fooled = linear(expected).argmax(dim=1) != data.labels[read]
    other = (result.adversarial_examples[read] != expected).flatten(1).any(dim=1)
    assert other.sum() == 1  # a success that 8 bits undid: the surrogate was asked again
    assert fooled[other].all()
    finished = result.outcomes.iloc[read.tolist()][other.numpy()]
    assert finished["broken_8bit"].tolist() == [True]
    assert torch.equal(result.adversarial_examples[read][~other], expected[~other])
    assert 5 < int(fooled.sum()) < 50
    assert [rows[row].broken for row in read.tolist()] == fooled.tolist()


def test_passes_are_the_surrogates_and_the_target_only_answers_the_harness(linear, surrogate, data):
    target = Watched(linear.model, num_classes=4, name="target")
    rows = transferred(target, surrogate, data, batch_size=60)
    attacked = [row for row in rows if row.clean_correct]
    # clean images, candidates in two batches, broken ones again as 8-bit images; one success is searched on,
    # on the surrogate, and read again; and a few once more, of the classifier itself and of a fresh copy
    clean, *candidates = target.asked[:3]
    assert (clean, sum(candidates)) == (60, len(attacked))
    assert target.asked[3:] == [sum(row.broken for row in rows), 1, 1, 4, 4]
    assert target.gradients == 0
    extra = estimate_finishing_cost("gradients")
    passes = Counter((row.forward_passes, row.backward_passes) for row in attacked if row.broken)
    assert passes[13, 10] == passes.total() - 1
    assert all(f <= 13 + extra[0] + 2 and b <= 10 + extra[1] for f, b in passes)
    assert {(row.forward_passes, row.backward_passes) for row in attacked if not row.broken} == {(12, 10)}


def test_both_models_are_left_as_they_were(linear, surrogate, data):
    for classifier in (linear, surrogate):
        classifier.model.train()
    transferred(linear, surrogate, data)
    for classifier in (linear, surrogate):
        assert classifier.model.training
        assert classifier.model.weight.requires_grad


def test_neither_batch_size_nor_an_interruption_changes_a_candidate(linear, surrogate, data):
    whole = {row.image: row.adversarial_hash for row in transferred(linear, surrogate, data)}
    for options in ({"batch_size": 7}, {"done_positions": frozenset(range(20))}):
        rows = transferred(linear, surrogate, data, **options)
        assert {row.image: row.adversarial_hash for row in rows}.items() <= whole.items()


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_a_target_without_gradients_can_be_attacked_from_a_surrogate_with_them(
    linear, surrogate, data, access
):
    answers = (
        (lambda x: linear.model(x).detach()) if access == "scores" else (lambda x: linear.model(x).argmax(1))
    )
    closed = Classifier(answers, num_classes=4, access=access, name="closed")
    opened, shut = (
        rbl.evaluate(each, data, attack="mi-fgsm-linf-16", eps="6/255", surrogate=surrogate)
        for each in (linear, closed)
    )
    assert opened.outcomes["broken"].tolist() == shut.outcomes["broken"].tolist()
    assert opened.counts.broken > 5


def test_sizes_may_differ_since_each_model_resizes_inside(linear, surrogate, data):
    small = Classifier(surrogate.model, num_classes=4, input_size=(4, 4), name="small")
    large = replace(data, images=data.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    target = Classifier(linear.model, num_classes=4, input_size=(4, 4), name="target")
    result = rbl.evaluate(target, large, attack=PGD(steps=5), norm="Linf", eps=0.02, surrogate=small)
    assert result.adversarial_examples.shape == large.images.shape
    assert result.counts.rejected == 0
    assert result.counts.broken > 5


def test_the_result_says_where_it_comes_from(linear, surrogate, data):
    result = rbl.evaluate(linear, data, attack="fgsm-linf-8", surrogate=surrogate)
    assert result.surrogate == "cousin"
    assert "from cousin" in repr(result)
    assert any("crafted on cousin without access to this model" in note for note in result.notes)
    assert rbl.evaluate(linear, data, attack="fgsm-linf-8").surrogate is None


def test_what_cannot_be_transferred_is_refused_in_one_line(linear, surrogate, data):
    def attempt(other):
        with pytest.raises(ConfigError) as caught:
            rbl.evaluate(linear, data, attack="pgd20-linf-8", surrogate=other)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "the surrogate is the classifier itself" in attempt(linear)
    scores = Classifier(surrogate.model, num_classes=4, access="scores", name="closed")
    assert "PGD needs gradients, the model 'closed' gives scores only" in attempt(scores)
    wrong = Classifier(
        surrogate.model, num_classes=4, class_names=("20", "stop", "30", "50"), name="shuffled"
    )
    assert "nothing transfers from 'shuffled': its class 0 is '20', the other model's 'stop'" in attempt(
        wrong
    )


def test_models_share_classes_if_an_index_means_the_same_to_both(data):
    def fitted(count, names=None, labels=None):
        known = data if labels is None else replace(data, labels=labels, class_names=("0", "1", "2", "3"))
        return fit_labels(known, count, names)

    assert describe_class_difference(fitted(4), fitted(4)) is None
    assert describe_class_difference(fitted(4, ("STOP", "20", "30", "50")), fitted(4)) is None
    more = ("stop", "20", "30", "50", "60")
    assert describe_class_difference(fitted(5, more), fitted(4)) == "it has 5 classes, the other model 4"
    nameless = torch.arange(60) % 4
    first, second = (fitted(4, names, nameless) for names in (("a", "b", "c", "d"), ("a", "c", "b", "d")))
    assert describe_class_difference(first, second) == "its class 1 is 'b', the other model's 'c'"
    assert describe_class_difference(first, fitted(4, None, nameless)) is None
    moved = replace(first, label_map={"0": 1}, class_names=("0", "1", "2", "3"))
    assert describe_class_difference(moved, first) == "it numbers the data's classes differently"
