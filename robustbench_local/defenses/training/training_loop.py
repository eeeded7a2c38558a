"""The one training loop: a recipe, a network and images to weights that can be made again.

An epoch's randomness comes from the seed and the epoch's number alone, and a checkpoint is written after
each epoch, so an interrupted training goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_local.data.dataset import Dataset
from robustbench_local.data.subsample import choose_images
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.recipes.training_objective import Batch, Context
from robustbench_local.defenses.recipes.training_pgd import frozen
from robustbench_local.defenses.training.checkpoint import load_checkpoint, save_checkpoint
from robustbench_local.defenses.training.learner import Learner
from robustbench_local.defenses.training.training_identity import identify
from robustbench_local.defenses.training.training_result import Epoch, Score, Trained
from robustbench_local.errors import ConfigError, DataError, ModelError
from robustbench_local.randomness import seed_from

_VALIDATION_BATCH = 256
_SMALL = 3 * 64 * 64
"""Values of an image up to which a whole validation batch fits anywhere."""
_CURVE_IMAGES = 256
"""Training images that the training curves are measured on."""


def no_teacher(name: str) -> nn.Module:
    """The teacher of a training that was given no way to load one.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"there is no way to load the teacher {name!r} here", remedy="give train() a teacher")


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
    device: torch.device | str = "cpu",
    teacher: Callable[[str], nn.Module] = no_teacher,
    belongs: Mapping[str, str] | None = None,
) -> Trained:
    """Train a module and keep the epoch that does best on the validation images.

    On CUDA the module and the images are channels_last, and the loss is computed in bfloat16 where autocast
    finds that safe; the figures that choose the epoch are float32.

    Args:
        module: Images in [0, 1], (N, C, H, W), to logits (N, K); changed in place and moved to ``device``.
        recipe: How.
        training: Images and labels below K.
        validation: Other images; PGD accuracy on them decides where an adversarial training stops.
        seed: Of the order, the augmentation and the adversary's starts.
        checkpoint: Written after each epoch; if it is there and belongs to this training, it is resumed.
        report: Receives a line of progress an epoch.
        on_step: Called with (steps done, steps in all) after each step.
        device: Where to compute.
        teacher: Loads the frozen network that a distillation names.
        belongs: What else a checkpoint must agree with, such as the weights that a fine-tuning starts from.

    Returns:
        The best averaged weights.

    Raises:
        ModelError: If the loss is no longer finite, or the training collapses.
        DataError: If there are fewer training images than a batch takes.
        ConfigError: If the checkpoint belongs to another training.
    """
    place = torch.device(device)
    steps = _steps(training, recipe)
    cuda = place.type == "cuda"
    module.to(place, memory_format=torch.channels_last) if cuda else module.to(place)  # type: ignore[call-overload]
    context = Context(
        module=module,
        training=training,
        validation=validation,
        steps=steps,
        device=place,
        seed=seed,
        teacher=functools.cache(teacher),
        report=report,
        checkpoint=checkpoint,
        belongs=belongs or {},
    )
    learner = Learner(module, recipe, recipe.objective(context), mixed_precision=cuda)
    identity = identify(module, recipe, training, validation, seed=seed, teacher=context.teacher)
    identity |= context.belongs
    if checkpoint is not None and checkpoint.exists():
        learner.restore(load_checkpoint(checkpoint, identity))
        report(f"resumed after epoch {learner.epoch} of {recipe.epochs}")
    while learner.epoch < recipe.epochs:
        _run_epoch(learner, context, on_step or _ignore)
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity, learner.state())
            learner.objective.saved()
        report(_progress(learner))
    return Trained(learner.best_state, learner.best, learner.seconds, tuple(learner.curves))


def _steps(training: Dataset, recipe: Recipe) -> int:
    steps = len(training) // recipe.batch_size
    if steps == 0:
        raise DataError(
            f"{len(training)} images are fewer than a batch of {recipe.batch_size}",
            where=training.name,
            remedy="lower batch_size",
        )
    return steps


