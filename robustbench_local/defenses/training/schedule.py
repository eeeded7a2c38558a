"""Schedules of a training: the learning rate, and the radius of an adversary."""

from __future__ import annotations

import math

from robustbench_local.defenses.recipes.base import Recipe


def compute_learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the rate at ``progress`` epochs: a linear rise to the peak, then the schedule's decay.

    Source: one-cycle after Smith 2018, arXiv:1803.09820; piecewise as in Rice et al. 2020, arXiv:2002.11569.
    """
    if progress < recipe.warmup_epochs:
        return recipe.learning_rate * (progress + 0.1) / (recipe.warmup_epochs + 0.1)
    if recipe.schedule == "piecewise":
        passed = sum(progress >= milestone * recipe.epochs for milestone in recipe.milestones)
        return recipe.learning_rate * 0.1**passed
    done = (progress - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.learning_rate * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def compute_warmup_share(progress: float, epochs: int) -> float:
    """Return the fraction of the full radius at ``progress`` epochs, which grows to 1 over ``epochs``."""
    return min(1.0, (progress + 1) / max(1, epochs))
