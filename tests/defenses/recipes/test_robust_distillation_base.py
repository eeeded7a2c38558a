"""ARD and RSLAD: the losses in closed form, the adversaries' aims, and that robustness is handed on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_training import (
    COMMON_PARAMETERS,
    TRAINING,
    VALIDATION,
    build_batch,
    build_context,
    build_network,
    compute_accuracy,
)
from torch.nn import functional as F  # noqa: N812

from robustbench_local.defenses.recipes.ard import ARD, compute_ard_loss
from robustbench_local.defenses.recipes.pgd_at import PGDTraining
from robustbench_local.defenses.recipes.rslad import RSLAD, compute_rslad_loss
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples, compute_kl_divergence
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import CardError
from robustbench_local.threats.threat_model import ThreatModel

EPS = 0.1
ADVERSARIAL = COMMON_PARAMETERS | {
    "threat": ThreatModel(norm="Linf", eps=EPS),
    "steps": 3,
    "step_size": 0.5,
    "eps_warmup_epochs": 2,
}
STUDENTS = [
    ARD(**ADVERSARIAL, teacher="robust", alpha=1.0, temperature=5.0),
    RSLAD(**ADVERSARIAL, teacher="robust", alpha=5 / 6),
]


def _logits(seed):
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


def _kl(expected, found):
    """Written out, from probabilities."""
    p, q = expected.softmax(dim=1), found.softmax(dim=1)
    return (p * (p / q).log()).sum(dim=1).mean()


@pytest.fixture(scope="module")
def teacher():
    module = build_network(5)
    recipe = PGDTraining(**ADVERSARIAL)
    module.load_state_dict(train(module, recipe, TRAINING, VALIDATION).state)
    return module.eval().requires_grad_(False)


def test_the_loss_of_ard_is_the_paper_s():
    clean, adversarial, taught, labels = *map(_logits, range(3)), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = 0.3 * F.cross_entropy(clean, labels) + 0.7 * 25 * _kl(taught / 5, adversarial / 5)
    torch.testing.assert_close(compute_ard_loss(clean, adversarial, taught, labels, 0.7, 5.0), expected)


def test_the_loss_of_rslad_is_the_paper_s():
    clean, adversarial, taught = map(_logits, range(3))
    expected = 0.25 * _kl(taught, clean) + 0.75 * _kl(taught, adversarial)
    torch.testing.assert_close(compute_rslad_loss(clean, adversarial, taught, 0.75), expected)


def test_a_student_like_its_teacher_has_nothing_to_learn():
    logits = _logits(0)
    assert compute_rslad_loss(logits, logits, logits, 0.5).item() == pytest.approx(0, abs=1e-6)
    assert compute_ard_loss(logits, logits, logits, torch.zeros(6).long(), 1.0, 30.0).item() == pytest.approx(
        0, abs=1e-3
    )


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_ard_trains_on_pgd_examples_of_the_student(teacher, alpha):
    student, recipe = build_network().eval(), replace(STUDENTS[0], alpha=alpha)
    step = build_batch(progress=5.0)
    examples = build_linf_examples(
        student,
        step.images,
        step.labels,
        eps=EPS,
        steps=3,
        step_size=EPS / 2,
        generator=torch.Generator().manual_seed(0),
    )
    expected = compute_ard_loss(
        student(step.images), student(examples), teacher(step.images), step.labels, alpha, 5.0
    )
    found = recipe.build_objective(build_context(student, teacher=teacher)).compute_loss(step)
    torch.testing.assert_close(found, expected)


def test_the_adversary_of_rslad_moves_away_from_the_teacher(teacher):
    student, step = build_network().eval(), build_batch(progress=5.0)
    objective = STUDENTS[1].build_objective(build_context(student, teacher=teacher))
    taught = teacher(step.images)
    examples = objective.build_divergence_examples(step, taught)
    assert (examples - step.images).abs().max() <= EPS + 1e-6
    before, after = (
        compute_kl_divergence(taught, student(images)).mean() for images in (step.images, examples)
    )
    assert after > 1.1 * before


@pytest.mark.parametrize("recipe", STUDENTS, ids=lambda recipe: recipe.method)
def test_robustness_is_handed_on(recipe, teacher):
    student = build_network()
    student.load_state_dict(
        train(student, recipe, TRAINING, VALIDATION, load_teacher=lambda _name: teacher).state
    )
    images, labels = VALIDATION.images, VALIDATION.labels
    examples = build_linf_examples(student, images, labels, eps=EPS, steps=20, step_size=EPS / 4)
    assert compute_accuracy(student, examples, labels) >= 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, "alpha must be in"),
        ({"teacher": ""}, "teacher must name"),
        ({"temperature": 0.1}, "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(CardError, match=message):
        replace(STUDENTS[0], **change)
