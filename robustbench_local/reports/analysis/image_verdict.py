"""Verdict and prediction of one attack on one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


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


def build_twin_verdict(outcome: Mapping[str, Any]) -> TwinVerdict | None:
    """Build the verdict on the twin from an outcome; None without a twin, or if its attack raised.

    Args:
        outcome: Field of the outcome's record -> value.
    """
    correct = outcome["twin_clean_correct"]
    if correct is None or outcome["status"] == "error":
        return None
    return TwinVerdict(
        clean_correct=correct,
        robust=correct and not outcome["twin_broken"],
        same_clean_label=outcome["twin_clean_prediction"] == outcome["clean_prediction"],
        same_adversarial_label=outcome["twin_prediction"] == outcome["adversarial_prediction"],
        clean_difference=outcome["clean_difference"],
        adversarial_difference=outcome["adversarial_difference"],
        phase=outcome["search_phase"],
        passes=(outcome["twin_forward_passes"], outcome["twin_backward_passes"]),
    )
