"""Two easy classes, a tiny network and the hyper-parameters that every recipe has, for tests of recipes."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipes.training_objective import TrainingBatch, TrainingContext

COMMON_PARAMETERS = {
    "epochs": 6,
    "batch_size": 16,
    "learning_rate": 0.05,
    "weight_decay": 5e-4,
    "warmup_epochs": 1,
    "label_smoothing": 0.0,
    "ema_decay": 0.5,
    "shift": 0,
    "brightness": 0.0,
}


def build_stripes(count, seed, name):
    """8x8 images of a vertical or a horizontal bar in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = 0.5 + 0.05 * torch.randn((count, 1, 8, 8), generator=generator)
    images[labels == 0, :, :, 3:5] += 0.35
    images[labels == 1, :, 3:5, :] += 0.35
    return Dataset(
        images=images.clamp(0, 1),
        labels=labels,
        ids=tuple(f"{name}/{row}" for row in range(count)),
        class_names=("vertical", "horizontal"),
        name=name,
    )


TRAINING, VALIDATION = build_stripes(96, 0, "training"), build_stripes(40, 1, "validation")


def build_network(seed=0, *, norm=True):
    """One convolution and one linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 8, 4, 2, 1), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 2))


def build_context(module, *, teacher=None, training=TRAINING):
    """A training of that module; ``load_teacher`` is what every name leads to."""
    return TrainingContext(
        module=module,
        training=training,
        validation=VALIDATION,
        steps_per_epoch=len(training) // COMMON_PARAMETERS["batch_size"],
        device=torch.device("cpu"),
        seed=0,
        load_teacher=lambda _name: teacher,
        report=lambda _line: None,
    )


def build_batch(data=TRAINING, *, progress=0.0, seed=0, count=16):
    """The first images, as a step gets them."""
    return TrainingBatch(
        images=data.images[:count],
        labels=data.labels[:count],
        progress=progress,
        generator=torch.Generator().manual_seed(seed),
    )


def compute_accuracy(module, images, labels):
    """Share of images that are right in evaluation mode."""
    with torch.no_grad():
        return int((module.eval()(images).argmax(dim=1) == labels).sum()) / len(labels)
