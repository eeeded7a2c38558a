"""The loss of a recipe, and the adversary that selects the best epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipes.training_pgd import frozen_evaluation_mode
from robustbench_local.defenses.training.memory_split import MemorySplit


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """The images of one step.

    Attributes:
        images: Augmented images, (N, C, H, W) in [0, 1], on the device.
        labels: Labels, (N,), on the device.
        progress: Completed epochs, fractional.
        generator: Generator of all random numbers of the step, on the CPU.
    """

    images: Tensor
    labels: Tensor
    progress: float
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """The parts of a training that its objective needs.

    Attributes:
        module: The network in training: images in [0, 1] to logits.
        training: All training images.
        validation: The images that select the best epoch.
        steps_per_epoch: Batches per epoch.
        device: Device of the module.
        seed: Seed of the training.
        load_teacher: Loads a classifier by its name, as a frozen network in evaluation mode, on ``device``.
        report: Prints a line for the user.
        checkpoint: File of the checkpoint written after each epoch, or None.
        extra_identity: Further identity that the checkpoint has to match; see `train`.
        memory_split: Gives the networks fewer images at once where memory runs out.
    """

    module: nn.Module
    training: Dataset
    validation: Dataset
    steps_per_epoch: int
    device: torch.device
    seed: int
    load_teacher: Callable[[str], nn.Module]
    report: Callable[[str], None]
    checkpoint: Path | None = None
    extra_identity: Mapping[str, str] = field(default_factory=dict)
    memory_split: MemorySplit = field(default_factory=MemorySplit)


class TrainingObjective(ABC):
    """The loss of a recipe, for one training.

    Args:
        context: The training.

    Attributes:
        replays: Steps of the loop on each batch.
        robust_metric: Name of the accuracy that `is_robust` measures, for lines of progress.
    """

    replays: int = 1
    robust_metric: str = "robust"

    def __init__(self, context: TrainingContext) -> None:
        self.context = context

    @abstractmethod
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of this batch, a scalar; the loop runs the backward pass and the step.

        The module is in training mode.
        """

    def build_examples(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return the adversarial examples that select the best epoch; None selects by clean accuracy.

        Args:
            module: The averaged weights, in evaluation mode.
            images: (N, C, H, W) in [0, 1], on the device; not augmented.
            labels: (N,).
        """
        return None

    def is_robust(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return which images are robust, (N,) boolean: correctly classified under `build_examples`.

        Args:
            module: As for `build_examples`.
            images: As for `build_examples`.
            labels: (N,).

        Returns:
            None if clean accuracy selects the epoch.
        """
        examples = self.build_examples(module, images, labels)
        if examples is None:
            return None
        with frozen_evaluation_mode(module), torch.no_grad():
            right: Tensor = module(examples).argmax(dim=1) == labels
        return right

    def check_collapse(self, images: Tensor, labels: Tensor) -> None:  # noqa: B027 - most have nothing to watch
        """Check for a collapse after each epoch, on validation images.

        Raises:
            ModelError: If the training has collapsed and would not recover.
        """

    def forget_failed_step(self) -> None:  # noqa: B027 - most keep nothing
        """Undo what `compute_loss` and its backward pass have stored: memory ran out, and both come again."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this objective for a checkpoint: tensors and numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most keep nothing
        """Restore the state that `state_dict` returned."""

    def remove_temporary_files(self) -> None:  # noqa: B027 - most have nothing to tidy up
        """Remove files that are needed only until the checkpoint with `state_dict` is on disk."""
