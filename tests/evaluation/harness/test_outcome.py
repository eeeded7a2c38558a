"""The record of an image, field by field, for each way in which an image can end."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch

from robustbench_local.certification.base import CertifiedBatch
from robustbench_local.classifier.pass_counter import GradientCounts
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.outcome import (
    add_gradient_counts,
    build_attacked_outcome,
    build_certificate_outcome,
    build_clean_outcome,
    build_error_outcome,
    build_failed_attack_outcome,
    build_proven_outcome,
    hash_image,
)
from robustbench_local.evaluation.harness.verify import Predictions, VerificationResult
from robustbench_local.store.records import OutcomeRecord
from robustbench_local.threats.threat_model import ThreatModel

IMAGES = torch.arange(24).view(2, 3, 2, 2) / 24
DATA = Dataset(
    images=IMAGES, labels=torch.tensor([0, 2]), ids=("a", "b"), class_names=("x", "y", "z"), name="two"
)
HASHES = [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in IMAGES]
UNTARGETED, TARGETED = ThreatModel(norm="Linf", eps=0.1), ThreatModel(norm="Linf", eps=0.1, targets=(1,))


def predict(prediction, correct, margin, fragile, rejected=False):
    """Predictions of two images; the first one's are others, so that a wrong row is noticed."""
    return Predictions(
        prediction=torch.tensor([1, prediction]),
        correct=torch.tensor([not correct, correct]),
        margin=torch.tensor([9.0, margin]),
        fragile=torch.tensor([not fragile, fragile]),
        rejected=torch.tensor([not rejected, rejected]),
    )


CLEAN = OutcomeRecord(
    cell="cell", position=7, image="b", label=2, clean_prediction=2, adversarial_prediction=2,
    clean_correct=True, broken=False, moved_elsewhere=False, margin=0.5, fragile=True, linf=0.0, l2=0.0,
    l1=0.0, l0=0.0, broken_8bit=None, forward_passes=3, backward_passes=0, seconds=0.0, status="ok",
    error=None, original_hash=HASHES[1], adversarial_hash=HASHES[1],
)  # fmt: skip
WRONG = replace(
    CLEAN, clean_prediction=0, adversarial_prediction=0, clean_correct=False, status="clean-wrong"
)
NON_FINITE = replace(
    WRONG, clean_prediction=None, adversarial_prediction=None, margin=None, fragile=False,
    status="non-finite", error="the model's logits are NaN or infinite",
)  # fmt: skip


@pytest.mark.parametrize(
    ("predictions", "record"),
    [
        (predict(2, True, 0.5, True), CLEAN),
        (predict(0, False, 0.5, True), WRONG),
        (predict(0, False, 0.5, False), replace(WRONG, fragile=False)),
        (predict(-1, False, float("nan"), False), NON_FINITE),
        (
            predict(3, False, 0.5, True, rejected=True),
            replace(WRONG, clean_prediction=3, adversarial_prediction=3, abstained=True),
        ),
    ],
)
def test_a_clean_image(predictions, record):
    assert build_clean_outcome("cell", 7, DATA, 1, predictions, passes=3) == record


def test_one_pass_unless_several_are_told():
    record = build_clean_outcome("cell", 7, DATA, 1, predict(2, True, 0.5, True))
    assert record == replace(CLEAN, forward_passes=1)


def test_a_proven_image_has_no_margin_after_an_attack():
    assert build_proven_outcome(CLEAN) == replace(CLEAN, certified=True, margin=None, fragile=False)


def verified(prediction, broken, reason=None, eight=None):
    change = torch.tensor([0.0, 0.1])
    return VerificationResult(
        candidates=IMAGES.flip(0),
        rejection_reasons=("another", reason),
        predictions=predict(prediction, False, -0.25, False, rejected=prediction == 3),
        broken=torch.tensor([not broken, broken]),
        broken_8bit=(None, eight),
        linf=change,
        l2=2 * change,
        l1=3 * change,
        l0=50 * change,
        draws=torch.tensor([9, 5]),
        successful_draws=torch.tensor([8, 4]),
        broken_fixed_draw=(broken, not broken),
    )


def attacked(threat, stage="square", **given):
    return build_attacked_outcome(CLEAN, verified(**given), 1, threat, (10, 4), stage)


AFTER = replace(
    CLEAN, adversarial_prediction=1, broken=True, margin=-0.25, fragile=False,
    linf=float(torch.tensor(0.1)), l2=float(2 * torch.tensor(0.1)), l1=float(3 * torch.tensor(0.1)), l0=5.0,
    broken_8bit=True, forward_passes=13, backward_passes=4, adversarial_hash=HASHES[0], stage="square",
    draws=5, successful_draws=4, broken_fixed_draw=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("threat", "given", "changes"),
    [
        (UNTARGETED, {"prediction": 1, "broken": True, "eight": True}, {}),
        (UNTARGETED, {"prediction": 1, "broken": True, "eight": False}, {"broken_8bit": False}),
        (UNTARGETED, {"prediction": 2, "broken": False}, {"adversarial_prediction": 2}),
        (UNTARGETED, {"prediction": 0, "broken": False}, {"adversarial_prediction": 0}),
        (TARGETED, {"prediction": 1, "broken": True, "eight": True}, {}),
        (TARGETED, {"prediction": 2, "broken": False}, {"adversarial_prediction": 2}),
        (
            TARGETED,
            {"prediction": 0, "broken": False},
            {"adversarial_prediction": 0, "moved_elsewhere": True},
        ),
        (TARGETED, {"prediction": 3, "broken": False}, {"adversarial_prediction": 3, "abstained": True}),
    ],
)
def test_an_attacked_image(threat, given, changes):
    lost = {"broken": False, "broken_8bit": None, "stage": "", "broken_fixed_draw": True}
    lost = {} if given["broken"] else lost
    assert attacked(threat, **given) == replace(AFTER, **lost, **changes)


