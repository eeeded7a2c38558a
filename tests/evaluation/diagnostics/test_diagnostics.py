"""Diagnostics that ask a model: each fires on a model made for it, is silent on a sound one, on both
sides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustbench_local.attacks.adaptive.findings import (
    MAX_ROUNDING_DIFFERENCE,
    GradientFindings,
    LayerFinding,
    LogitFindings,
    ModelFindings,
    OperatorFinding,
    RandomnessFindings,
)
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.diagnostics.blocking_operators import BlockingOperators
from robustbench_local.evaluation.diagnostics.changing_answers import ChangingAnswers
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic_registry import DIAGNOSTICS
from robustbench_local.evaluation.diagnostics.gradient_agreement import (
    MAX_RELATIVE_ERROR,
    MIN_CALM_COSINE,
    MIN_COSINE,
    MIN_INFORMATIVE_SHARE,
    GradientAgreement,
)
from robustbench_local.evaluation.diagnostics.inner_optimization import InnerOptimization
from robustbench_local.evaluation.diagnostics.input_range import MAX_OVERSHOOT, InputRange
from robustbench_local.evaluation.diagnostics.input_scale import MAX_ACCURACY_LOSS, InputScale
from robustbench_local.evaluation.diagnostics.logit_scale import MAX_LOGIT_RANGE, MIN_LOGIT_RANGE, LogitScale
from robustbench_local.evaluation.diagnostics.missing_graph import MissingGraph
from robustbench_local.evaluation.diagnostics.output_form import OutputForm
from robustbench_local.evaluation.diagnostics.pass_budget import PassBudget
from robustbench_local.evaluation.diagnostics.probability_output import ProbabilityOutput
from robustbench_local.evaluation.diagnostics.random_noise import MAX_DRAWS, RandomNoise
from robustbench_local.evaluation.diagnostics.saturated_softmax import (
    MAX_LOST_SHARE,
    MAX_TINY_SHARE,
    SaturatedSoftmax,
)
from robustbench_local.evaluation.diagnostics.training_mode import TrainingMode
from robustbench_local.evaluation.diagnostics.unbounded_attack import MIN_IMAGES, UnboundedAttack
from robustbench_local.evaluation.diagnostics.vanishing_gradient import MAX_ZERO_SHARE, VanishingGradient
from robustbench_local.threats.threat_model import ThreatModel

SOUND = ModelFindings(
    gradients=GradientFindings(
        has_graph=True, cosine=0.999, relative_error=0.02, informative_share=1.0, images=12
    ),
    logits=LogitFindings(range=20.0, are_probabilities=False, saturated_share=0.0),
    randomness=RandomnessFindings(max_difference=0.0, changed_labels=0, is_repeated_by_seed=True),
    images=12,
    passes=(0, 0),
)


class Brightness(nn.Module):
    """Class 1 if an image is bright: linear in its mean, so that every answer is known."""

    def __init__(self, factor: float = 20.0) -> None:
        super().__init__()
        self.factor, self.drop = factor, nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Two logits that differ by the brightness."""
        level = self.factor * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-level, level], dim=1)


def make_images(levels) -> torch.Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


def make_model(levels=(0.2, 0.3, 0.7, 0.8) * 4, module=None, findings=SOUND, **changes) -> DiagnosedModel:
    images = make_images(levels)
    classifier = Classifier(module or Brightness(), num_classes=2, access=changes.pop("access", None))
    labels = (images.mean(dim=(1, 2, 3)) > 0.5).long()
    model = DiagnosedModel(
        id="m", defense="none", classifier=classifier, images=images, labels=labels,
        ids=tuple(f"image {row}" for row in range(len(images))), budget=PassBudget(limit=100_000), seed=0,
        findings=findings, is_wholly_inspected=True,
    )  # fmt: skip
    with classifier.evaluation_mode():
        model.logits = model.compute_logits(images)
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def change(**parts) -> ModelFindings:
    """The sound findings with changes in each part."""
    return replace(
        SOUND,
        **{
            name: replace(getattr(SOUND, name), **values) if isinstance(values, dict) else values
            for name, values in parts.items()
        },
    )


