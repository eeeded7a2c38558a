"""An attack against one fixed draw: what it is given, what counts as its success, and what it may not do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.harness.fixed_draw import attack_fixed_draw, can_fix_draw
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel
from robustbench_local.threats.transformations import apply_transformation

BALL = ThreatModel(norm="Linf", eps=0.3)
STREAM = RandomStream(3, ("a", "b", "c"), "any")


class Threshold(nn.Module):
    """Class 1 if the mean of the two pixels exceeds 0.5."""

    def __init__(self):
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        lead = self.steepness * (images.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-lead, lead], dim=1)


class Noisy(RandomizedClassifier):
    """Answers with so little noise that it decides nothing; raises after so many calls."""

    identity = "noisy"
    calls_left = 10**6

    def sample(self, images, numbers):
        Noisy.calls_left -= 1
        if Noisy.calls_left < 0:
            raise ModelError("tired", where="noisy")
        return self.inner(images) + 1e-6 * numbers.sample_normal((2,))


class Pooled(Noisy):
    """One whose users get the pooled answer."""

    answers_with_one_draw = False


@dataclass(frozen=True, kw_only=True)
class Scripted(Attack):
    access = "scores"
    script: Callable[..., object]

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return self.script(classifier, images, labels, masks)

    def estimate_cost(self, threat):
        return (1, 0)


def make_classifier(kind=Noisy, **declared):
    Noisy.calls_left = 10**6
    return kind(Classifier(Threshold(), num_classes=2, **declared), draws=2, verdict_draws=3)


def attack(script, *, means=(0.2, 0.4, 0.6), labels=(0, 0, 0), threat=BALL, masks=None, classifier=None):
    """Attack images of two pixels that have these means."""
    classifier = classifier or make_classifier()
    images = torch.tensor(means)[:, None, None, None].expand(-1, 1, 1, 2).contiguous()
    with classifier.evaluation_mode():
        return attack_fixed_draw(
            classifier, Scripted(script=script), images, torch.tensor(labels), threat, STREAM, masks
        )


def stay(classifier, images, labels, masks):
    return images


def move(by):
    return lambda classifier, images, labels, masks: images + by


def test_only_a_defense_that_answers_with_one_draw_can_have_it_fixed():
    assert can_fix_draw(make_classifier())
    assert not can_fix_draw(make_classifier(Pooled))
    plain = Classifier(Threshold(), num_classes=2)
    assert not can_fix_draw(plain)
    assert attack(stay, classifier=plain) == ((), [])


@pytest.mark.parametrize(
    ("script", "targets", "broken"),
    [
        (stay, (), (False, False, True)),
        (move(0.2), (), (False, True, True)),
        (move(-0.2), (), (False, False, True)),  # the third is misclassified without an attack
        (move(0.2), (1,), (False, True, True)),
        (move(-0.2), (1,), (False, False, False)),  # a target has to be reached
    ],
)
def test_a_draw_misclassifies_an_image_clean_or_attacked(script, targets, broken):
    found, counters = attack(script, threat=ThreatModel(norm="Linf", eps=0.3, targets=targets))
    assert found == broken
    assert len(counters) == 3


def test_what_the_attack_writes_into_its_arguments_stays_with_it():
    def overwrite(classifier, images, labels, masks):
        moved = images + 0.2
        images.fill_(0.0)
        labels.fill_(1)
        masks.fill_(True)
        return moved

    masks = torch.tensor([True, False]).view(1, 1, 1, 2).expand(3, 1, 1, 2).contiguous()
    everywhere = torch.ones_like(masks)
    masked = ThreatModel(norm="Linf", eps=0.3, region="mask")
    assert attack(overwrite, masks=everywhere)[0] == (False, True, True)
    assert attack(overwrite, masks=masks, threat=masked)[0] == (False, False, True)


def test_a_corruption_draws_the_random_numbers_of_the_images():
    threat = ThreatModel(norm="corruption", eps=5, transformation="gaussian_noise")
    means = (0.45, 0.48, 0.46)
    images = torch.tensor(means)[:, None, None, None].expand(-1, 1, 1, 2).contiguous()
    none = torch.zeros(3, 0)
    expected = apply_transformation(images, none, threat, STREAM).flatten(1).mean(dim=1) > 0.5
    assert expected.any()
    assert attack(lambda *given: none, means=means, threat=threat)[0] == tuple(expected.tolist())


def test_a_model_that_raises_meanwhile_has_no_result_and_a_note():
    classifier = make_classifier()

    def fail(asked, images, labels, masks):
        Noisy.calls_left = 0
        return asked(images)

    found, counters = attack(fail, classifier=classifier)
    assert found == ()
    assert len(counters) == 2  # the passes until then are counted
    assert "raised while its draw was fixed: tired" in classifier.notes


def test_the_attack_sees_a_rejecting_model_as_other_attacks_do():
    """The rejecting logit leads everywhere; to the attack that is the label's."""

    class Rejecting(nn.Module):
        def forward(self, images):
            return torch.cat([Threshold()(images), torch.ones(len(images), 1)], dim=1)

    class Quiet(RandomizedClassifier):
        identity = "quiet"

        def sample(self, images, numbers):
            return self.inner(images)

    seen = []

    def look(classifier, images, labels, masks):
        seen.append(classifier(images).argmax(dim=1).tolist())
        return images

    inner = Classifier(Rejecting(), num_classes=2, abstain="last")
    attack(look, labels=(0, 1, 0), classifier=Quiet(inner, draws=2, verdict_draws=3))
    assert seen == [[0, 1, 0]]


def test_what_the_attack_changes_does_not_reach_the_verification():
    classifier = make_classifier()

    def leave_autocast(asked, images, labels, masks):
        torch.set_autocast_enabled("cpu", True)
        return images

    attack(leave_autocast, classifier=classifier)
    assert not torch.is_autocast_enabled("cpu")
    assert "Scripted changes the process-wide autocast; put back before verification" in classifier.notes

    def tamper(asked, images, labels, masks):
        asked.module.steepness.data.neg_()
        return images

    with pytest.raises(ConfigError, match="changed the model's weights"):
        attack(tamper, classifier=classifier)
    with pytest.raises(ConfigError, match="returned a list"):
        attack(lambda *given: [1], classifier=classifier)
