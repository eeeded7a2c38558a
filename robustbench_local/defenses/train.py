"""The one training loop: a recipe, a network and images to weights that can be made again.

``python -m robustbench_local.defenses.train CARD --out WEIGHTS.safetensors`` renders the signs, trains,
measures and writes the weights with their provenance beside them.

An epoch's randomness comes from the seed and the epoch's number alone, and a checkpoint is written after
each epoch, so an interrupted training goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.catalogue import find_card
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.signs import load_signs
from robustbench_local.defenses.adversary import frozen, linf_examples
from robustbench_local.defenses.augmentation import augment
from robustbench_local.defenses.checkpoint import load_checkpoint, save_checkpoint
from robustbench_local.defenses.provenance import measure, write_weights
from robustbench_local.defenses.recipe import AdversarialRecipe, Recipe, read_recipe
from robustbench_local.defenses.trained import Score, Trained
from robustbench_local.errors import DataError, ModelError, RobustbenchError
from robustbench_local.models.signs_network import MEAN, STD, signs_resnet
from robustbench_local.randomness import seed_from

_MOMENTUM = 0.9
_VALIDATION_STEPS = 10
_VALIDATION_BATCH = 256
# Images of each class that choose the epoch, and that the shipped figures are measured on.
_HELD_OUT = {"validation": 16, "test": 40}
# The order in which threads add up numbers decides their last bits, so their number belongs to the recipe.
_REPEATED = ("data", "seed", "per_class", "autoattack", "threads")


class _Training:
    """The state that a step changes and a checkpoint keeps."""

    def __init__(self, module: nn.Module, recipe: Recipe, steps: int) -> None:
        self.module, self.recipe, self.steps = module, recipe, steps
        self.averaged = copy.deepcopy(module).eval().requires_grad_(False)
        self.optimizer = torch.optim.SGD(
            module.parameters(),
            lr=recipe.learning_rate,
            momentum=_MOMENTUM,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
        self.epoch, self.seconds = 0, 0.0
        self.best, self.best_state = Score(0, 0.0, None), self._weights()

    def step(self, images: Tensor, labels: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """One batch at ``progress`` epochs into the training; the loss."""
        recipe = self.recipe
        images = augment(images, recipe.shift, recipe.brightness, generator)
        if isinstance(recipe, AdversarialRecipe):
            eps = recipe.threat.eps * min(1.0, (progress + 1) / max(1, recipe.eps_warmup_epochs))
            images = linf_examples(
                self.module,
                images,
                labels,
                eps=eps,
                steps=recipe.steps,
                step_size=recipe.step_size * eps,
                generator=generator,
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, progress)
        self.module.train()
        loss = nn.functional.cross_entropy(
            self.module(images), labels, label_smoothing=recipe.label_smoothing
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._average()
        return loss.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights and statistics a little towards the current ones."""
        current = self.module.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - self.recipe.ema_decay)
            else:
                value.copy_(current[name])

    def keep(self, score: Score) -> None:
        """Remember the averaged weights if they are the best so far."""
        if score.rank >= self.best.rank:
            self.best, self.best_state = score, self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.averaged.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Everything that a later process needs to go on."""
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": [self.best.epoch, self.best.clean, self.best.robust],
            "best_state": self.best_state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_state = Score(*state["best"]), state["best_state"]


def train(
    module: nn.Module,
    recipe: Recipe,
    training: Dataset,
    validation: Dataset,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> Trained:
    """Train a module and keep the epoch that does best on the validation images.

    Args:
        module: Images in [0, 1], (N, C, H, W), to logits (N, K), freshly initialised; changed in place.
        recipe: How.
        training: Images and labels below K.
        validation: Other images; PGD accuracy on them decides where an adversarial training stops.
        seed: Of the order, the augmentation and the adversary's starts.
        checkpoint: Written after each epoch; if it is there and belongs to this training, it is resumed.
        report: Receives a line of progress an epoch.

    Returns:
        The best averaged weights.

    Raises:
        ModelError: If the loss is no longer finite.
        DataError: If there are fewer training images than a batch takes.
        ConfigError: If the checkpoint belongs to another training.
    """
    steps = len(training) // recipe.batch_size
    if steps == 0:
        raise DataError(
            f"{len(training)} images are fewer than a batch of {recipe.batch_size}", where=training.name
        )
    state = _Training(module, recipe, steps)
    identity = {
        "recipe": repr(recipe),
        "training": training.digest(),
        "validation": validation.digest(),
        "seed": str(seed),
    }
    if checkpoint is not None and checkpoint.exists():
        state.restore(load_checkpoint(checkpoint, identity))
        report(f"resumed after epoch {state.epoch} of {recipe.epochs}")
    while state.epoch < recipe.epochs:
        started = time.perf_counter()
        loss = _train_epoch(
            state, training, torch.Generator().manual_seed(seed_from(seed, "epoch", state.epoch))
        )
        state.epoch += 1
        score = _validate(state, validation)
        state.keep(score)
        state.seconds += time.perf_counter() - started
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity, state.state())
        report(_progress(state, loss, score))
    return Trained(state.best_state, state.best, state.seconds)


def _train_epoch(state: _Training, training: Dataset, generator: torch.Generator) -> float:
    """One pass in random order, the incomplete last batch left out; the mean loss."""
    order = torch.randperm(len(training), generator=generator)
    size = state.recipe.batch_size
    total = torch.zeros(())
    for step in range(state.steps):
        rows = order[step * size : (step + 1) * size]
        progress = state.epoch + step / state.steps
        loss = state.step(training.images[rows], training.labels[rows], progress, generator)
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss is {float(loss)} at epoch {state.epoch + 1}, step {step + 1}",
                where="training",
                remedy="lower learning_rate in the card, or check the images",
            )
        total += loss
    return float(total) / state.steps


def _validate(state: _Training, validation: Dataset) -> Score:
    """Clean and PGD accuracy of the averaged weights."""
    recipe, clean, robust = state.recipe, 0, 0
    images_of = torch.split(validation.images, _VALIDATION_BATCH)
    labels_of = torch.split(validation.labels, _VALIDATION_BATCH)
    for images, labels in zip(images_of, labels_of, strict=True):
        clean += _right(state.averaged, images, labels)
        if isinstance(recipe, AdversarialRecipe):
            eps = recipe.threat.eps
            examples = linf_examples(
                state.averaged, images, labels, eps=eps, steps=_VALIDATION_STEPS, step_size=eps / 4
            )
            robust += _right(state.averaged, examples, labels)
    adversarial = isinstance(recipe, AdversarialRecipe)
    return Score(state.epoch, clean / len(validation), robust / len(validation) if adversarial else None)


@torch.no_grad()
def _right(module: nn.Module, images: Tensor, labels: Tensor) -> int:
    with frozen(module):
        return int((module(images).argmax(dim=1) == labels).sum())


def _progress(state: _Training, loss: float, score: Score) -> str:
    left = state.seconds / state.epoch * (state.recipe.epochs - state.epoch)
    robust = "" if score.robust is None else f"  PGD-{_VALIDATION_STEPS} {score.robust:.1%}"
    minutes, seconds = divmod(round(left), 60)
    return (
        f"epoch {state.epoch}/{state.recipe.epochs}  loss {loss:.3f}  clean {score.clean:.1%}{robust}  "
        f"{minutes} min {seconds:02d} s left"
    )


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Rate at ``progress`` epochs: a straight rise to the peak, then a cosine down to 0."""
    if progress < recipe.warmup_epochs:
        return recipe.learning_rate * (progress + 0.1) / (recipe.warmup_epochs + 0.1)
    done = (progress - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.learning_rate * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class NormalizedNetwork(nn.Module):
    """A network behind its normalisation: images in [0, 1] to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # Not part of the weights: whoever loads them normalises outside, see Classifier.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def new_signs_network(seed: int) -> NormalizedNetwork:
    """The signs' network, initialised from the seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(seed, "initial weights"))
        network = signs_resnet()
    return NormalizedNetwork(network.to(memory_format=torch.channels_last), MEAN, STD)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m robustbench_local.defenses.train", description=__doc__)
    parser.add_argument("card", help="name of a defense's card, such as pgd-at-linf-8")
    parser.add_argument("--data", choices=["signs"], default="signs", help="what to train on")
    parser.add_argument("--seed", type=int, default=0, help="of the images, the weights and the order")
    parser.add_argument("--per-class", type=int, default=400, help="training images of each class")
    parser.add_argument(
        "--autoattack", type=int, default=500, help="test images that AutoAttack is measured on"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--checkpoint", type=Path, help="written after each epoch, resumed if it is there")
    parser.add_argument("--out", type=Path, required=True, help="the weights, .safetensors")
    return parser.parse_args(words)


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stderr.flush()


def _render(asked: argparse.Namespace) -> dict[str, Dataset]:
    images = {}
    for split, count in {"train": asked.per_class, **_HELD_OUT}.items():
        _say(f"rendering {split}: {count} images a class")
        images[split] = load_signs(split=split, per_class=count, seed=asked.seed)
    return images


def _make(asked: argparse.Namespace) -> None:
    torch.set_num_threads(asked.threads)
    card = find_card(asked.card, kind="defense")
    recipe = read_recipe(card)
    images = _render(asked)
    module = new_signs_network(asked.seed)
    trained = train(
        module,
        recipe,
        images["train"],
        images["validation"],
        seed=asked.seed,
        checkpoint=asked.checkpoint,
        report=_say,
    )
    module.load_state_dict(trained.state)
    measured = measure(module, images["test"], autoattack_images=asked.autoattack, report=_say)
    write_weights(
        asked.out,
        module.network,
        card=card,
        recipe=recipe,
        trained=trained,
        data={"source": asked.data, **{split: _summary(data) for split, data in images.items()}},
        measured=measured,
        seed=asked.seed,
        command=_command(asked),
    )


def _summary(data: Dataset) -> dict[str, Any]:
    return {"n": len(data), "classes": len(set(data.labels.tolist())), "digest": data.digest()}


def _command(asked: argparse.Namespace) -> str:
    """What makes the same weights again: all that matters, and no path of this machine."""
    settings = (f"--{key.replace('_', '-')} {getattr(asked, key)}" for key in _REPEATED)
    return (
        f"python -m robustbench_local.defenses.train {asked.card} {' '.join(settings)} --out {asked.out.name}"
    )


def main(words: Sequence[str]) -> int:
    """Make shipped weights; the exit code."""
    try:
        _make(_arguments(words))
    except RobustbenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