def _ignore(_done: int, _all: int) -> None:
    """Nobody listens."""


def _run_epoch(learner: Learner, context: Context, on_step: Callable[[int, int], None]) -> None:
    """Train for an epoch, measure it, and keep it if it is the best."""
    validation = context.validation
    started, before = time.perf_counter(), learner.seconds
    generator = torch.Generator().manual_seed(seed_from(context.seed, "epoch", learner.epoch))
    loss = _train_epoch(learner, context, generator, on_step)
    learner.epoch += 1
    size = min(_CURVE_IMAGES, len(validation), len(context.training))
    order = torch.Generator().manual_seed(seed_from(context.seed, "curve"))
    rows = torch.randperm(len(context.training), generator=order)[:size]
    on_training = _validate(learner, context, context.training.images[rows], context.training.labels[rows])
    on_validation = _validate(learner, context, validation.images, validation.labels)
    learner.seconds = before + time.perf_counter() - started
    rate = learner.optimizer.param_groups[0]["lr"]
    learner.keep(Epoch(loss, rate, learner.seconds, on_training, on_validation))
    some = _watched(validation, context.seed)
    learner.objective.watch(some.images.to(context.device), some.labels.to(context.device))


def _watched(validation: Dataset, seed: int) -> Dataset:
    """A batch of validation images of all classes; images that were held out are sorted by class."""
    return validation.select(
        choose_images(validation.ids, validation.labels.tolist(), limit=_VALIDATION_BATCH, seed=seed)
    )


def _train_epoch(
    learner: Learner, context: Context, generator: torch.Generator, on_step: Callable[[int, int], None]
) -> float:
    """One pass in random order, the incomplete last batch left out; the mean loss."""
    recipe, training = learner.recipe, context.training
    augmentation = recipe.augmentation(training.class_names)
    order = torch.randperm(len(training), generator=generator)
    total = torch.zeros(())
    for step, rows in enumerate(torch.split(order[: context.steps * recipe.batch_size], recipe.batch_size)):
        images, labels = training.images[rows].to(context.device), training.labels[rows]
        batch = Batch(
            images=_laid_out(augmentation(images, labels, generator)),
            labels=labels.to(context.device),
            progress=learner.epoch + step / context.steps,
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
        on_step(learner.epoch * context.steps + step + 1, recipe.epochs * context.steps)
    return float(total) / context.steps


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.is_cuda else images


def _validate(learner: Learner, context: Context, images: Tensor, labels: Tensor) -> Score:
    """Accuracy of the averaged weights, clean and under the objective's adversary."""
    clean, robust, attacked = 0, 0, False
    size = _VALIDATION_BATCH if images[0].numel() <= _SMALL else learner.recipe.batch_size
    for part, truth in zip(torch.split(images, size), torch.split(labels, size), strict=True):
        seen, right = _laid_out(part.to(context.device)), truth.to(context.device)
        clean += _right(learner.averaged, seen, right)
        withstood = learner.objective.withstands(learner.averaged, seen, right)
        if withstood is not None:
            attacked = True
            robust += int(withstood.sum())
    return Score(learner.epoch, clean / len(images), robust / len(images) if attacked else None)


@torch.no_grad()
def _right(module: nn.Module, images: Tensor, labels: Tensor) -> int:
    with frozen(module):
        return int((module(images).argmax(dim=1) == labels).sum())


def _progress(learner: Learner) -> str:
    left = learner.seconds / learner.epoch * (learner.recipe.epochs - learner.epoch)
    epoch = learner.curves[-1]
    score = epoch.validation
    robust = "" if score.robust is None else f"  {learner.objective.yardstick} {score.robust:.1%}"
    minutes, seconds = divmod(round(left), 60)
    done = f"epoch {learner.epoch}/{learner.recipe.epochs}  loss {epoch.loss:.3f}"
    return f"{done}  clean {score.clean:.1%}{robust}  {minutes} min {seconds:02d} s left"
