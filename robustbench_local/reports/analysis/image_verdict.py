"""Verdict and prediction of one attack on one image."""

from __future__ import annotations

from typing import NamedTuple

from robustbench_local.store import OutcomeRecord


class ImagePrediction(NamedTuple):
    """The true class of an image and the class that is predicted in the end."""

    final: int | None
    """Predicted class of the verified candidate; of the clean image where there is none. None if the output
    is not finite."""
    label: int
    """True class."""


class ImageVerdict(NamedTuple):
    """The verdict of one attack on one image."""

    clean_correct: bool
    """Correctly classified without attack."""
    broken: bool
    """Correctly classified clean and misclassified under attack."""
    robust: bool
    """Correctly classified clean, without a successful attack and without an error."""

    @property
    def is_known(self) -> bool:
        """Whether the attack completed; an image on which it raised is neither broken nor robust."""
        return self.broken or self.robust or not self.clean_correct


class TwinVerdict(NamedTuple):
    """What the float twin of a model answers to an image, beside the model itself."""

    clean_correct: bool
    """The twin classifies the clean image correctly."""
    robust: bool
    """So it does, and neither the attack on the twin nor the model's candidate succeeds on it."""
    same_clean_label: bool
    """Model and twin give the clean image the same label."""
    same_adversarial_label: bool
    """They give the model's last candidate the same label."""
    clean_difference: float | None
    """Largest absolute difference of their outputs on the clean image; None if unknown."""
    adversarial_difference: float | None
    """The same on the model's last candidate."""
    phase: str
    """The phase of the search that found the success; empty without one."""
    passes: tuple[int, int]
    """Forward and backward passes on the twin."""


def build_twin_verdict(row: OutcomeRecord) -> TwinVerdict | None:
    """Build the verdict on the twin from an outcome; None without a twin, or if its attack raised."""
    if row.twin_clean_correct is None or row.status == "error":
        return None
    return TwinVerdict(
        clean_correct=row.twin_clean_correct,
        robust=row.twin_clean_correct and not row.twin_broken,
        same_clean_label=row.twin_clean_prediction == row.clean_prediction,
        same_adversarial_label=row.twin_prediction == row.adversarial_prediction,
        clean_difference=row.clean_difference,
        adversarial_difference=row.adversarial_difference,
        phase=row.search_phase,
        passes=(row.twin_forward_passes, row.twin_backward_passes),
    )
