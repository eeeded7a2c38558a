"""One training of a comparison or a search: trained, measured, and read again after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.training.checkpoint import load_checkpoint, save_checkpoint
from robustbench_local.defenses.training.initial_networks import InitialNetwork, build_teacher_loader
from robustbench_local.defenses.training.training_identity import describe_network, describe_training
from robustbench_local.defenses.training.training_result import EpochResult, Score, TrainingResult
from robustbench_local.evaluation.training.stability import (
    ATTACK_EPS,
    ATTACK_STEPS,
    CORRUPTIONS,
    FIGURES,
    SEVERITY,
    Stability,
    measure_stability,
)
from robustbench_local.evaluation.training.train_and_save import TrainingImages, build_classifier, fit

_RESULT_VERSION = f"1, {CORRUPTIONS} at {SEVERITY}, {ATTACK_STEPS} steps at {ATTACK_EPS}"
"""What a result holds."""


@dataclass(frozen=True, kw_only=True)
class TrialPlace:
    """Where a training runs, and whom it tells.

    Attributes:
        folder: Folder of the checkpoints and results.
        device: Device of the training.
        report: Prints a line.
        on_step: Called with (completed steps, total steps).
        base: Folder that relative paths start from.
        allow_code: Whether a Python file may be run.
    """

    folder: Path
    device: torch.device
    report: Callable[[str], None]
    on_step: Callable[[int, int], None] | None = None
    base: Path | None = None
    allow_code: bool = False


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A trained network.

    Attributes:
        trained: Its weights and curves.
        stability: Its results on the validation images.
        seed: The training's seed.
    """

    trained: TrainingResult = field(repr=False)
    stability: Stability = field(repr=False)
    seed: int


def run_trial(
    start: InitialNetwork,
    recipe: Recipe,
    images: TrainingImages,
    place: TrialPlace,
    *,
    name: str,
    seed: int,
    on_epoch: Callable[[EpochResult], None] = lambda _result: None,
) -> TrialResult:
    """Train a network and measure it on the validation images, or read what was measured before.

    Args:
        start: The network; it has the best weights afterwards.
        recipe: The hyper-parameters.
        images: The images; those of the test are not used.
        place: Where it runs.
        name: Name of its files.
        seed: The training's seed.
        on_epoch: See `train`.

    Raises:
        ConfigError: If there is a file of that name of another training.
        RobustbenchError: As `train` does.
    """
    finished, checkpoint = place.folder / f"{name}.result", place.folder / f"{name}.ckpt"
    identity = _describe_trial(start, recipe, images, place, seed)
    if finished.exists():
        result = _read_result(load_checkpoint(finished, identity), images, seed)
        start.module.load_state_dict(result.trained.state)
        start.module.to(place.device)
        place.report(f"{name}: trained before")
        return result
    trained = fit(
        start,
        recipe,
        images,
        seed=seed,
        device=place.device,
        checkpoint=checkpoint,
        report=place.report,
        on_step=place.on_step,
        on_epoch=on_epoch,
        base=place.base,
        allow_code=place.allow_code,
    )
    stability = measure_stability(build_classifier(start, images.validation, place.device), images.validation)
    save_checkpoint(finished, identity, _format_result(trained, stability))
    checkpoint.unlink(missing_ok=True)
    return TrialResult(trained=trained, stability=stability, seed=seed)


def _describe_trial(
    start: InitialNetwork, recipe: Recipe, images: TrainingImages, place: TrialPlace, seed: int
) -> dict[str, str]:
    """Return the identity that a stored result has to match."""
    identity = describe_training(
        start.module,
        recipe,
        images.training,
        images.validation,
        seed=seed,
        teacher=build_teacher_loader(
            place.device, place.base, allow_code=place.allow_code, num_classes=start.num_classes
        ),
    )
    return {**identity, "start": describe_network(start.module)["weights"], "result": _RESULT_VERSION}


def _format_result(trained: TrainingResult, stability: Stability) -> dict[str, Any]:
    """Return a result as tensors, numbers and strings."""
    return {
        "state": trained.state,
        "best": _list_score(trained.best),
        "seconds": trained.seconds,
        "curves": [
            [
                result.loss,
                result.learning_rate,
                result.seconds,
                _list_score(result.training),
                _list_score(result.validation),
            ]
            for result in trained.curves
        ],
        **{name: dict(getattr(stability, name)) for name in FIGURES},
    }


def _list_score(score: Score) -> list[Any]:
    return [score.epoch, score.clean, score.robust]


def _read_result(stored: dict[str, Any], images: TrainingImages, seed: int) -> TrialResult:
    curves = tuple(
        EpochResult(loss, rate, seconds, Score(*training), Score(*validation))
        for loss, rate, seconds, training, validation in stored["curves"]
    )
    return TrialResult(
        trained=TrainingResult(stored["state"], Score(*stored["best"]), stored["seconds"], curves),
        stability=Stability(
            **{name: stored[name] for name in FIGURES}, groups=images.validation.group_by_image
        ),
        seed=seed,
    )