def test_an_attack_without_stages_names_none():
    record = build_attacked_outcome(
        CLEAN, verified(prediction=1, broken=True, eight=True), 1, UNTARGETED, (10, 4)
    )
    assert record == replace(AFTER, stage="")


def test_a_rejected_candidate_keeps_its_reason():
    record = attacked(UNTARGETED, prediction=2, broken=False, reason="leaves the ball")
    assert (record.status, record.error, record.broken) == ("rejected", "leaves the ball", False)


@pytest.mark.parametrize("threat", [UNTARGETED, TARGETED])
def test_an_answer_under_attack_that_is_not_finite(threat):
    record = attacked(threat, prediction=-1, broken=True)
    assert (record.status, record.error) == ("non-finite", "the model's logits are NaN or infinite")
    assert (record.adversarial_prediction, record.margin, record.broken) == (None, None, True)
    assert not record.moved_elsewhere
    assert not attacked(threat, prediction=-1, broken=False).moved_elsewhere


def test_gradient_counts():
    counts = GradientCounts(
        steps=9, nonfinite_entries=5, nonfinite_steps=4, zero_steps=3, unconfirmed_steps=2
    )
    assert add_gradient_counts(CLEAN, counts) == replace(
        CLEAN, gradient_steps=9, nonfinite_gradient_entries=5, nonfinite_gradient_steps=4,
        zero_gradient_steps=3, unconfirmed_gradient_steps=2,
    )  # fmt: skip


def test_an_attack_that_raises_leaves_an_error_that_is_neither_broken_nor_robust():
    assert build_failed_attack_outcome(CLEAN, "it raised", (10, 4), 2.5) == replace(
        CLEAN, adversarial_prediction=None, margin=None, fragile=False, forward_passes=13, backward_passes=4,
        seconds=2.5, status="error", error="it raised",
    )  # fmt: skip


def test_an_image_without_a_clean_prediction():
    assert build_error_outcome("cell", 7, DATA.select_images([1]), "it raised") == replace(
        NON_FINITE, forward_passes=0, status="error", error="it raised"
    )


def certified(claimed, verified, radius=0.5, margin=1.5):
    return CertifiedBatch(
        predictions=torch.tensor([1, claimed]),
        verified=torch.tensor([not verified, verified]),
        radius=torch.tensor([7.0, radius], dtype=torch.float64),
        margins=torch.tensor([8.0, margin], dtype=torch.float64),
    )


PROVEN = replace(
    CLEAN,
    margin=1.5,
    fragile=False,
    forward_passes=10,
    backward_passes=4,
    seconds=2.5,
    certified=True,
    radius=0.5,
)
RIGHT, OTHER, BROKEN = (
    predict(2, True, 0.5, False),
    predict(0, False, -1.0, False),
    predict(-1, False, 0.0, False),
)
NAN = float("nan")
READ = {"clean_prediction": 0, "adversarial_prediction": 0, "clean_correct": False, "certified": False}
NO_CLASS = {
    "clean_prediction": None,
    "adversarial_prediction": None,
    "clean_correct": False,
    "certified": False,
}
REASON = "the proof is about class {}, which the classifier does not read"


@pytest.mark.parametrize(
    ("given", "clean", "changes"),
    [
        ((2, True), None, {}),
        ((2, True), RIGHT, {}),
        ((2, False), None, {"certified": False}),
        ((2, False), RIGHT, {"certified": False}),
        ((2, True, NAN, NAN), RIGHT, {"radius": None, "margin": None}),
        ((0, False), None, {**READ, "status": "clean-wrong"}),
        ((0, False), OTHER, {**READ, "status": "clean-wrong"}),
        ((-1, False), None, {**NO_CLASS, "abstained": True}),
        ((-1, False), RIGHT, {"certified": False, "abstained": True}),
        ((2, True), OTHER, {**READ, "status": "rejected", "error": REASON.format(2)}),
        ((0, True), None, {**READ, "status": "rejected", "error": REASON.format(0)}),
        (
            (2, True),
            BROKEN,
            {**NO_CLASS, "status": "non-finite", "error": "the model's logits are NaN or infinite"},
        ),
    ],
)
def test_an_image_that_a_certificate_ran_on(given, clean, changes):
    record = build_certificate_outcome("cell", 7, DATA, 1, certified(*given), clean, (10, 4), 2.5)
    assert record == replace(PROVEN, **changes)


def test_the_hash_is_that_of_the_values_and_not_of_their_place_in_memory():
    image = IMAGES[1]
    turned = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert hash_image(turned) == hash_image(image) == HASHES[1]
    assert hash_image(image.clone().requires_grad_()) == HASHES[1]
    assert hash_image(image + 1e-7) != HASHES[1]
