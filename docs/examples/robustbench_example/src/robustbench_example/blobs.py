"""Data, noisy copies of one random image for each class; and a model of it, one linear layer."""

import torch

CHANNELS, SIDE, CLASSES = 3, 8, 3
IMAGES_PER_CLASS = {"train": 100, "test": 20}


def make_blobs(split: str = "test", seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a split.

    Args:
        split: ``"train"`` or ``"test"``.
        seed: Of the noise.
    """
    count = IMAGES_PER_CLASS[split]
    generator = torch.Generator().manual_seed(2 * seed + (split == "train"))
    labels = torch.arange(CLASSES).repeat_interleave(count)
    noise = 0.3 * torch.randn(len(labels), CHANNELS, SIDE, SIDE, generator=generator)
    return (make_means(CLASSES)[labels] + noise).clamp(0, 1), labels


def make_linear(num_classes: int = CLASSES) -> torch.nn.Module:
    """A network that chooses the class whose mean image is nearest.

    Args:
        num_classes: How many of the classes it knows.
    """
    means = make_means(num_classes).flatten(1)
    layer = torch.nn.Linear(CHANNELS * SIDE * SIDE, num_classes)
    with torch.no_grad():
        layer.weight.copy_(means)
        layer.bias.copy_(-0.5 * means.square().sum(dim=1))
    network = torch.nn.Sequential(torch.nn.Flatten(), layer)
    network.num_classes = num_classes
    return network


def make_means(count: int) -> torch.Tensor:
    """One image for each class, (N, 3, 8, 8) in [0.3, 0.7].

    Args:
        count: How many classes.
    """
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(count, CHANNELS, SIDE, SIDE, generator=generator)
