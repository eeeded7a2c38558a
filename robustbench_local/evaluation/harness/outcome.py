"""Conversion of tensors to the outcome record of each image (trust invariants V5, V7, V14, V15)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from torch import Tensor

from robustbench_local.certification.base import CertifiedBatch
from robustbench_local.classifier.pass_counter import GradientCounts
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.verify import Predictions, VerificationResult
from robustbench_local.store.records import OutcomeRecord, OutcomeStatus
from robustbench_local.threats.threat_model import ThreatModel

_NON_FINITE_MESSAGE = "the model's logits are NaN or infinite"


def build_clean_outcome(
    cell: str, position: int, data: Dataset, row: int, clean: Predictions, *, passes: int = 1
) -> OutcomeRecord:
    """Build the record of an image before any attack; final if the clean image is misclassified.

    Args:
        cell: Key of the cell.
        position: Position of the image in the cell.
        data: The batch.
        row: Row of the image in the batch.
        clean: The classifier's predictions on the batch.
        passes: Passes of the prediction: 1, or the number of draws of a randomized classifier.

    Returns:
        A record without any perturbation.
    """
    prediction = get_class_index(clean.prediction[row])
    status: OutcomeStatus = "ok" if clean.correct[row] else "clean-wrong"
    mark = hash_image(data.images[row])
    return OutcomeRecord(
        cell=cell,
        position=position,
        image=data.ids[row],
        label=int(data.labels[row]),
        clean_prediction=prediction,
        adversarial_prediction=prediction,
        clean_correct=bool(clean.correct[row]),
        broken=False,
        moved_elsewhere=False,
        margin=None if prediction is None else float(clean.margin[row]),
        fragile=bool(clean.fragile[row]),
        linf=0.0,
        l2=0.0,
        l1=0.0,
        l0=0.0,
        broken_8bit=None,
        forward_passes=passes,
        backward_passes=0,
        seconds=0.0,
        status=status if prediction is not None else "non-finite",
        error=None if prediction is not None else _NON_FINITE_MESSAGE,
        original_hash=mark,
        adversarial_hash=mark,
        abstained=bool(clean.rejected[row]),
    )


def build_proven_outcome(record: OutcomeRecord) -> OutcomeRecord:
    """Build the record of an image that is not attacked, because it is proven robust.

    The margin after an attack is unknown.
    """
    return replace(record, certified=True, margin=None, fragile=False)


def build_attacked_outcome(
    record: OutcomeRecord,
    result: VerificationResult,
    row: int,
    threat: ThreatModel,
    passes: tuple[int, int],
    stage: str = "",
) -> OutcomeRecord:
    """Build the record of an attacked image with its verdict.

    Args:
        record: The record of the clean image.
        result: Verification results of the attacked images.
        row: Row of this image among them.
        threat: Budget and goal.
        passes: Forward and backward passes of the attack and the harness on this image.
        stage: The stage of an ensemble that found the candidate, if the attack has stages.

    Returns:
        The complete record except for the seconds.
    """
    prediction = get_class_index(result.predictions.prediction[row])
    reason, broken = result.rejection_reasons[row], bool(result.broken[row])
    status: OutcomeStatus = "ok" if reason is None else "rejected"
    return replace(
        record,
        adversarial_prediction=prediction,
        broken=broken,
        moved_elsewhere=bool(threat.targets)
        and not broken
        and not result.predictions.rejected[row]
        and prediction not in (None, record.label),
        margin=None if prediction is None else float(result.predictions.margin[row]),
        fragile=bool(result.predictions.fragile[row]),
        linf=float(result.linf[row]),
        l2=float(result.l2[row]),
        l1=float(result.l1[row]),
        l0=float(result.l0[row]),
        broken_8bit=result.broken_8bit[row],
        forward_passes=record.forward_passes + passes[0],
        backward_passes=record.backward_passes + passes[1],
        status=status if prediction is not None else "non-finite",
        error=reason if prediction is not None else _NON_FINITE_MESSAGE,
        adversarial_hash=hash_image(result.candidates[row]),
        abstained=bool(result.predictions.rejected[row]),
        stage=stage if broken else "",
        draws=int(result.draws[row]),
        successful_draws=int(result.successful_draws[row]),
        broken_fixed_draw=result.broken_fixed_draw[row] if result.broken_fixed_draw else None,
    )


def add_gradient_counts(record: OutcomeRecord, counts: GradientCounts) -> OutcomeRecord:
    """Add the gradient counts to the record of an attacked image."""
    return replace(
        record,
        gradient_steps=counts.steps,
        nonfinite_gradient_entries=counts.nonfinite_entries,
        nonfinite_gradient_steps=counts.nonfinite_steps,
        zero_gradient_steps=counts.zero_steps,
        unconfirmed_gradient_steps=counts.unconfirmed_steps,
    )


def build_failed_attack_outcome(
    record: OutcomeRecord, error: str, passes: tuple[int, int], seconds: float
) -> OutcomeRecord:
    """Build the record of a correctly classified image on which the attack or the model raised.

    Its final prediction is unknown: it is neither broken nor robust.

    Args:
        record: The record of the clean image.
        error: The error message.
        passes: Forward and backward passes before the error.
        seconds: Wall time before the error.
    """
    return replace(
        record,
        adversarial_prediction=None,
        margin=None,
        fragile=False,
        forward_passes=record.forward_passes + passes[0],
        backward_passes=record.backward_passes + passes[1],
        seconds=seconds,
        status="error",
        error=error,
    )


def build_certificate_outcome(
    cell: str,
    position: int,
    data: Dataset,
    row: int,
    certified: CertifiedBatch,
    clean: Predictions | None,
    passes: tuple[int, int],
    seconds: float,
) -> OutcomeRecord:
    """Build the record of an image that a certificate ran on.

    Args:
        cell: Key of the cell.
        position: Position of the image in the cell.
        data: The batch.
        row: Row of the image in the batch.
        certified: The certificate's result for the batch.
        clean: The harness's own predictions if the proof is about the same classifier; None where the proof
            is about another classifier, such as a smoothed one.
        passes: Forward and backward passes on this image.
        seconds: Its share of the batch's wall time.
    """
    claimed, label = get_class_index(certified.predictions[row]), int(data.labels[row])
    prediction, correct = claimed, claimed == label
    if clean is not None:
        prediction, correct = get_class_index(clean.prediction[row]), bool(clean.correct[row])
    margin, radius, proven = (
        float(certified.margins[row]),
        float(certified.radius[row]),
        bool(certified.verified[row]),
    )
    status: OutcomeStatus = "ok" if correct or claimed is None else "clean-wrong"
    error = None
    if clean is not None and prediction is None:
        status, error = "non-finite", _NON_FINITE_MESSAGE
    elif proven and not correct:
        status, error = "rejected", f"the proof is about class {claimed}, which the classifier does not read"
    mark = hash_image(data.images[row])
    return OutcomeRecord(
        cell=cell,
        position=position,
        image=data.ids[row],
        label=label,
        clean_prediction=prediction,
        adversarial_prediction=prediction,
        clean_correct=correct,
        broken=False,
        moved_elsewhere=False,
        margin=None if math.isnan(margin) else margin,
        fragile=False,
        linf=0.0,
        l2=0.0,
        l1=0.0,
        l0=0.0,
        broken_8bit=None,
        forward_passes=passes[0],
        backward_passes=passes[1],
        seconds=seconds,
        status=status,
        error=error,
        original_hash=mark,
        adversarial_hash=mark,
        certified=proven and correct,
        radius=None if math.isnan(radius) else radius,
        abstained=claimed is None,
    )


def build_error_outcome(cell: str, position: int, data: Dataset, error: str) -> OutcomeRecord:
    """Build the record of an image without even a clean prediction.

    Args:
        cell: Key of the cell.
        position: Position of the image in the cell.
        data: Just that image.
        error: The error message.
    """
    mark = hash_image(data.images[0])
    return OutcomeRecord(
        cell=cell,
        position=position,
        image=data.ids[0],
        label=int(data.labels[0]),
        clean_prediction=None,
        adversarial_prediction=None,
        clean_correct=False,
        broken=False,
        moved_elsewhere=False,
        margin=None,
        fragile=False,
        linf=0.0,
        l2=0.0,
        l1=0.0,
        l0=0.0,
        broken_8bit=None,
        forward_passes=0,
        backward_passes=0,
        seconds=0.0,
        status="error",
        error=error,
        original_hash=mark,
        adversarial_hash=mark,
    )


def hash_image(image: Tensor) -> str:
    """Return the first 16 hex digits of the SHA-256 of an image's fp32 bytes."""
    return hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def get_class_index(prediction: Tensor) -> int | None:
    """Return the class index, or None for the mark of an answer that is not finite."""
    return int(prediction) if int(prediction) >= 0 else None
