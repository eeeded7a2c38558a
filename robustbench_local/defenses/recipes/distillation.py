"""Defensive distillation: training on the softened outputs of another network.

At test time the temperature is 1 and the logits are T times as large as usual. The softmax saturates, and in
float32 the gradient of the cross-entropy vanishes. Attacks on the cross-entropy then fail because of gradient
masking, while attacks on the logits succeed on all images (Carlini and Wagner 2016, arXiv:1607.04311). The
recipe exists to demonstrate this.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.base import Recipe, check_condition
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.randomness import derive_seed


@dataclass(frozen=True, kw_only=True)
class TemperedTraining(Recipe):
    """Cross-entropy with the labels at a temperature, as used for the teacher of a distillation.

    Attributes:
        temperature: Divisor of the logits before the softmax, at least 1; in training only.
    """

    method = "tempered"

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.temperature >= 1, "temperature must be at least 1")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy at the temperature."""
        return _TemperedObjective(context, self)


@dataclass(frozen=True, kw_only=True)
class Distillation(TemperedTraining):
    """Defensive distillation: a teacher learns the labels, then a student learns the teacher's probabilities.

    Both have the same architecture, hyperparameters and temperature.

    Attributes:
        teacher: An existing classifier as the teacher, trained at the temperature; by default a teacher is
            trained.

    Source: Papernot et al. 2016, "Distillation as a defense to adversarial perturbations against deep neural
    networks", arXiv:1511.04508, sec. IV.
    """

    method = "distillation"

    teacher: str = ""

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy with the teacher's probabilities at the temperature."""
        return _DistillationObjective(context, self)

    @property
    def teacher_recipe(self) -> TemperedTraining:
        """The recipe of the teacher."""
        shared = {field.name: getattr(self, field.name) for field in fields(TemperedTraining)}
        return TemperedTraining(**shared)


def compute_tempered_loss(
    logits: Tensor, targets: Tensor, temperature: float, smoothing: float = 0
) -> Tensor:
    """Compute the cross-entropy of softened probabilities, times the temperature.

    Gradients with respect to the logits shrink as 1 / T. The factor restores their size at T = 1, so that a
    learning rate for standard training is suitable here too.

    Args:
        logits: (N, K).
        targets: Labels (N,), or probabilities (N, K).
        temperature: T.
        smoothing: Share of the target spread over all classes.

    Returns:
        Mean over the batch.
    """
    softened = logits / temperature
    return temperature * nn.functional.cross_entropy(softened, targets, label_smoothing=smoothing)


class _TemperedObjective(TrainingObjective):
    def __init__(self, context: TrainingContext, recipe: TemperedTraining) -> None:
        super().__init__(context)
        self._temperature, self._smoothing = recipe.temperature, recipe.label_smoothing

    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        logits = self.context.module(batch.images)
        return compute_tempered_loss(logits, batch.labels, self._temperature, self._smoothing)


class _DistillationObjective(TrainingObjective):
    """Trains the teacher at the first batch, unless a checkpoint contains one.

    Until the student's first checkpoint contains the teacher, the teacher has a checkpoint of its own beside
    it.
    """

    def __init__(self, context: TrainingContext, recipe: Distillation) -> None:
        super().__init__(context)
        self._recipe = recipe
        self._teacher = context.load_teacher(recipe.teacher) if recipe.teacher else None
        self._teacher_network = copy.deepcopy(context.module)

    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        if self._teacher is None:
            self._teacher = self._train_teacher()
        temperature = self._recipe.temperature
        with torch.no_grad():
            probabilities = (self._teacher(batch.images) / temperature).softmax(dim=1)
        logits = self.context.module(batch.images)
        return compute_tempered_loss(logits, probabilities, temperature)

    def _train_teacher(self) -> nn.Module:
        context = self.context
        context.report(f"training the teacher at temperature {self._recipe.temperature:g}")
        trained = train(
            self._teacher_network,
            self._recipe.teacher_recipe,
            context.training,
            context.validation,
            seed=derive_seed(context.seed, "teacher"),
            checkpoint=self._teacher_checkpoint,
            report=lambda line: context.report(f"teacher: {line}"),
            device=context.device,
            extra_identity=context.extra_identity,
        )
        self._teacher_network.load_state_dict(trained.state)
        context.report("training the student")
        return self._teacher_network.eval().requires_grad_(False)

    @property
    def _teacher_checkpoint(self) -> Path | None:
        """File of the teacher's training checkpoint."""
        beside = self.context.checkpoint
        return None if beside is None else beside.with_name(f"{beside.name}.teacher")

    @property
    def _has_trained_teacher(self) -> bool:
        return self._teacher is self._teacher_network

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of a teacher that was trained in this run."""
        return {"teacher": self._teacher_network.state_dict()} if self._has_trained_teacher else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the teacher, so that it is not trained again."""
        if "teacher" in state:
            self._teacher_network.load_state_dict(state["teacher"])
            self._teacher = self._teacher_network.eval().requires_grad_(False)

    def remove_temporary_files(self) -> None:
        """Remove the teacher's checkpoint, which the student's checkpoint now contains."""
        if self._has_trained_teacher and self._teacher_checkpoint is not None:
            self._teacher_checkpoint.unlink(missing_ok=True)
