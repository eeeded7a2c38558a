"""Attacks by name, and what every attack declares."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from attack_samples import Sample

from robustbench_local.attacks import ATTACKS, list_parameter_names, make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps=0.1)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_registered_attack_is_built_by_name_and_shows_its_whole_configuration(name: str):
    attack = make_attack(name)
    assert isinstance(attack, ATTACKS[name])
    assert list_parameter_names(name) == tuple(field.name for field in fields(attack))
    assert all(f"{key}=" in repr(attack) for key in list_parameter_names(name))
    assert type(attack).__doc__
    assert "Source:" in type(attack).__doc__
    forward, backward = attack.estimate_cost(LINF)
    assert forward or not backward  # one forward pass may serve several backward ones
    assert (backward >= 1) == (attack.access == "gradients")


def test_parameters_are_taken_and_fractions_read():
    assert make_attack("pgd", {"steps": 20, "step_size": "2/255"}) == PGD(steps=20, step_size=2 / 255)
    assert make_attack("pgd", {"step_size": "1e-3"}) == PGD(step_size=0.001)
    assert make_attack("pgd", {"step_size": 1, "random_start": False}) == PGD(
        step_size=1.0, random_start=False
    )
    assert make_attack("pgd", {"step_size": None}) == PGD()
    assert make_attack("fgsm", None) == FGSM()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("pdg", {}, r"unknown attack 'pdg'\. Did you mean pgd\?"),
        ("pgd", {"stpes": 3}, r"attack 'pgd' has no parameter 'stpes'\. Did you mean steps\?"),
        ("pgd", {"steps": "ten"}, r"attack 'pgd', steps: input should be a valid integer, got 'ten'"),
        ("pgd", {"steps": 2.5}, r"attack 'pgd', steps: .*got 2\.5"),
        ("pgd", {"steps": True}, r"attack 'pgd', steps: .*got True"),
        ("pgd", {"random_start": 1}, r"attack 'pgd', random_start: .*got 1"),
        ("pgd", {"step_size": "a/b"}, r"step_size: cannot read the number 'a/b'"),
        ("pgd", {"step_size": "1/0"}, r"step_size: cannot read the number '1/0'"),
        ("pgd", {"loss": "cw"}, r"attack 'pgd', loss: .*got 'cw'"),
        ("pgd", {"steps": 0}, r"at least 1 step"),
        ("autoattack", {"version": "best"}, r"attack 'autoattack', version: .*got 'best'"),
    ],
)
def test_mistakes_are_answered_in_one_line(name: str, parameters: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        make_attack(name, parameters)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class OnlyLinf(Attack):
    """A white-box attack with narrow abilities."""

    norms = frozenset({"Linf"})
    goals = frozenset({"untargeted"})

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return images

    def estimate_cost(self, threat):
        return (0, 0)


def test_what_an_attack_cannot_do_is_found_before_any_work(small: Sample):
    black_box = Classifier(lambda images: torch.zeros(len(images), 5), num_classes=5, name="remote")
    OnlyLinf().check_support(LINF, small.classifier)
    for threat, what in (
        (ThreatModel(norm="L2", eps=1), "the norm 'L2'"),
        (ThreatModel(norm="Linf", eps=0.1, targets=(1,)), "the goal 'targeted'"),
        (ThreatModel(norm="Linf", eps=0.1, region="mask"), "the region 'mask'"),
    ):
        with pytest.raises(ThreatError, match=f"OnlyLinf does not support {what}"):
            OnlyLinf().check_support(threat, small.classifier)
    with pytest.raises(ConfigError, match="needs gradients, the model 'remote' gives scores only"):
        FGSM().check_support(LINF, black_box)
    labels = Classifier(lambda images: torch.zeros(len(images)), num_classes=5, name="bb", access="labels")
    with pytest.raises(ConfigError, match=r"needs scores.* labels only: hopskipjump or boundary"):
        make_attack("square", {}).check_support(LINF, labels)
    with pytest.raises(ConfigError, match=r"needs gradients.* scores only: square or spsa"):
        FGSM().check_support(LINF, black_box)
    with pytest.raises(ThreatError, match="target class 5 does not exist: the model has 5 classes"):
        FGSM().check_support(ThreatModel(norm="Linf", eps=0.1, targets=(5,)), small.classifier)
    with pytest.raises(ThreatError, match="the DLR loss takes one target"):
        PGD(loss="dlr").check_support(ThreatModel(norm="Linf", eps=0.1, targets=(0, 1)), small.classifier)
    with pytest.raises(ThreatError, match="the DLR loss takes one target"):
        FGSM(loss="dlr").check_support(ThreatModel(norm="Linf", eps=0.1, targets=(0, 1)), small.classifier)


def test_by_default_there_is_nothing_to_warn_of(small: Sample):
    assert FGSM().list_warnings(LINF) == []
    assert FGSM().describe_caveats(small.classifier, LINF) == ""
    assert FGSM().per_image
