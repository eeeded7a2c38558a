"""What comes of a training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Accuracy on some images; the better model has the higher ``rank``.

    Attributes:
        epoch: Counted from 1.
        clean: Share of images right.
        robust: Share right under the objective's adversary at the full radius; None for ordinary training.
    """

    epoch: int
    clean: float
    robust: float | None

    @property
    def rank(self) -> float:
        """Early stopping keeps the epoch where this is highest."""
        return self.clean if self.robust is None else self.robust


@dataclass(frozen=True)
class EpochResult:
    """One point of the learning curves.

    Attributes:
        loss: Mean over the epoch's batches.
        learning_rate: Of its last step.
        seconds: Since the training began, interruptions left out.
        training: Averaged weights on a fixed part of the training images, not augmented.
        validation: Averaged weights on the validation images.
    """

    loss: float
    learning_rate: float
    seconds: float
    training: Score
    validation: Score


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training.

    Attributes:
        state: The averaged weights of the best epoch, as the module's ``state_dict`` has them, on the CPU.
        best: Where and how well they did on the validation images.
        seconds: Time spent training, over all interruptions.
        curves: One entry an epoch.
    """

    state: dict[str, Tensor]
    best: Score
    seconds: float
    curves: tuple[EpochResult, ...] = ()
