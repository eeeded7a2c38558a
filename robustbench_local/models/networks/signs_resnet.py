"""The small residual networks of the shipped traffic-sign weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: (channels, height, width) of the input images.
INPUT_SHAPE = (3, 32, 32)
#: Number of classes of GTSRB, including those without embedded signs.
NUM_CLASSES = 43
#: Normalization of images in [0, 1], applied by the caller of the network.
CHANNEL_MEAN = (0.4, 0.4, 0.4)
CHANNEL_STD = (0.25, 0.25, 0.25)


class _PreActivationBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, each preceded by batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        is_identity = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity() if is_identity else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        active = self.norm1(features).relu()
        inner = self.conv2(self.norm2(self.conv1(active)).relu())
        shortcut = self.shortcut(active if isinstance(self.shortcut, nn.Conv2d) else features)
        return inner + shortcut  # type: ignore[no-any-return]


class SignsResNet(nn.Module):
    """A pre-activation residual network whose first layer halves the resolution.

    Passes through the network dominate the cost of adversarial training and AutoAttack, so it works at
    16x16 pixels and below. The 4x4 windows of the first layer overlap, so that thin strokes are preserved.

    Args:
        num_classes: Number of logits.
        widths: Channels at 16x16, 8x8 and 4x4 pixels.

    Source: He et al. 2016, "Identity mappings in deep residual networks", Fig. 4 (e).
    """

    def __init__(self, num_classes: int = NUM_CLASSES, widths: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(3, fine, 4, 2, 1, bias=False)
        self.block1 = _PreActivationBlock(fine, fine, 1)
        self.block2 = _PreActivationBlock(fine, middle, 2)
        self.block3 = _PreActivationBlock(middle, coarse, 2)
        self.norm = nn.BatchNorm2d(coarse)
        self.head = nn.Linear(coarse * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, 32, 32) to logits (N, num_classes)."""
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.block3(self.block2(self.block1(self.stem(images))))
        # A 2x2 grid of averages preserves positions, because speed limits differ mainly in where strokes are.
        pooled = nn.functional.adaptive_avg_pool2d(self.norm(features).relu(), 2)
        logits: Tensor = self.head(pooled.flatten(1))
        return logits


def signs_resnet(num_classes: int = NUM_CLASSES) -> SignsResNet:
    """Build the network of the shipped weights, initialized from torch's global generator.

    The channels-last memory format makes a forward pass 1.5 to 2 times as fast on a CPU.
    """
    return SignsResNet(num_classes).to(memory_format=torch.channels_last)


def signs_resnet_wide(num_classes: int = NUM_CLASSES) -> SignsResNet:
    """Build the same network with 1.5 times as many channels, for photographs."""
    return SignsResNet(num_classes, (36, 72, 144)).to(memory_format=torch.channels_last)