def check(diagnostic, model: DiagnosedModel):
    with model.classifier.evaluation_mode(), model.track_passes(len(model.images)):
        return diagnostic.check_model(model)


def test_a_sound_model_passes_every_diagnostic():
    model = make_model(threat=ThreatModel(norm="Linf", eps=0.01))
    readings = {diagnostic.id: check(diagnostic, model).status for diagnostic in DIAGNOSTICS}
    assert len(readings) == len(DIAGNOSTICS) == 20
    assert readings.pop("D29") == "not run"  # nobody has probed this model before
    assert set(readings.values()) == {"ok"}, readings
    assert list(readings) == sorted(readings, key=list(readings).index)


@pytest.mark.parametrize(
    ("overshoot", "status"), [(0.5 * MAX_OVERSHOOT, "ok"), (3e-6, "block"), (254.0, "block")]
)
def test_pixels_outside_the_unit_interval(overshoot, status):
    model = make_model()
    model.images = model.images.clone()
    model.images[0, 0, 0, 0] = 1 + overshoot
    assert check(InputRange(), model).status == status
    model.images[0, 0, 0, 0] = float("nan")
    assert check(InputRange(), model).status == "block"


def test_answers_that_are_no_numbers():
    model = make_model()
    model.logits[3, 0] = float("inf")
    reading = check(OutputForm(), model)
    assert (reading.status, reading.n) == ("block", 16)
    assert "1 of 16 images" in reading.sentence


def test_a_layer_that_stays_in_training_mode():
    model = make_model()
    with model.classifier.evaluation_mode():
        assert TrainingMode().check_model(model).status == "ok"
        model.classifier.module.drop.training = True
        reading = TrainingMode().check_model(model)
    assert reading.status == "block"
    assert "drop" in reading.sentence


@pytest.mark.parametrize(
    ("difference", "status"), [(MAX_ROUNDING_DIFFERENCE, "ok"), (1.01 * MAX_ROUNDING_DIFFERENCE, "fail")]
)
def test_random_answers(difference, status):
    findings = change(randomness={"max_difference": difference, "changed_labels": 2})
    reading = check(ChangingAnswers(), make_model(findings=findings))
    assert reading.status == status
    assert ("too high" in reading.sentence, "too low" in reading.sentence) == (status == "fail",) * 2


def test_probabilities_are_a_warning():
    assert (
        check(ProbabilityOutput(), make_model(findings=change(logits={"are_probabilities": True}))).status
        == "warn"
    )


@pytest.mark.parametrize(("highest", "status"), [(1.0, "warn"), (1.01, "ok")])
def test_outputs_of_a_sigmoid_are_a_warning(highest, status):
    model = make_model()
    model.logits = torch.tensor([[0.0, highest], [0.4, 0.9]])
    assert check(ProbabilityOutput(), model).status == status


def test_a_cut_graph():
    assert check(MissingGraph(), make_model(findings=change(gradients={"has_graph": False}))).status == "fail"
    failing = change(gradients={"error": "RuntimeError: no backward"})
    assert "no backward" in check(MissingGraph(), make_model(findings=failing)).sentence
    assert check(MissingGraph(), make_model(access="scores")).status == "not run"


@pytest.mark.parametrize("share", ["zero_margin_share", "nonfinite_share"])
@pytest.mark.parametrize(("value", "status"), [(0.99 * MAX_ZERO_SHARE, "ok"), (MAX_ZERO_SHARE, "fail")])
def test_gradients_of_zero(share, value, status):
    assert check(VanishingGradient(), make_model(findings=change(gradients={share: value}))).status == status


@pytest.mark.parametrize(
    ("zero", "nonfinite", "words"), [(1.0, 1.0, "NaN or infinite"), (0.5, 0.2, "exactly zero")]
)
def test_gradients_that_are_nan_are_not_called_zero(zero, nonfinite, words):
    shares = {"zero_margin_share": zero, "nonfinite_share": nonfinite}
    assert words in check(VanishingGradient(), make_model(findings=change(gradients=shares))).sentence


