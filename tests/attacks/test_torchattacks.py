"""Any attack of torchattacks, by name, where that extra is installed."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from attack_samples import Sample, build_classifier

from robustbench_local.attacks import expand_attack_card, list_parameter_names, make_attack
from robustbench_local.attacks.adapters.libraries import TorchattacksAttack
from robustbench_local.classifier import Classifier
from robustbench_local.config.cards import find_card
from robustbench_local.errors import ConfigError, DataError, ModelError, ThreatError
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.usefixtures("torchattacks")

LINF = ThreatModel(norm="Linf", eps="12/255")
L2 = ThreatModel(norm="L2", eps=0.5)
QUICK = [
    ("FGSM", {}, LINF),
    ("PGD", {"steps": 4}, LINF),
    ("MIFGSM", {"steps": 3, "decay": 1}, LINF),
    ("PIFGSM", {"num_iter_set": 2}, LINF),
    ("APGD", {"steps": 5}, L2),
    ("APGDT", {"steps": 3}, LINF),
    ("Square", {"n_queries": 20}, L2),
    ("PGDL2", {"steps": 4}, L2),
    ("CW", {"steps": 5}, L2),
    ("DeepFool", {"steps": 3}, L2),
    ("GN", {"std": 0.2}, LINF),
]


@pytest.fixture(scope="module")
def some(small: Sample) -> Sample:
    return small.select_images(torch.arange(12))


@pytest.mark.parametrize(("name", "parameters", "threat"), QUICK, ids=[name for name, *_ in QUICK])
def test_candidates_obey_ball_and_box_and_are_the_same_again(
    some: Sample, capfd, name: str, parameters: dict[str, Any], threat: ThreatModel
):
    attack = make_attack(f"torchattacks:{name}", parameters)
    attack.check_support(threat, some.classifier)
    state, before = torch.get_rng_state(), some.images.clone()
    candidates = some.attack(attack, threat)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(some.images, before)
    assert candidates.shape == before.shape
    size = compute_norms(candidates.double() - before.double(), threat.norm)
    assert (size <= (threat.eps + 1e-6 if threat.norm == "Linf" else threat.eps * (1 + 1e-5))).all()
    assert (candidates >= 0).all()
    assert (candidates <= 1).all()
    assert torch.equal(candidates, some.attack(attack, threat))
    assert capfd.readouterr() == ("", "")
    assert not attack.per_image


def test_it_is_torchattacks_result(some: Sample, torchattacks: ModuleType):
    theirs = torchattacks.PGD(
        some.classifier.model.eval(), eps=LINF.eps, alpha=0.01, steps=5, random_start=False
    )
    attack = make_attack("torchattacks:PGD", {"alpha": 0.01, "steps": 5, "random_start": False})
    assert torch.equal(some.attack(attack, LINF), theirs(some.images, some.labels))
    assert some.classifier.external_passes[0] > 0
    assert repr(attack) == (
        "TorchattacksAttack(name='PGD', parameters={'alpha': 0.01, 'random_start': False, 'steps': 5})"
    )


def test_one_target_is_pursued(some: Sample, torchattacks: ModuleType):
    threat = ThreatModel(norm="Linf", eps="40/255", targets=(3,))
    sample = some.select_images((some.labels != 3).nonzero().flatten())
    attack = make_attack("torchattacks:PGD", {"random_start": False})
    attack.check_support(threat, sample.classifier)
    theirs = torchattacks.PGD(sample.classifier.model.eval(), eps=threat.eps, random_start=False)
    theirs.set_mode_targeted_by_label(quiet=True)
    found = sample.attack(attack, threat)
    assert torch.equal(found, theirs(sample.images, torch.full_like(sample.labels, 3)))
    assert sample.find_adversarial(found, threat).any()


@pytest.mark.parametrize(
    ("name", "threat", "message"),
    [
        ("PGD", L2, r"torchattacks:PGD cannot run under L2: its norm is Linf"),
        ("CW", LINF, r"torchattacks:CW cannot run under Linf: its norm is L2"),
        ("OnePixel", LINF, r"it bounds neither the Linf nor the L2 norm"),
        ("PGD", ThreatModel(norm="Linf", eps=0.1, targets=(1, 2)), r"takes one target class, not 2"),
        (
            "PIFGSM",
            ThreatModel(norm="Linf", eps=0.1, targets=(1,)),
            r"torchattacks:PIFGSM has no targeted mode",
        ),
        ("PGD", ThreatModel(norm="Linf", eps=0.1, region="mask"), r"does not support the region 'mask'"),
    ],
)
def test_what_an_attack_cannot_do_is_said(some: Sample, name: str, threat: ThreatModel, message: str):
    with pytest.raises(ThreatError, match=message):
        make_attack(f"torchattacks:{name}").check_support(threat, some.classifier)


def test_three_classes_are_too_few_for_its_targeted_attacks():
    three = build_classifier(lambda images: images.flatten(1)[:, :3], 3)
    with pytest.raises(ThreatError, match="torchattacks:APGDT needs 4 classes, the model has 3"):
        make_attack("torchattacks:APGDT").check_support(LINF, three)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("PDG", {}, r"torchattacks has no attack 'PDG'\. Did you mean PGD\?"),
        ("LGV", {}, r"torchattacks has no attack 'LGV'"),
        ("PGD", {"stepps": 3}, r"torchattacks:PGD has no parameter 'stepps'\. Did you mean steps\?"),
        ("PGD", {"steps": "3"}, r"torchattacks:PGD: steps must be of type int, got '3'"),
        ("PGD", {"steps": True}, r"steps must be of type int, got True"),
        ("PGD", {"random_start": 1}, r"random_start must be of type bool, got 1"),
        ("PGD", {"alpha": "2"}, r"alpha must be of type float, got '2'"),
        ("PGD", {"eps": 0.1}, r"torchattacks:PGD does not take 'eps' from a card\. Remove it"),
        ("Square", {"seed": 1}, r"does not take 'seed' from a card"),
        ("Pixle", {"x_dimensions": 3}, r"x_dimensions must be of type tuple"),
    ],
)
def test_mistakes_are_answered_in_one_line(name: str, parameters: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        make_attack(f"torchattacks:{name}", parameters)
    assert "\n" not in str(caught.value)


def test_a_card_can_name_one_and_a_grid_override_it():
    assert list_parameter_names("torchattacks:PGD") == ("alpha", "steps", "random_start")
    card = find_card("fgsm-linf-8")
    (variant,) = expand_attack_card(replace(card, method="torchattacks:PGD"), {"steps": 7})
    assert make_attack(variant.method, variant.parameters) == TorchattacksAttack(
        name="PGD", parameters={"steps": 7}
    )


def test_known_faults_are_told(some: Sample):
    assert "all logits are negative" in make_attack("torchattacks:CW").describe_caveats(some.classifier, L2)
    assert "projected onto the ball" in make_attack("torchattacks:DeepFool").describe_caveats(
        some.classifier, L2
    )
    assert "issue 188" in make_attack("torchattacks:AutoAttack").describe_caveats(some.classifier, LINF)
    assert make_attack("torchattacks:PGD").describe_caveats(some.classifier, LINF) == ""


def test_its_cw_does_nothing_on_negative_logits(some: Sample):
    # torchattacks issue 184, the reason for the note: the same classifier, its logits shifted
    attack = make_attack("torchattacks:CW", {"steps": 30, "lr": 0.05})
    threat = ThreatModel(norm="L2", eps=3.0)
    shifted = Sample(build_classifier(lambda x: some.classifier.model(x) - 100, 5), some.images, some.labels)
    assert some.find_adversarial(some.attack(attack, threat), threat).float().mean() > 0.5
    assert not shifted.find_adversarial(shifted.attack(attack, threat), threat).any()


def test_images_outside_the_box_are_refused_and_not_clipped(some: Sample):
    wild = Sample(some.classifier, some.images * 2, some.labels)
    with pytest.raises(DataError, match=r"would silently clip images outside \[0, 1\]"):
        wild.attack(make_attack("torchattacks:FGSM"), LINF)


def test_an_answer_that_is_not_finite_is_shown_and_spoils_no_other_image(some: Sample):
    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.where((images[:, 0, 0, 0] > 0.7)[:, None], torch.nan, some.classifier.model(images))

    images = some.images.clone()
    images[:, 0, 0, 0] = images[:, 0, 0, 0].clamp_max(0.5)
    images[4, 0, 0, 0] = 0.695
    attack = make_attack("torchattacks:PGD", {"random_start": False})
    found = Sample(build_classifier(forward, 5), images, some.labels).attack(attack, LINF)
    clean = Sample(some.classifier, images, some.labels).attack(attack, LINF)
    assert torch.isfinite(found).all()
    assert (compute_norms(found - images, "Linf") <= LINF.eps + 1e-6).all()
    others = torch.arange(12) != 4
    assert torch.equal(found[others], clean[others])
    assert not torch.isfinite(forward(found)[4]).any()


@pytest.mark.parametrize("name", ["autoattack", "torchattacks:PGD"])
def test_a_model_that_cuts_its_gradient_is_refused_in_words(some: Sample, name: str):
    cut = Sample(
        build_classifier(lambda x: some.classifier.model(x.detach()).detach(), 5), some.images, some.labels
    )
    with pytest.raises(ModelError, match="no gradient path"):
        cut.attack(make_attack(name), LINF)


def test_no_images_and_no_budget_spend_nothing(some: Sample):
    attack = make_attack("torchattacks:PGD")
    assert some.select_images(torch.arange(0)).attack(attack, LINF).shape == (0, 3, 8, 8)
    nothing = ThreatModel(norm="Linf", eps=0)
    assert torch.equal(some.attack(attack, nothing), some.images)
    assert attack.estimate_cost(nothing) == (0, 0)


def test_costs_are_guessed_from_steps_and_queries():
    assert make_attack("torchattacks:PGD", {"steps": 7}).estimate_cost(LINF) == (7, 7)
    assert make_attack("torchattacks:FGSM").estimate_cost(LINF) == (1, 1)
    assert make_attack("torchattacks:Square").estimate_cost(LINF) == (5000, 0)


def test_a_classifier_without_gradients_is_refused():
    black_box = Classifier(lambda images: torch.zeros(len(images), 5), num_classes=5, name="remote")
    with pytest.raises(ConfigError, match="needs gradients"):
        make_attack("torchattacks:PGD").check_support(LINF, black_box)


def test_without_the_extra_the_way_to_get_it_is_said(monkeypatch):
    real = importlib.import_module

    def missing(name: str, *rest: Any) -> ModuleType:
        if name == "torchattacks":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"Run pip install '\.\[torchattacks\]' in the clone"):
        make_attack("torchattacks:PGD")
