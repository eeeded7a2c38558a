"""What comes of a training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Accuracy on the validation images; the better model has the higher ``rank``.

    Attributes:
        epoch: Counted from 1.
        clean: Share of images right.
        robust: Share right under PGD at the full radius; None for ordinary training.
    """

    epoch: int
    clean: float
    robust: float | None

    @property
    def rank(self) -> float:
        """Early stopping keeps the epoch where this is highest."""
        return self.clean if self.robust is None else self.robust


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Attributes:
        state: The averaged weights of the best epoch, as the network's ``state_dict`` has them.
        best: Where and how well they did on the validation images.
        seconds: Time spent training, over all interruptions.
    """

    state: dict[str, Tensor]
    best: Score
    seconds: float
