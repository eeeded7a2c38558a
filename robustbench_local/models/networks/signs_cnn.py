"""The small plain network of traffic-sign weights that interval bounds can verify."""

from __future__ import annotations

from torch import nn

from robustbench_local.models.networks.signs_resnet import NUM_CLASSES


def signs_cnn(num_classes: int = NUM_CLASSES) -> nn.Sequential:
    """Two strided convolutions and two linear layers, freshly initialised from torch's global generator.

    Interval bounds widen with every layer, and a shortcut's two ways are bounded as if they were unrelated:
    few layers, one after the other, are what IBP can train. Normalised images (N, 3, 32, 32) -> logits.

    Source: Gowal et al. 2018, arXiv:1810.12715, table 1, "small", with strides in both convolutions.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48 * 8 * 8, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )
