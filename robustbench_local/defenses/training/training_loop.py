"""The training loop: from a recipe, a network and images to reproducible weights.

The randomness of an epoch depends only on the seed and the epoch's number, and a checkpoint is written after
each epoch. An interrupted training therefore resumes with the same results.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.subsample import choose_images
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.recipes.training_objective import TrainingBatch, TrainingContext
from robustbench_local.defenses.recipes.training_pgd import frozen_evaluation_mode
from robustbench_local.defenses.training.checkpoint import load_checkpoint, save_checkpoint
from robustbench_local.defenses.training.epoch_order import draw_order
from robustbench_local.defenses.training.learner import Learner
from robustbench_local.defenses.training.memory_split import MemorySplit
from robustbench_local.defenses.training.training_identity import describe_training
from robustbench_local.defenses.training.training_result import EpochResult, Score, TrainingResult
from robustbench_local.errors import ConfigError, DataError, ModelError
from robustbench_local.randomness import derive_seed

_VALIDATION_BATCH_SIZE = 256
_MAX_SMALL_IMAGE_VALUES = 3 * 64 * 64
"""Maximum values of an image for which a whole validation batch fits into memory."""
_CURVE_IMAGES = 256
"""Training images for the training curves."""


def refuse_teacher(name: str) -> nn.Module:
    """Refuse to load a teacher in a training without a loader.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"the teacher {name!r} cannot be loaded", remedy="pass load_teacher to train()")


def train(
    module: nn.Module,
    recipe: Recipe,
    training: Dataset,
    validation: Dataset,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    report: Callable[[str], None] = lambda _line: None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochResult], None] = lambda _result: None,
    device: torch.device | str = "cpu",
    load_teacher: Callable[[str], nn.Module] = refuse_teacher,
    extra_identity: Mapping[str, str] | None = None,
) -> TrainingResult:
    """Train a module and select the epoch with the best result on the validation images.

    On CUDA the module and the images are channels_last, and the loss is computed in bfloat16 where autocast
    considers that safe; the metrics that select the epoch are computed in float32.

    Args:
        module: Images in [0, 1], (N, C, H, W), to logits (N, K); changed in place and moved to ``device``.
        recipe: The hyperparameters.
        training: Images and labels below K.
        validation: Other images; PGD accuracy on them selects the epoch of an adversarial training.
        seed: Seed of the order, the augmentation and the adversary's starts.
        checkpoint: File written after each epoch; if it exists and belongs to this training, training
            resumes.
        report: Prints a line of progress per epoch.
        on_step: Called with (completed steps, total steps) after each step.
        on_epoch: Called after each epoch and its checkpoint; what it raises ends the training.
        device: Device of the training.
        load_teacher: Loads the frozen network that a distillation names.
        extra_identity: Further identity that a checkpoint has to match, such as the initial weights of a
            fine-tuning.

    Returns:
        The best averaged weights.

    Raises:
        ModelError: If the loss is no longer finite, or the training collapses.
        DataError: If there are fewer training images than in a batch.
        ConfigError: If the checkpoint belongs to another training.
        ModelMemoryError: If memory runs out even with the smallest part of a batch; see `MemorySplit`.
    """
    target_device = torch.device(device)
    steps = _count_steps(training, recipe)
    cuda = target_device.type == "cuda"
    module.to(target_device, memory_format=torch.channels_last) if cuda else module.to(target_device)  # type: ignore[call-overload]
    split = MemorySplit(report)
    context = TrainingContext(
        module=module,
        training=training,
        validation=validation,
        steps_per_epoch=steps,
        device=target_device,
        seed=seed,
        load_teacher=functools.cache(lambda name: split.add_network(load_teacher(name))),
        report=report,
        checkpoint=checkpoint,
        extra_identity=extra_identity or {},
        memory_split=split,
    )
    objective = recipe.build_objective(context)
    learner = Learner(module, recipe, objective, mixed_precision=cuda, num_classes=training.num_classes)
    identity = describe_training(
        module, recipe, training, validation, seed=seed, teacher=context.load_teacher
    )
    identity |= context.extra_identity
    if checkpoint is not None and checkpoint.exists():
        learner.load_state_dict(load_checkpoint(checkpoint, identity))
        report(f"resumed after epoch {learner.epoch} of {recipe.epochs}")
    while learner.epoch < recipe.epochs and not learner.is_stalled:
        _run_epoch(learner, context, on_step or _ignore_step)
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity, learner.state_dict())
            learner.objective.remove_temporary_files()
        report(_format_progress(learner))
        on_epoch(learner.curves[-1])
    if learner.epoch < recipe.epochs:
        report(f"stopped: nothing better in {format_count(recipe.patience, 'epoch', 'epochs')}")
    return TrainingResult(learner.best_state, learner.best, learner.seconds, tuple(learner.curves))


def _count_steps(training: Dataset, recipe: Recipe) -> int:
    steps = len(training) // recipe.batch_size
    if steps == 0:
        raise DataError(
            f"{format_count(len(training), 'image')} {choose_form(len(training), 'is', 'are')} "
            "fewer than a batch "
            f"of {recipe.batch_size}",
            where=training.name,
            remedy="lower batch_size",
        )
    return steps


