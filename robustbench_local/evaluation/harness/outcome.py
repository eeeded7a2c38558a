"""From tensors to records: what is written down about one image (trust invariants V5, V7, V14, V15)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from torch import Tensor

from robustbench_local.certification.base import Certified
from robustbench_local.classifier.pass_counter import GradientCounts
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.verify import Reading, Verified
from robustbench_local.store.records import OutcomeRecord, OutcomeStatus
from robustbench_local.threats.threat_model import ThreatModel

_NOT_FINITE = "the model's logits are NaN or infinite"


def untouched(
    cell: str, position: int, data: Dataset, row: int, clean: Reading, *, passes: int = 1
) -> OutcomeRecord:
    """The record of an image before any attack; it stays so if the clean image is read wrongly.

    Args:
        cell: Key of the cell.
        position: Place of the image in the cell.
        data: The batch.
        row: Row of the image in the batch.
        clean: The classifier's answers on the batch.
        passes: What the answer cost: 1, or the draws of a randomized classifier.

    Returns:
        A record without any change.
    """
    prediction = _class(clean.prediction[row])
    status: OutcomeStatus = "ok" if clean.correct[row] else "clean-wrong"
    mark = fingerprint(data.images[row])
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
        broken_8bit=None,
        forward_passes=passes,
        backward_passes=0,
        seconds=0.0,
        status=status if prediction is not None else "non-finite",
        error=None if prediction is not None else _NOT_FINITE,
        original_hash=mark,
        adversarial_hash=mark,
    )


def spared_outcome(record: OutcomeRecord) -> OutcomeRecord:
    """The record of an image that is not attacked, because it is proven to withstand; see `untouched`.

    Nothing is known of the margin that an attack would have left.
    """
    return replace(record, certified=True, margin=None, fragile=False)


def judged(
    record: OutcomeRecord,
    verified: Verified,
    place: int,
    threat: ThreatModel,
    passes: tuple[int, int],
    stage: str = "",
) -> OutcomeRecord:
    """The record of an attacked image, with the harness's verdict.

    Args:
        record: The record of the untouched image.
        verified: Verdicts on the attacked images.
        place: Row of this image among them.
        threat: Budget and goal.
        passes: Forward and backward passes of the attack and the harness on this image.
        stage: The stage of an ensemble that found the candidate, if the attack has stages.

    Returns:
        The completed record, seconds aside.
    """
    prediction = _class(verified.reading.prediction[place])
    reason, broken = verified.reasons[place], bool(verified.broken[place])
    status: OutcomeStatus = "ok" if reason is None else "rejected"
    return replace(
        record,
        adversarial_prediction=prediction,
        broken=broken,
        moved_elsewhere=bool(threat.targets) and not broken and prediction not in (None, record.label),
        margin=None if prediction is None else float(verified.reading.margin[place]),
        fragile=bool(verified.reading.fragile[place]),
        linf=float(verified.linf[place]),
        l2=float(verified.l2[place]),
        l1=float(verified.l1[place]),
        broken_8bit=verified.broken_8bit[place],
        forward_passes=record.forward_passes + passes[0],
        backward_passes=record.backward_passes + passes[1],
        status=status if prediction is not None else "non-finite",
        error=reason if prediction is not None else _NOT_FINITE,
        adversarial_hash=fingerprint(verified.candidates[place]),
        stage=stage if broken else "",
    )


def with_gradients(record: OutcomeRecord, counts: GradientCounts) -> OutcomeRecord:
    """The record of an attacked image, with what was seen of its gradients."""
    return replace(
        record,
        gradient_steps=counts.steps,
        nonfinite_gradient_entries=counts.nonfinite_entries,
        nonfinite_gradient_steps=counts.nonfinite_steps,
        zero_gradient_steps=counts.zero_steps,
        unconfirmed_gradient_steps=counts.unconfirmed_steps,
    )


def attack_failed(record: OutcomeRecord, line: str, passes: tuple[int, int], seconds: float) -> OutcomeRecord:
    """The record of an image that was read correctly, and on which the attack or the model then raised.

    What the image would have been read as in the end is not known: it is neither broken nor robust.

    Args:
        record: The record of the untouched image.
        line: What was raised.
        passes: Forward and backward passes until then.
        seconds: Wall time until then.
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
        error=line,
    )


def certified_outcome(
    cell: str,
    position: int,
    data: Dataset,
    row: int,
    found: Certified,
    clean: Reading | None,
    passes: tuple[int, int],
    seconds: float,
) -> OutcomeRecord:
    """The record of an image that a certificate was asked about.

    Args:
        cell: Key of the cell.
        position: Place of the image in the cell.
        data: The batch.
        row: Row of the image in the batch.
        found: What was proven about the batch.
        clean: The harness's own reading where the proof is about the classifier that it reads; None where
            the proof is about another classifier, such as a smoothed one.
        passes: Forward and backward passes on this image.
        seconds: Its share of the batch's wall time.
    """
    claimed, label = _class(found.predictions[row]), int(data.labels[row])
    prediction, correct = claimed, claimed == label
    if clean is not None:
        prediction, correct = _class(clean.prediction[row]), bool(clean.correct[row])
    margin, radius, proven = float(found.margins[row]), float(found.radius[row]), bool(found.verified[row])
    status: OutcomeStatus = "ok" if correct or claimed is None else "clean-wrong"
    error = None
    if clean is not None and prediction is None:
        status, error = "non-finite", _NOT_FINITE
    elif proven and not correct:
        status, error = "rejected", f"the proof is about class {claimed}, which the classifier does not read"
    mark = fingerprint(data.images[row])
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


def failed(cell: str, position: int, data: Dataset, line: str) -> OutcomeRecord:
    """The record of an image of which nothing is known, since it could not even be read.

    Args:
        cell: Key of the cell.
        position: Place of the image in the cell.
        data: Just that image.
        line: What was raised.
    """
    mark = fingerprint(data.images[0])
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
        broken_8bit=None,
        forward_passes=0,
        backward_passes=0,
        seconds=0.0,
        status="error",
        error=line,
        original_hash=mark,
        adversarial_hash=mark,
    )


def fingerprint(image: Tensor) -> str:
    """First 16 hex digits of the SHA-256 of an image's fp32 bytes."""
    return hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _class(prediction: Tensor) -> int | None:
    """A class index, or None for the mark of an answer that is not finite."""
    return int(prediction) if int(prediction) >= 0 else None
