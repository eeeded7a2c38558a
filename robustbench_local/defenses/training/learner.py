"""The learner: weights, their average and the optimizer, one step at a time."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.recipes.training_objective import TrainingBatch, TrainingObjective
from robustbench_local.defenses.training.layer_groups import LayerGroups, frozen_backbone, group_layers
from robustbench_local.defenses.training.schedule import compute_learning_rate
from robustbench_local.defenses.training.training_result import EpochResult, Score


class Learner:
    """The state that a step changes and a checkpoint stores.

    Args:
        module: The network in training, on its device; changed in place.
        recipe: The hyperparameters.
        objective: The loss to minimize.
        mixed_precision: Whether the loss is computed in bfloat16 where that is safe.
        num_classes: Number of logits.

    Raises:
        ModelError: If the recipe treats the last layer apart, and none has one output for each class.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        objective: TrainingObjective,
        *,
        mixed_precision: bool,
        num_classes: int,
    ) -> None:
        self.module, self.recipe, self.objective = module, recipe, objective
        self.averaged = copy.deepcopy(module).eval().requires_grad_(False)
        has_groups = recipe.head_epochs > 0 or recipe.backbone_rate < 1
        self._groups = group_layers(module, num_classes) if has_groups else None
        self.optimizer = _build_optimizer(module, recipe, self._groups)
        self.epoch, self.seconds = 0, 0.0
        self.curves: list[EpochResult] = []
        self.best, self.best_state = Score(0, 0.0, None), self._copy_weights()
        self._uses_mixed_precision = mixed_precision
        self._split = objective.context.memory_split
        for network in (module, self.averaged):
            self._split.add_network(network)
        self._trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def step(self, batch: TrainingBatch) -> Tensor:
        """Take one step of the optimizer; return the loss, NaN after a non-finite weight gradient."""
        self.module.train()
        self._set_learning_rates(batch.progress)
        loss = self._split.run(
            partial(self._compute_gradients, batch),
            len(batch.images),
            generator=batch.generator,
            forget=self.objective.forget_failed_step,
        )
        slopes = [parameter.grad for parameter in self._trainable if parameter.grad is not None]
        sizes = torch.stack(torch._foreach_norm(slopes)) if slopes else loss.new_zeros(1)  # noqa: SLF001
        if self.recipe.gradient_clip:
            nn.utils.clip_grad_norm_(self._trainable, self.recipe.gradient_clip)
        self.optimizer.step()
        self._update_average()
        return loss + 0 * sizes.sum()

    def _compute_gradients(self, batch: TrainingBatch) -> Tensor:
        """Compute the loss, detached, and the gradients of the weights."""
        self.optimizer.zero_grad(set_to_none=True)
        is_frozen = self._groups is not None and batch.progress < self.recipe.head_epochs
        with frozen_backbone(self._groups) if self._groups and is_frozen else nullcontext():
            with torch.autocast(
                batch.images.device.type, dtype=torch.bfloat16, enabled=self._uses_mixed_precision
            ):
                loss = self.objective.compute_loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _set_learning_rates(self, progress: float) -> None:
        """Set the rate of each group of layers, the backbone's first where there are two."""
        rate = compute_learning_rate(self.recipe, progress)
        shares = (1.0,) if self._groups is None else (self.recipe.backbone_rate, 1.0)
        for group, share in zip(self.optimizer.param_groups, shares, strict=True):
            group["lr"] = share * rate

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the averaged weights and statistics towards the current ones."""
        current = self.module.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - self.recipe.ema_decay)
            else:
                value.copy_(current[name])

    def record_epoch(self, epoch: EpochResult) -> None:
        """Record the epoch, and the averaged weights if they are the best so far."""
        self.curves.append(epoch)
        if epoch.validation.rank >= self.best.rank:
            self.best, self.best_state = epoch.validation, self._copy_weights()

    @property
    def is_stalled(self) -> bool:
        """True if the last ``patience`` epochs brought nothing better than the ones before them."""
        ranks = [result.validation.rank for result in self.curves]
        patience = self.recipe.patience
        return 0 < patience <= len(ranks) - 1 - ranks.index(max(ranks)) if ranks else False

    def _copy_weights(self) -> dict[str, Tensor]:
        return {name: value.to("cpu", copy=True) for name, value in self.averaged.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state for resuming the training."""
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self.objective.state_dict(),
            "best": _convert_score(self.best),
            "best_state": self.best_state,
            "curves": [
                [
                    result.loss,
                    result.learning_rate,
                    result.seconds,
                    _convert_score(result.training),
                    _convert_score(result.validation),
                ]
                for result in self.curves
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.best, self.best_state = Score(*state["best"]), state["best_state"]
        self.curves = [
            EpochResult(loss, rate, seconds, Score(*training), Score(*validation))
            for loss, rate, seconds, training, validation in state["curves"]
        ]


def _convert_score(score: Score) -> list[Any]:
    return [score.epoch, score.clean, score.robust]


def _build_optimizer(module: nn.Module, recipe: Recipe, groups: LayerGroups | None) -> torch.optim.Optimizer:
    parameters: Any = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if groups is not None:
        parameters = [{"params": groups.backbone}, {"params": groups.head}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
