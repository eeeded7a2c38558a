"""Verdict and prediction of one attack on one image."""

from __future__ import annotations

from typing import NamedTuple


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
