"""The small feed-forward network of traffic-sign weights that interval bounds can verify."""

from __future__ import annotations

from torch import nn

from robustbench_local.models.networks.signs_resnet import NUM_CLASSES


def signs_cnn(num_classes: int = NUM_CLASSES) -> nn.Sequential:
    """Build two strided convolutions and two linear layers, initialized from torch's global generator.

    Interval bounds widen with every layer, and treat the two branches of a shortcut as independent. So IBP
    can train only a few sequential layers. The network maps normalized images (N, 3, 32, 32) to logits.

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