@pytest.mark.parametrize(
    ("lost", "tiny", "saturated", "status"),
    [
        (MAX_LOST_SHARE, 1.0, 1.0, "fail"),
        (MAX_LOST_SHARE - 0.01, MAX_TINY_SHARE - 0.01, 1.0, "ok"),
        (MAX_LOST_SHARE - 0.01, MAX_TINY_SHARE, 1.0, "info"),
        (1.0, 1.0, 0.0, "ok"),  # a flat network: tiny gradients, but no certainty
    ],
)
def test_a_saturated_softmax(lost, tiny, saturated, status):
    shares = {"zero_cross_entropy_share": lost, "tiny_cross_entropy_share": tiny}
    findings = change(gradients=shares, logits={"saturated_share": saturated})
    assert check(SaturatedSoftmax(), make_model(findings=findings)).status == status


@pytest.mark.parametrize(
    ("cosine", "error", "status"),
    [
        (MIN_CALM_COSINE, MAX_RELATIVE_ERROR, "ok"),
        (MIN_CALM_COSINE - 0.001, 0.0, "warn"),
        (MIN_COSINE, 0.0, "warn"),
        (MIN_COSINE - 0.001, 0.0, "fail"),
        (1.0, MAX_RELATIVE_ERROR + 0.001, "fail"),
    ],
)
def test_gradients_against_finite_differences(cosine, error, status):
    findings = change(gradients={"cosine": cosine, "relative_error": error})
    assert check(GradientAgreement(), make_model(findings=findings)).status == status


def test_what_finite_differences_cannot_decide():
    few = change(gradients={"cosine": 0.1, "informative_share": MIN_INFORMATIVE_SHARE - 0.01})
    assert check(GradientAgreement(), make_model(findings=few)).status == "not run"
    bad = change(gradients={"cosine": 0.1, "informative_share": MIN_INFORMATIVE_SHARE})
    assert check(GradientAgreement(), make_model(findings=bad)).status == "fail"
    assert check(GradientAgreement(), make_model(findings=bad, declares_surrogate=True)).status == "info"
    random = replace(bad, randomness=replace(bad.randomness, max_difference=1.0))
    assert check(GradientAgreement(), make_model(findings=random)).status == "not run"


@pytest.mark.parametrize(
    ("scale", "status"),
    [
        (MAX_LOGIT_RANGE, "ok"),
        (MAX_LOGIT_RANGE + 1, "warn"),
        (MIN_LOGIT_RANGE, "ok"),
        (0.99 * MIN_LOGIT_RANGE, "warn"),
    ],
)
def test_huge_and_tiny_logits(scale, status):
    assert check(LogitScale(), make_model(findings=change(logits={"range": scale}))).status == status


@pytest.mark.parametrize(
    ("after", "scale", "status"),
    [
        (0.9 - MAX_ACCURACY_LOSS, MAX_LOGIT_RANGE + 1, "fail"),
        (0.9 - MAX_ACCURACY_LOSS - 0.01, MAX_LOGIT_RANGE + 1, "ok"),
        (0.9 - MAX_ACCURACY_LOSS, MAX_LOGIT_RANGE, "info"),
    ],
)
def test_a_model_fed_with_the_wrong_range(after, scale, status):
    assert InputScale().judge_figures(0.9, after, scale, 50).status == status


def test_a_model_that_multiplies_pixels_by_255_itself():
    class Multiplied(Brightness):
        def forward(self, images):
            signs = torch.ones(16)
            signs[8:] = -1  # the left half against the right: no threshold that the scale would move
            level = 100 * ((255 * images).flatten(1) * signs).sum(dim=1)
            return torch.stack([-level, level], dim=1)

    model = make_model(module=Multiplied())
    model.images = make_images((0.2,) * 8).clone()
    model.images[:, :, :2] += 0.3
    model.labels, model.ids = torch.ones(8, dtype=torch.long), model.ids[:8]
    model.logits = model.compute_logits(model.images)
    assert check(InputScale(), model).status == "fail"


def test_optimization_inside_the_forward_pass():
    assert check(InnerOptimization(), make_model(findings=change(optimizes_inside=True))).status == "fail"
    assert check(InnerOptimization(), make_model(is_wholly_inspected=False)).status == "ok"
    assert check(InnerOptimization(), make_model(findings=None)).status == "not run"


def test_operators_without_a_gradient():
    rounding = OperatorFinding(path="0", operator="round", count=1)
    harmless = change(operators=(rounding,))
    assert check(BlockingOperators(), make_model(findings=harmless)).status == "ok"
    harmful = replace(harmless, layers=(LayerFinding(path="0", kind="zero"),))
    reading = check(BlockingOperators(), make_model(findings=harmful))
    assert reading.status == "warn"
    assert "round" in reading.sentence
    assert check(BlockingOperators(), make_model(findings=harmful, declares_surrogate=True)).status == "info"
    assert check(BlockingOperators(), make_model(lacks_surrogate=True)).status == "warn"


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ({}, "ok"),
        ({"has_graph": False}, "warn"),
        ({"zero_margin_share": MAX_ZERO_SHARE}, "warn"),
        ({"nonfinite_share": MAX_ZERO_SHARE}, "warn"),
        ({"cosine": MIN_COSINE - 0.01}, "warn"),
        ({"cosine": MIN_COSINE}, "ok"),
    ],
)
def test_operators_without_a_look_at_layers(faults, status):
    """A short inspection knows no layers: the gradient of the whole decides."""
    findings = change(operators=(OperatorFinding(path="", operator="round", count=1),), gradients=faults)
    model = make_model(findings=findings, is_wholly_inspected=False)
    assert check(BlockingOperators(), model).status == status


@pytest.mark.parametrize(
    ("robust", "n", "status"),
    [(1, 10, "ok"), (2, 10, "warn"), (3, 10, "warn"), (4, 10, "fail"), (4, 4, "fail"), (0, 4, "ok")],
)
def test_an_unbounded_attack_has_to_succeed(robust, n, status):
    """Ten classes: the lower end of the interval, 12.2 % for 4 of 10, lies above chance."""
    assert UnboundedAttack().judge_figures(robust, n, 10).status == status


def test_an_unbounded_attack_that_stands_still_fails():
    class Plateau(Brightness):
        def forward(self, images):
            return super().forward(images.round() * 0.6 + 0.2 + 0 * images)

    reading = check(UnboundedAttack(), make_model((0.1, 0.2, 0.8, 0.9) * 4, module=Plateau()))
    assert reading.status == "fail"
    assert reading.value == 1.0
    few = make_model((0.1,) * (MIN_IMAGES - 1))
    assert check(UnboundedAttack(), few).status == "not run"
    assert check(UnboundedAttack(), make_model((0.1,) * MIN_IMAGES)).status == "ok"


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_noise_stays_inside_the_ball_and_names_what_it_breaks(norm):
    model = make_model((0.2, 0.5001, 0.8, 0.4999), threat=ThreatModel(norm=norm, eps=0.02))
    reading = check(RandomNoise(), model)
    assert set(reading.images) == {"image 1", "image 3"}
    assert reading.status == "ok"
    assert reading.n == 4
    assert f"{MAX_DRAWS} draws" in reading.sentence
    same = check(RandomNoise(), make_model((0.2, 0.5001, 0.8, 0.4999), threat=model.threat))
    assert same.images == reading.images


def test_sentences_are_one_sentence_each():
    """Also those of diagnostics that find something; a figure such as 0.5 is no end of a sentence."""
    broken = change(
        gradients={"zero_margin_share": 0.5}, logits={"range": 1e4, "are_probabilities": True},
        randomness={"max_difference": 0.3, "changed_labels": 1}, optimizes_inside=True,
    )  # fmt: skip
    for findings in (SOUND, broken):
        model = make_model(findings=findings, threat=ThreatModel(norm="Linf", eps=0.01))
        for diagnostic in DIAGNOSTICS:
            reading = check(diagnostic, model)
            assert reading.sentence.endswith("."), diagnostic.id
            assert ". " not in reading.sentence, diagnostic.id
            assert not reading.sentence[0].islower(), diagnostic.id
