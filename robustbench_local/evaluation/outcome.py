"""From tensors to records: what is written down about one image (trust invariants V5, V7, V14, V15)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from torch import Tensor

from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.verify import Reading, Verified
from robustbench_local.store.records import OutcomeRecord, OutcomeStatus
from robustbench_local.threat import ThreatModel

_NOT_FINITE = "the model's logits are NaN or infinite"


def untouched(cell: str, position: int, data: Dataset, row: int, clean: Reading) -> OutcomeRecord:
    """The record of an image before any attack; it stays so if the clean image is read wrongly.

    Args:
        cell: Key of the cell.
        position: Place of the image in the cell.
        data: The batch.
        row: Row of the image in the batch.
        clean: The classifier's answers on the batch.

    Returns:
        A record with one forward pass and no change.
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
        forward_passes=1,
        backward_passes=0,
        seconds=0.0,
        status=status if prediction is not None else "non-finite",
        error=None if prediction is not None else _NOT_FINITE,
        original_hash=mark,
        adversarial_hash=mark,
    )


def judged(
    record: OutcomeRecord, verified: Verified, place: int, threat: ThreatModel, passes: tuple[int, int]
) -> OutcomeRecord:
    """The record of an attacked image, with the harness's verdict.

    Args:
        record: The record of the untouched image.
        verified: Verdicts on the attacked images.
        place: Row of this image among them.
        threat: Budget and goal.
        passes: Forward and backward passes of the attack and the harness on this image.

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
    )


def failed(cell: str, position: int, data: Dataset, line: str) -> OutcomeRecord:
    """The record of an image on which the model or the attack raised; ``data`` holds just that image."""
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
