"""Trial steps: for gradients that are correct but mislead, and never at the cost of AutoAttack's stages."""

from __future__ import annotations

import pytest
import torch
from adaptive_samples import Behind, build_images, inspect_sample, wrap_model
from torch import nn

from robustbench_local.attacks.adaptive.adaptive import AdaptedAttack
from robustbench_local.attacks.adaptive.composition import (
    Composition,
    PilotResult,
    compose_steps,
    divide_views,
    is_misled,
    list_candidate_steps,
    list_standard_steps,
    select_trials,
)
from robustbench_local.attacks.adaptive.quick_check import check_quickly
from robustbench_local.attacks.adaptive.steps import AttackStep
from robustbench_local.attacks.adaptive.view_spec import ViewSpec, list_trial_views
from robustbench_local.attacks.base import AttackInputs
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps=0.1)
WIDE_THREAT = ThreatModel(norm="Linf", eps=0.5)


def make_result(label: str, broken: int, images: int = 8) -> PilotResult:
    return PilotResult(label=label, images=images, broken=broken, passes=1)


@pytest.mark.parametrize(
    ("broken", "images", "expected"),
    [(1, 1, False), (1, 4, False), (2, 2, True), (2, 8, True), (2, 9, False), (3, 12, True)],
)
def test_two_images_and_a_quarter_of_all_show_that_gradients_mislead(broken, images, expected):
    assert is_misled([make_result("a", 0), make_result("b", broken, images)]) is expected


def test_only_the_best_trial_with_a_success_is_kept():
    steps = list_candidate_steps([ViewSpec(kind="wide", label=label, width=1) for label in "abcd"])
    results = [make_result(label, broken) for label, broken in zip("abcd", (0, 1, 1, 2), strict=True)]
    assert [step.label for step in select_trials(steps, results)] == ["d"]
    assert select_trials(steps, ()) == ()


def test_every_trial_step_is_found_again_by_its_label():
    findings = inspect_sample(wrap_model(Behind(lambda images: images)))
    trials = list_candidate_steps(list_trial_views(findings))
    assert [step.label for step in trials] == [
        "mean slopes over 0.1 deviations",
        "mean slopes over 0.5 deviations",
        "mean slopes over 1.5 deviations",
        "smoothed activations",
        "mean gradients of a neighborhood",
    ]
    composition = Composition(steps=(*list_standard_steps(THREAT, 5), *trials), findings=findings)
    assert Composition.from_json(composition.to_json()) == composition


def test_a_step_that_fails_is_noted_and_the_others_run():
    class Fragile(Behind):
        """Fails where its images are not on the graph alone, as foreign code may."""

    images = build_images()
    model = wrap_model(Fragile(lambda values: values))
    broken = AttackStep(
        label="transfer from nothing",
        search="apgd",
        steps=2,
        view=ViewSpec(kind="part", label="transfer from nothing", paths=("linear",)),
    )
    own = AttackStep(label="own", search="apgd", steps=10)
    attack = AdaptedAttack(composition=Composition(steps=(broken, own)))
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    stream = RandomStream(0, tuple(f"image-{row}" for row in range(len(images))), "x")
    with model.evaluation_mode():
        candidates = attack.perturb(model, images, labels, THREAT, stream)
    with torch.no_grad():
        assert (model(candidates).argmax(dim=1) != labels).any()
    assert any("transfer from nothing" in note for note in model.notes)


class Declared(torch.autograd.Function):
    """Rounding with the gradient of the identity, as its maker declares."""

    @staticmethod
    def forward(ctx, values):
        return (values * 8).round() / 8

    @staticmethod
    def backward(ctx, slopes):
        return slopes


@pytest.mark.parametrize(
    ("front", "is_needed"),
    [
        (lambda values: values, False),
        (Declared.apply, False),
        (lambda values: (values * 8).round() / 8, True),
    ],
)
def test_only_gradients_that_mislead_call_for_steps_without_a_trial(front, is_needed):
    findings = inspect_sample(wrap_model(Behind(front)), build_images(4))
    needed, trials = divide_views(findings, is_steep=False)
    if not findings.operators:
        assert divide_views(findings, is_steep=True) == ((*needed, *trials), ())
    assert bool(needed) is is_needed
    assert bool(trials) is not is_needed
    assert "mean slopes over 0.1 deviations" in {view.label for view in (*needed, *trials)}


def test_rescaled_logits_need_no_targets_of_their_own():
    findings = inspect_sample(wrap_model(Behind(lambda values: values, scale=1000.0)))
    (step,) = list_candidate_steps(divide_views(findings, is_steep=False)[0])
    assert step.label == "rescaled logits"
    steps = compose_steps(findings, [step], [make_result(step.label, 1)], THREAT, 5)
    assert [step.label for step in steps] == ["apgd-ce", "rescaled logits", "apgd-t", "fab-t", "square"]


def test_a_layer_inside_of_one_that_declares_the_identity_is_declared_too():
    class Codec(nn.Module):
        def forward(self, values):
            return (values * 8).round() / 8

    class Straight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codec = Codec()

        def forward(self, values):
            return values + (self.codec(values.detach()) - values).detach()

    findings = inspect_sample(wrap_model(Behind(Straight())))
    assert [(layer.path, layer.is_declared_identity) for layer in findings.layers] == [("front.codec", True)]
    assert divide_views(findings, is_steep=False)[0] == ()
    bare = inspect_sample(wrap_model(Behind(Codec())))
    assert not any(layer.is_declared_identity for layer in bare.layers)


@pytest.mark.parametrize(
    ("front", "is_steep"),
    [
        (lambda values: values, False),
        (lambda values: nn.functional.gelu(values - 0.5), False),
        (lambda values: values - 1.5 * (values % 0.05), True),
        (lambda values: values.sort(dim=3).values, True),
    ],
)
def test_steep_functions_are_a_doubt_even_where_an_attack_succeeds(front, is_steep):
    images = build_images(4)
    model = wrap_model(Behind(front))
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    stream = RandomStream(0, tuple(f"image-{row}" for row in range(4)), "x")
    with model.evaluation_mode():
        check = check_quickly(AttackInputs(model, images, labels, WIDE_THREAT, stream, None))
    assert check.is_steep is is_steep
    assert is_steep or bool(check.broken.all())