def _ignore_step(_done: int, _all: int) -> None:
    """Do nothing after a step."""


def _run_epoch(learner: Learner, context: TrainingContext, on_step: Callable[[int, int], None]) -> None:
    """Train for an epoch, measure it, and keep it if it is the best."""
    validation = context.validation
    started, before = time.perf_counter(), learner.seconds
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "epoch", learner.epoch))
    loss = _train_epoch(learner, context, generator, on_step)
    learner.epoch += 1
    size = min(_CURVE_IMAGES, len(validation), len(context.training))
    order = torch.Generator().manual_seed(derive_seed(context.seed, "curve"))
    rows = torch.randperm(len(context.training), generator=order)[:size]
    on_training = _measure_accuracy(
        learner, context, context.training.images[rows], context.training.labels[rows]
    )
    on_validation = _measure_accuracy(learner, context, validation.images, validation.labels)
    learner.seconds = before + time.perf_counter() - started
    rate = learner.optimizer.param_groups[-1]["lr"]
    learner.record_epoch(EpochResult(loss, rate, learner.seconds, on_training, on_validation))
    some = _select_watched_images(validation, context.seed)
    context.memory_split.run(
        lambda: learner.objective.check_collapse(
            some.images.to(context.device), some.labels.to(context.device)
        ),
        len(some),
    )


def _select_watched_images(validation: Dataset, seed: int) -> Dataset:
    """Select a batch of validation images of all classes; held-out images are sorted by class."""
    return validation.select_images(
        choose_images(validation.ids, validation.labels.tolist(), limit=_VALIDATION_BATCH_SIZE, seed=seed)
    )


def _train_epoch(
    learner: Learner,
    context: TrainingContext,
    generator: torch.Generator,
    on_step: Callable[[int, int], None],
) -> float:
    """Train for one pass in random order, without the incomplete last batch; return the mean loss."""
    recipe, training = learner.recipe, context.training
    augmentation = recipe.build_augmentation(training.class_names)
    is_balanced = recipe.class_sampling == "balanced"
    order = draw_order(training.labels, balanced=is_balanced, generator=generator)
    total = torch.zeros(())
    for step, rows in enumerate(
        torch.split(order[: context.steps_per_epoch * recipe.batch_size], recipe.batch_size)
    ):
        images, labels = training.images[rows].to(context.device), training.labels[rows]
        batch = TrainingBatch(
            images=_set_memory_layout(augmentation(images, labels, generator)),
            labels=labels.to(context.device),
            progress=learner.epoch + step / context.steps_per_epoch,
            generator=generator,
        )
        for _ in range(learner.objective.replays):
            loss = learner.step(batch).cpu()
            if not math.isfinite(loss):
                when = f"at epoch {learner.epoch + 1}, step {step + 1}"
                raise ModelError(
                    f"the loss or its gradient is {float(loss)} {when}",
                    where="training",
                    remedy="lower learning_rate, set gradient_clip, or check the images",
                )
        total += loss
        on_step(learner.epoch * context.steps_per_epoch + step + 1, recipe.epochs * context.steps_per_epoch)
    return float(total) / context.steps_per_epoch


def _set_memory_layout(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.is_cuda else images


def _measure_accuracy(learner: Learner, context: TrainingContext, images: Tensor, labels: Tensor) -> Score:
    """Measure the averaged weights' accuracy, clean and under the objective's adversary."""
    clean, robust, has_robust = 0, 0, False
    size = (
        _VALIDATION_BATCH_SIZE if images[0].numel() <= _MAX_SMALL_IMAGE_VALUES else learner.recipe.batch_size
    )
    for part, labels_part in zip(torch.split(images, size), torch.split(labels, size), strict=True):
        measure = partial(_count_right, learner, context.device, part, labels_part)
        right, still_right = context.memory_split.run(measure, len(part))
        clean += right
        if still_right is not None:
            has_robust = True
            robust += still_right
    return Score(learner.epoch, clean / len(images), robust / len(images) if has_robust else None)


def _count_right(
    learner: Learner, device: torch.device, images: Tensor, labels: Tensor
) -> tuple[int, int | None]:
    """Return how many images are correctly classified, and how many under the objective's adversary."""
    images, labels = _set_memory_layout(images.to(device)), labels.to(device)
    clean = _count_correct(learner.averaged, images, labels)
    is_robust = learner.objective.is_robust(learner.averaged, images, labels)
    return clean, None if is_robust is None else int(is_robust.sum())


@torch.no_grad()
def _count_correct(module: nn.Module, images: Tensor, labels: Tensor) -> int:
    with frozen_evaluation_mode(module):
        return int((module(images).argmax(dim=1) == labels).sum())


def _format_progress(learner: Learner) -> str:
    remaining_seconds = learner.seconds / learner.epoch * (learner.recipe.epochs - learner.epoch)
    epoch = learner.curves[-1]
    score = epoch.validation
    robust = "" if score.robust is None else f"  {learner.objective.robust_metric} {score.robust:.1%}"
    minutes, seconds = divmod(round(remaining_seconds), 60)
    done = f"epoch {learner.epoch}/{learner.recipe.epochs}  loss {epoch.loss:.3f}"
    return f"{done}  clean {score.clean:.1%}{robust}  {minutes} min {seconds:02d} s left"
