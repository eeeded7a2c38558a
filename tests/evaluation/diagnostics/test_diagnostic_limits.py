"""The limits of diagnostics, as numbers: a little to either side of each the status is another one."""

from __future__ import annotations

import pytest
from test_diagnostics import change, check, make_images, make_model

from robustbench_local.attacks.adaptive.findings import OperatorFinding
from robustbench_local.evaluation.diagnostics.changing_answers import ChangingAnswers
from robustbench_local.evaluation.diagnostics.gradient_agreement import GradientAgreement
from robustbench_local.evaluation.diagnostics.input_form import InputForm
from robustbench_local.evaluation.diagnostics.input_range import InputRange
from robustbench_local.evaluation.diagnostics.input_scale import InputScale
from robustbench_local.evaluation.diagnostics.logit_scale import LogitScale
from robustbench_local.evaluation.diagnostics.own_surrogates import has_own_surrogates
from robustbench_local.evaluation.diagnostics.pass_budget import MAX_PASSES_SHARE
from robustbench_local.evaluation.diagnostics.saturated_softmax import SaturatedSoftmax
from robustbench_local.evaluation.diagnostics.unbounded_attack import UnboundedAttack
from robustbench_local.evaluation.diagnostics.vanishing_gradient import VanishingGradient

SURE = {"saturated_share": 1.0}


@pytest.mark.parametrize(
    ("diagnostic", "parts", "status"),
    [
        (ChangingAnswers, {"randomness": {"max_difference": 0.99e-4}}, "ok"),
        (ChangingAnswers, {"randomness": {"max_difference": 1.01e-4}}, "fail"),
        (VanishingGradient, {"gradients": {"zero_margin_share": 0.0099}}, "ok"),
        (VanishingGradient, {"gradients": {"zero_margin_share": 0.0101}}, "fail"),
        (VanishingGradient, {"gradients": {"nonfinite_share": 0.0099}}, "ok"),
        (VanishingGradient, {"gradients": {"nonfinite_share": 0.0101}}, "fail"),
        (SaturatedSoftmax, {"gradients": {"zero_cross_entropy_share": 0.499}, "logits": SURE}, "ok"),
        (SaturatedSoftmax, {"gradients": {"zero_cross_entropy_share": 0.501}, "logits": SURE}, "fail"),
        (SaturatedSoftmax, {"gradients": {"tiny_cross_entropy_share": 0.499}, "logits": SURE}, "ok"),
        (SaturatedSoftmax, {"gradients": {"tiny_cross_entropy_share": 0.501}, "logits": SURE}, "info"),
        (GradientAgreement, {"gradients": {"cosine": 0.949}}, "fail"),
        (GradientAgreement, {"gradients": {"cosine": 0.951}}, "warn"),
        (GradientAgreement, {"gradients": {"cosine": 0.979}}, "warn"),
        (GradientAgreement, {"gradients": {"cosine": 0.981}}, "ok"),
        (GradientAgreement, {"gradients": {"relative_error": 0.499}}, "ok"),
        (GradientAgreement, {"gradients": {"relative_error": 0.501}}, "fail"),
        (GradientAgreement, {"gradients": {"informative_share": 0.249}}, "not run"),
        (GradientAgreement, {"gradients": {"informative_share": 0.251}}, "ok"),
        (LogitScale, {"logits": {"range": 499.0}}, "ok"),
        (LogitScale, {"logits": {"range": 501.0}}, "warn"),
        (LogitScale, {"logits": {"range": 0.051}}, "ok"),
        (LogitScale, {"logits": {"range": 0.049}}, "warn"),
    ],
)
def test_findings_on_either_side(diagnostic, parts, status):
    assert check(diagnostic(), make_model(findings=change(**parts))).status == status


@pytest.mark.parametrize(
    ("after", "scale", "status"), [(0.931, 501, "fail"), (0.929, 501, "ok"), (0.931, 499, "info")]
)
def test_the_scale_of_the_input(after, scale, status):
    assert InputScale().judge_figures(0.95, after, scale, 64).status == status


def test_a_few_images_say_nothing_about_the_scale():
    model = make_model((0.2, 0.8) * 16)
    statuses = []
    for limit in (20 * 8 - 1, 20 * 8):  # a twentieth of the budget: 7 images, 8 images
        model.budget.limit, model.budget.spent = limit, 0
        statuses.append(check(InputScale(), model).status)
    assert statuses == ["not run", "ok"]


@pytest.mark.parametrize(("overshoot", "status"), [(0.9e-6, "ok"), (1.2e-6, "block")])
def test_the_range_of_the_images(overshoot, status):
    model = make_model()
    model.images = make_images((0.5, 1 + overshoot)).double()
    model.images[1] = 1 + overshoot
    assert check(InputRange(), model).status == status


@pytest.mark.parametrize(
    ("robust", "n", "status"), [(1, 32, "ok"), (2, 32, "warn"), (7, 32, "warn"), (8, 32, "fail")]
)
def test_images_that_resist_an_unbounded_attack(robust, n, status):
    assert UnboundedAttack().judge_figures(robust, n, 10).status == status


@pytest.mark.parametrize(
    ("gains", "losses", "status"), [(10, 0, "fail"), (9, 0, "ok"), (20, 5, "ok"), (22, 5, "fail")]
)
def test_gains_in_another_form(gains, losses, status):
    assert InputForm().judge_figures("turned", gains, losses, 64).status == status


@pytest.mark.parametrize(("cosine", "own"), [(0.949, False), (0.951, True)])
def test_the_gradient_through_surrogates(cosine, own):
    findings = change(
        operators=(OperatorFinding(path="", operator="round", count=1),),
        gradients={"surrogate_cosine": cosine, "cosine": 0.1},
    )
    model = make_model()
    with model.classifier.evaluation_mode():
        assert has_own_surrogates(model.classifier, findings, model.images) == own


def test_questions_take_a_tenth():
    assert MAX_PASSES_SHARE == 0.10
