"""Every shipped card of a certificate, and of the smoothed classifier: it loads, builds, and can be had."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import robustbench_local as rbl
from robustbench_local.certification import CERTIFICATES, expand_certificate_card, make_certificate
from robustbench_local.certification.randomized_smoothing.smoothed_classifier import SmoothedClassifier
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.classifier import Classifier
from robustbench_local.config.cards import Card, find_card, list_cards
from robustbench_local.config.hyperparameters import list_parameter_names
from robustbench_local.errors import CardError, ConfigError

CARDS = list_cards("certificate")


@pytest.fixture
def network() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 4))
    return Classifier(layers, num_classes=4)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_builds_a_certificate_that_can_be_had(card: Card, network: Classifier):
    certificate = make_certificate(card.method, card.parameters)
    certificate.check_support(card.threat.build_threat_model(), network)
    assert set(card.parameters) <= set(list_parameter_names(CERTIFICATES[card.method]))
    assert card.name.endswith(f"-{card.threat.build_threat_model().name}")
    assert card.name.startswith("certify-")
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", card.source)
    assert card.description.endswith(".")
    forward, backward = certificate.estimate_cost(card.threat.build_threat_model())
    assert forward >= 1
    assert backward >= 0
    assert 0 <= certificate.error_probability < 0.01


def test_sequential_cards_ask_the_same_question_as_their_namesakes():
    for eps in ("0.25", "0.5"):
        whole, early = (find_card(f"certify-smoothing{kind}-l2-{eps}") for kind in ("", "-sequential"))
        assert early.threat == whole.threat
        assert {**whole.parameters, "sequential": True} == early.parameters


def test_a_list_of_radii_is_a_card_each_and_mistakes_are_named():
    card = find_card("certify-smoothing-l2-0.5", kind="certificate")
    assert [one.name for one in expand_certificate_card(card, {"eps": [0.25, "1/2"], "n": 500})] == [
        "certify-smoothing-l2-0.25[n=500]",
        "certify-smoothing-l2-0.5[n=500]",
    ]
    with pytest.raises(ConfigError, match=r"has no key 'sigmas'\. Did you mean sigma"):
        expand_certificate_card(card, {"sigmas": 1.0})
    with pytest.raises(CardError, match="is of kind certificate, not attack"):
        find_card("certify-smoothing-l2-0.5", kind="attack")


def test_the_smoothed_classifier_is_a_defense_with_a_card(network: Classifier):
    smoothed = rbl.defend(network, "smoothing-0.25")
    assert isinstance(smoothed, SmoothedClassifier)
    assert (smoothed.sigma, smoothed.verdict_draws, smoothed.draws) == (0.25, 100, 20)
    assert smoothed.access == "gradients"
    few = rbl.defend(network, "smoothing-0.25", votes=7, sigma=0.5)
    assert (few.sigma, few.verdict_draws) == (0.5, 7)
    with pytest.raises(ConfigError, match="at least 1 vote"):
        rbl.defend(network, "smoothing-0.25", votes=0)


def test_the_smoothed_classifier_is_attacked_through_the_noise(network: Classifier):
    """An attacker who follows the gradient through the noise lowers the votes of the label."""
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = network(images).argmax(dim=1)
    smoothed = rbl.defend(network, "smoothing-0.25", sigma=0.05, votes=50, draws=4)
    pgd = {"attack": rbl.PGD(steps=6), "norm": "L2", "seed": 1}
    found = rbl.evaluate(smoothed, (images, labels), eps=0.8, **pgd)
    again = rbl.evaluate(smoothed, (images, labels), eps=0.8, options=rbl.Options(batch_size=5), **pgd)
    assert found.counts.broken > 3
    assert found.outcomes["broken"].tolist() == again.outcomes["broken"].tolist()
    vote = Smoothing(sigma=0.05, n=300)
    proven = rbl.certify(smoothed, (images, labels), certificate=vote, norm="L2", eps=0.09)
    assert proven.concerns == "model"
    assert proven.counts.certified > 3
    broken = rbl.evaluate(smoothed, (images, labels), eps=0.09, **pgd).outcomes["broken"]
    assert not (broken & proven.outcomes["certified"]).any()
