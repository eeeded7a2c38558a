"""``evaluate``: the shortest way from a classifier to a number."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import robustbench_local as rbl
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, DataError, ThreatError


def closed_form(linear, data, eps):
    """Images a linear model keeps whatever an Linf attacker does, the box aside."""
    weight, images = linear.model.weight.detach(), (data.images - 0.5).flatten(1)
    gaps = weight[data.labels][:, None] - weight[None]
    margins = (images[:, None] * gaps).sum(2) - eps * gaps.abs().sum(2)
    margins[torch.arange(len(data)), data.labels] = torch.inf
    return int((margins.amin(1) > 0).sum())


@pytest.mark.parametrize("eps", ["2/255", "6/255"])
def test_pgd_reaches_the_closed_form_of_a_linear_model(linear, data, eps):
    result = rbl.evaluate(linear, data, attack="pgd50-margin-linf-8", eps=eps)
    expected = closed_form(linear, data, result.threat.eps)
    assert result.counts.robust == expected
    assert 0 < expected < len(data)
    assert result.robust_accuracy.n == len(data) == len(result.outcomes)
    assert result.robust_accuracy.low < result.robust_accuracy.value < result.robust_accuracy.high


def test_card_method_and_instance_mean_the_same(linear, data):
    by_card = rbl.evaluate(linear, data, attack="fgsm-linf-8", eps="4/255")
    by_method = rbl.evaluate(linear, data, attack="fgsm", norm="linf", eps=4 / 255)
    by_instance = rbl.evaluate(linear, data, attack=rbl.FGSM(), norm="Linf", eps="4/255")
    tensors = rbl.evaluate(linear, (data.images, data.labels), attack="fgsm-linf-8", eps="4/255")
    hashes = [
        result.outcomes["adversarial_hash"].tolist() for result in (by_card, by_method, by_instance, tensors)
    ]
    assert hashes[0] == hashes[1] == hashes[2] == hashes[3]


@pytest.mark.slow
def test_autoattack_is_at_least_as_strong_as_pgd(linear, data):
    small = data.select_images(range(5))
    pgd = rbl.evaluate(linear, small, attack="pgd50-linf-8", eps="4/255")
    auto = rbl.evaluate(linear, small, attack="autoattack", norm="Linf", eps=4 / 255, seed=0)
    assert auto.counts.robust <= pgd.counts.robust
    assert auto.counts.forward_passes > 5
    assert auto.counts.backward_passes > 5


def test_targets_and_sources_by_name(linear, data):
    result = rbl.evaluate(
        linear, data, attack="pgd50-margin-linf-8", eps="16/255", sources=["stop"], targets=["20", "30"]
    )
    assert set(result.outcomes["label"]) == {0}
    hits = result.outcomes[result.outcomes["broken"]]
    assert set(hits["adversarial_prediction"]) <= {1, 2}
    assert len(hits) > 0
    by_index = rbl.evaluate(
        linear, data, attack="pgd50-margin-linf-8", eps="16/255", sources=[0], targets=[1, 2]
    )
    assert by_index.counts.broken == result.counts.broken


@pytest.mark.parametrize(("one", "several"), [("stop", ["stop"]), ("30", [2]), (2, [2]), (None, ())])
def test_one_class_is_as_good_as_a_list_of_it(linear, data, one, several):
    options = {"attack": "fgsm-linf-8", "norm": "Linf", "eps": 0.1}
    for goal in ("targets", "sources"):
        alone = rbl.evaluate(linear, data, **options, **{goal: one})
        listed = rbl.evaluate(linear, data, **options, **{goal: several})
        assert (alone.threat, alone.counts.n) == (listed.threat, listed.counts.n)
        assert alone.outcomes.broken.tolist() == listed.outcomes.broken.tolist()


def test_a_masked_attack_leaves_the_rest_alone(linear, data):
    masks = torch.zeros(len(data), 1, 4, 4, dtype=torch.bool)
    masks[:, :, :2] = True
    threat_data = replace(data, masks=masks)
    attack = rbl.PGD(steps=5)
    from robustbench_local.evaluation.harness.attack_job import AttackJob
    from robustbench_local.evaluation.harness.batches import run_batches

    threat = rbl.ThreatModel(norm="Linf", eps=0.1, region="mask")
    task = AttackJob(key="k", classifier=linear, data=threat_data, attack=attack, threat=threat, seed=0)
    (batch,) = run_batches(task, batch_size=64)
    assert torch.equal(batch.candidates[:, :, 2:], data.images[:, :, 2:])
    assert not torch.equal(batch.candidates[:, :, :2], data.images[:, :, :2])


def test_nothing_of_the_caller_is_changed(linear, data):
    before = (data.images.clone(), linear.model.weight.clone(), torch.get_rng_state(), linear.model.training)
    linear.model.train()
    rbl.evaluate(linear, data, attack="pgd50-linf-8", eps="2/255")
    assert torch.equal(before[0], data.images)
    assert torch.equal(before[1], linear.model.weight)
    assert linear.model.weight.requires_grad
    assert linear.model.weight.grad is None
    assert torch.equal(before[2], torch.get_rng_state())
    assert linear.model.training


def test_notes_reach_the_caller(data):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4), torch.nn.Softmax(dim=1))
    classifier = rbl.Classifier(model, num_classes=4)
    result = rbl.evaluate(classifier, data, attack="fgsm-linf-8")
    assert any("probabilities" in note for note in result.notes)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"attack": "pgd"}, ConfigError),
        ({"attack": rbl.FGSM()}, ConfigError),
        ({"attack": "pgd50-linf-9"}, rbl.RobustbenchError),
        ({"attack": "fgsm-linf-8", "eps": -1}, ConfigError),
        ({"attack": "fgsm-linf-8", "norm": "L7"}, rbl.RobustbenchError),
        ({"attack": "fgsm-linf-8", "eps": ["1/255", "2/255"]}, ConfigError),
        ({"attack": "reference-autoattack-linf-8", "targets": [1]}, ThreatError),
        ({"attack": "fgsm-linf-8", "targets": [9]}, rbl.RobustbenchError),
        ({"attack": "fgsm-linf-8", "sources": [1], "targets": [1]}, DataError),
        ({"attack": "fgsm-linf-8", "seed": -1}, ConfigError),
        ({"attack": "fgsm-linf-8", "seed": None}, ConfigError),
        ({"attack": "sticker-10", "test_views": 0}, ConfigError),
    ],
)
def test_what_does_not_fit_is_refused(linear, data, arguments, error):
    with pytest.raises(error) as caught:
        rbl.evaluate(linear, data, **arguments)
    assert "\n" not in str(caught.value)


def test_a_black_box_is_refused_by_a_white_box_attack(data):
    classifier = rbl.Classifier(lambda images: images.flatten(1)[:, :4], num_classes=4)
    with pytest.raises(ConfigError, match="gradients"):
        rbl.evaluate(classifier, data, attack="fgsm-linf-8")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")
def test_with_a_time_limit_a_model_that_ends_its_process_ends_no_other(linear, data):
    parent, cursed = os.getpid(), data.images[5]

    class Leaving(nn.Module):
        def forward(self, images):
            if any(torch.allclose(image, cursed, atol=0.05) for image in images):
                assert os.getpid() != parent
                os._exit(0)
            return linear.module(images)

    classifier = Classifier(Leaving(), num_classes=4, access="scores")
    options = {"attack": "square", "norm": "Linf", "eps": 0.01, "options": rbl.Options(timeout=60)}
    found = rbl.evaluate(classifier, data.select_images(range(8)), **options)
    assert found.outcomes.loc[found.outcomes["status"] == "error", "position"].tolist() == [5]
    assert found.counts.errors == 1
