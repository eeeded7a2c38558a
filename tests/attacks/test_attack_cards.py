"""Every shipped attack card: it loads, builds its attack, can run, and says where it comes from."""

from __future__ import annotations

import re

import pytest
import torch
from attack_samples import build_classifier

from robustbench_local.attacks import list_parameter_names, make_attack
from robustbench_local.config.cards import Card, find_card, list_cards

CARDS = list_cards("attack")
SPEED_LIMITS = [f"Speed limit ({speed}km/h)" for speed in (20, 30, 50, 60, 70, 80, 100, 120)]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_builds_an_attack_that_can_run(card: Card):
    attack = make_attack(card.method, card.parameters)
    threat = card.threat.build_threat_model(targets=range(1, 1 + len(card.threat.targets)))
    classifier = build_classifier(lambda images: torch.zeros(len(images), 43), 43)
    attack.check_support(threat, classifier)
    assert attack.list_warnings(threat) == []
    assert bool(attack.describe_caveats(classifier, threat)) == (
        card.method == "apgd-ce+t"
    )  # is not AutoAttack
    assert set(card.parameters) <= set(list_parameter_names(card.method))
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", card.source)
    assert card.description.endswith(".")
    assert card.path.stem == card.name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_is_named_after_its_threat_model(card: Card):
    if card.method == "curve":  # about many radii at once
        assert card.name == f"curve-{card.threat.norm.lower()}"
    else:
        # one card has kept its first name too, which grids of users may hold
        name = "stop-to-speed-limit-linf-8" if card.name == "stop-to-speed-limit" else card.name
        assert f"-{name}".endswith(f"-{card.threat.build_threat_model().name}")


def test_the_first_name_of_the_stop_sign_card_means_the_same():
    first, full = find_card("stop-to-speed-limit"), find_card("stop-to-speed-limit-linf-8")
    assert (first.method, first.parameters, first.threat) == (full.method, full.parameters, full.threat)


def test_the_fields_radii_are_there_for_fgsm_pgd_and_autoattack():
    names = {card.name for card in CARDS}
    for radius in ("linf-8", "linf-4", "linf-76.5", "l2-0.5"):
        assert {f"fgsm-{radius}", f"pgd50-{radius}", f"autoattack-{radius}"} <= names
    assert find_card("pgd50-linf-76.5").threat.eps == 0.3
    assert find_card("pgd50-l2-0.5").parameters == {"steps": 50, "restarts": 5}
    assert find_card("pgd50-margin-linf-8").parameters["loss"] == "margin"


@pytest.mark.parametrize("name", ["curve-linf", "curve-l2"])
def test_a_curve_asks_about_eight_radii_the_last_of_which_is_its_threat_models(name: str):
    card = find_card(name)
    attack = make_attack(card.method, card.parameters)
    ladder = attack.list_radii(card.threat.build_threat_model())
    assert len(ladder) == 8
    assert ladder == (*attack.radii, card.threat.eps)
    assert attack.measure == "distance"


@pytest.mark.parametrize(("norm", "radii"), [("linf", (2, 4, 8, 16)), ("l2", (0.25, 0.5, 1, 2))])
def test_stop_to_speed_limit_names_the_classes_as_gtsrb_does_at_every_radius(norm: str, radii):
    for radius in radii:
        card = find_card(f"stop-to-speed-limit-{norm}-{radius:g}")
        assert list(card.threat.targets) == SPEED_LIMITS
        assert card.threat.sources == ("Stop",)
        attack = make_attack(card.method, card.parameters)
        assert attack.get_step_size(card.threat.build_threat_model()) == pytest.approx(card.threat.eps / 4)
        assert (attack.steps, attack.restarts, attack.loss) == (50, 5, "margin")
