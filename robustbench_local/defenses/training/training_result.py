"""The results of a training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Accuracy on a set of images; the better model has the higher ``rank``.

    Attributes:
        epoch: Number of the epoch, from 1.
        clean: Clean accuracy.
        robust: Accuracy under the objective's adversary at the full radius; None for standard training.
    """

    epoch: int
    clean: float
    robust: float | None

    @property
    def rank(self) -> float:
        """Sort key of early stopping, which selects the epoch with the highest value."""
        return self.clean if self.robust is None else self.robust


@dataclass(frozen=True)
class EpochResult:
    """One point of the learning curves.

    Attributes:
        loss: Mean loss over the epoch's batches.
        learning_rate: Learning rate of the last step.
        seconds: Seconds since the start of the training, without interruptions.
        training: Score of the averaged weights on a fixed part of the training images, not augmented.
        validation: Score of the averaged weights on the validation images.
    """

    loss: float
    learning_rate: float
    seconds: float
    training: Score
    validation: Score


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        state: The averaged weights of the best epoch, as a ``state_dict`` of the module, on the CPU.
        best: Epoch and score of these weights on the validation images.
        seconds: Total training time in seconds, without interruptions.
        curves: One entry per epoch.
    """

    state: dict[str, Tensor]
    best: Score
    seconds: float
    curves: tuple[EpochResult, ...] = ()
