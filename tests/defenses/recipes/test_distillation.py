"""Defensive distillation: large logits at the end, no cross-entropy gradient, and no robustness."""

from __future__ import annotations

import math
from dataclasses import fields, replace

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

from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.defenses.recipes.distillation import (
    Distillation,
    TemperedTraining,
    compute_tempered_loss,
)
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import CardError, ConfigError

AT_50 = Distillation(**COMMON_PARAMETERS, temperature=50.0)


def test_the_loss_has_its_closed_form():
    logits, targets = torch.tensor([[30.0, 0.0]]), torch.tensor([[0.25, 0.75]])
    log_sum = math.log(math.exp(3) + 1)
    expected = 10 * (0.25 * (log_sum - 3) + 0.75 * log_sum)
    assert compute_tempered_loss(logits, targets, 10).item() == pytest.approx(expected, rel=1e-6)


def test_logits_that_grow_with_the_temperature_have_gradients_of_the_same_size():
    """d/dz of T CE(z / T) is softmax(z / T) - y, whatever T."""
    gradients = []
    for temperature in (1.0, 100.0):
        logits = (temperature * torch.tensor([[1.0, -2.0, 0.5]])).requires_grad_()
        compute_tempered_loss(logits, torch.tensor([2]), temperature).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)


def test_at_temperature_one_it_is_the_cross_entropy():
    logits, labels = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 0, 1]),
    )
    for smoothing in (0.0, 0.2):
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert compute_tempered_loss(logits, labels, 1, smoothing) == expected


def test_a_given_teacher_is_met_at_the_temperature_and_not_trained():
    teacher, student = build_network(1).eval().requires_grad_(False), build_network(0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective = replace(AT_50, teacher="given").build_objective(build_context(student, teacher=teacher))
    step = build_batch()
    found = objective.compute_loss(step)
    soft = (teacher(step.images) / 50).softmax(dim=1)
    expected = -50 * (soft * (student(step.images) / 50).log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert objective.state_dict() == {}


def test_the_teacher_is_trained_first_and_alike():
    lines = []
    train(build_network(), AT_50, TRAINING, VALIDATION, report=lines.append)
    assert lines[0] == "training the teacher at temperature 50"
    assert [line.split("  ")[0] for line in lines[1:7]] == [
        f"teacher: epoch {epoch}/6" for epoch in range(1, 7)
    ]
    assert lines[7] == "training the student"
    assert lines[8].startswith("epoch 1/6")
    teaching = AT_50.teacher_recipe
    assert isinstance(teaching, TemperedTraining)
    assert all(getattr(teaching, one.name) == getattr(AT_50, one.name) for one in fields(TemperedTraining))


def test_an_interrupted_student_goes_on_with_the_same_teacher(tmp_path):
    whole = train(build_network(), AT_50, TRAINING, VALIDATION, seed=3)
    checkpoint = tmp_path / "training.pt"

    def interrupt(line):
        if line.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build_network(), AT_50, TRAINING, VALIDATION, seed=3, checkpoint=checkpoint, report=interrupt)
    lines = []
    resumed = train(
        build_network(9), AT_50, TRAINING, VALIDATION, seed=3, checkpoint=checkpoint, report=lines.append
    )
    assert not any("teacher" in line for line in lines)
    assert all(torch.equal(resumed.state[name], value) for name, value in whole.state.items())


def _interrupted_at(start):
    def interrupt(line):
        if line.startswith(start):
            raise KeyboardInterrupt

    return interrupt


def test_an_interrupted_teacher_goes_on_where_it_was(tmp_path):
    whole = train(build_network(), AT_50, TRAINING, VALIDATION, seed=3)
    usual = {"seed": 3, "checkpoint": tmp_path / "training.pt"}
    for place in ("teacher: epoch 5/6", "training the student"):
        with pytest.raises(KeyboardInterrupt):
            train(build_network(), AT_50, TRAINING, VALIDATION, **usual, report=_interrupted_at(place))
        assert [file.name for file in tmp_path.iterdir()] == ["training.pt.teacher"]
    lines = []
    resumed = train(build_network(), AT_50, TRAINING, VALIDATION, **usual, report=lines.append)
    assert lines[1] == "teacher: resumed after epoch 6 of 6"
    assert all(torch.equal(resumed.state[name], value) for name, value in whole.state.items())
    assert [file.name for file in tmp_path.iterdir()] == ["training.pt"]


def test_the_checkpoint_of_another_teacher_is_refused(tmp_path):
    usual = {"checkpoint": tmp_path / "training.pt", "report": _interrupted_at("teacher: epoch 2/6")}
    with pytest.raises(KeyboardInterrupt):
        train(build_network(), AT_50, TRAINING, VALIDATION, extra_identity={"start": "a"}, **usual)
    with pytest.raises(ConfigError, match=r"training.pt.teacher: .* another start"):
        train(build_network(), AT_50, TRAINING, VALIDATION, extra_identity={"start": "b"}, **usual)


def test_a_teacher_that_changed_under_its_name_is_not_taken_for_the_old_one(tmp_path):
    taught = replace(AT_50, teacher="t.safetensors")
    usual = {"checkpoint": tmp_path / "training.pt"}
    teachers = [build_network(seed).eval().requires_grad_(False) for seed in (1, 2)]
    with pytest.raises(KeyboardInterrupt):
        train(
            build_network(), taught, TRAINING, VALIDATION, **usual,
            load_teacher=lambda _name: teachers[0], report=_interrupted_at("epoch 2/6"),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="another teacher"):
        train(build_network(), taught, TRAINING, VALIDATION, **usual, load_teacher=lambda _name: teachers[1])
    lines = []
    train(
        build_network(), taught, TRAINING, VALIDATION, **usual,
        load_teacher=lambda _name: teachers[0], report=lines.append,
    )  # fmt: skip
    assert lines[0] == "resumed after epoch 2 of 6"


def test_it_hides_from_the_cross_entropy_and_falls_to_the_margin():
    student = build_network()
    student.load_state_dict(train(student, replace(AT_50, epochs=12), TRAINING, VALIDATION).state)
    images, labels = VALIDATION.images, VALIDATION.labels
    assert compute_accuracy(student, images, labels) >= 0.95
    logits = student(images)
    top, second = logits.topk(2, dim=1).values.unbind(dim=1)
    assert (top - second).median() > 50
    budget = {"eps": 0.25, "steps": 20, "step_size": 0.05}
    hidden = build_linf_examples(student, images, labels, **budget)
    found = build_linf_examples(
        student, images, labels, **budget, loss=lambda z, y: compute_margin(z, y).sum()
    )
    assert compute_accuracy(student, hidden, labels) > compute_accuracy(student, found, labels) + 0.3


def test_a_temperature_below_one_is_refused():
    with pytest.raises(CardError, match="temperature must be at least 1"):
        replace(AT_50, temperature=0.5)
