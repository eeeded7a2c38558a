"""Published small networks; their parameter names are those of the published checkpoints."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


def strided_cnn(num_classes: int = 10) -> nn.Module:
    """Build two strided convolutions and two linear layers, for 28x28 digits.

    Source: Wong & Kolter 2018, "Provable defenses via the convex outer adversarial polytope", Sec. 4.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


class SmallCNN(nn.Module):
    """Four convolutions and three linear layers, for 28x28 digits.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy" (TRADES).
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        features: list[tuple[str, nn.Module]] = []
        for number, (inputs, outputs) in enumerate([(1, 32), (32, 32), (32, 64), (64, 64)], start=1):
            features += [(f"conv{number}", nn.Conv2d(inputs, outputs, 3)), (f"relu{number}", nn.ReLU())]
            if number in {2, 4}:
                features.append((f"pool{number // 2}", nn.MaxPool2d(2)))
        self.feature_extractor = nn.Sequential(OrderedDict(features))
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(64 * 4 * 4, 200),
                relu1=nn.ReLU(),
                drop=nn.Dropout(0.5),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
                fc3=nn.Linear(200, num_classes),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, 28, 28) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.feature_extractor(images).flatten(1))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, with or without batch norm.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        stride: Stride of the first convolution and of the shortcut.
        norm: Use batch norm; the convolutions then have no bias.

    Source: He et al. 2016, "Deep residual learning for image recognition", Fig. 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=not norm)
        self.bn2 = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=not norm))
            if norm:
                self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(features)))))
        return functional.relu(inner + self.shortcut(features))


class ResNet2b(nn.Module):
    """Two residual blocks without batch norm, for 32x32 images.

    Source: VNN-COMP 2021, the CIFAR-10 ResNet benchmark, network "resnet_2b".
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(8, 16, 2, norm=False), BasicBlock(16, 16, 1, norm=False))
        self.linear1 = nn.Linear(16 * 8 * 8, 100)
        self.linear2 = nn.Linear(100, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, 32, 32) to logits (N, num_classes)."""
        features = self.layer1(functional.relu(self.conv1(images))).flatten(1)
        logits: Tensor = self.linear2(functional.relu(self.linear1(features)))
        return logits


class CifarResNet18(nn.Module):
    """ResNet-18 with a 3x3 first layer and no pooling after it, for 32x32 images.

    Source: He et al. 2016, "Deep residual learning for image recognition", in the usual variant for CIFAR.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _build_stage(64, 64, 1)
        self.layer2 = _build_stage(64, 128, 2)
        self.layer3 = _build_stage(128, 256, 2)
        self.layer4 = _build_stage(256, 512, 2)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.linear(functional.avg_pool2d(features, 4).flatten(1))
        return logits


def _build_stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, norm=True), BasicBlock(outputs, outputs, 1, norm=True)
    )


class SpatialTransformerCNN(nn.Module):
    """A network that rectifies the sign before classifying it, for 32x32 traffic signs.

    The output is a log-softmax, on which losses and margins equal those on the logits.

    Source: Jaderberg et al. 2015, "Spatial transformer networks".
    """

    def __init__(self, num_classes: int = 43) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(3, 8, 7), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU()
        )
        self.fc_loc = nn.Sequential(nn.Linear(10 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 6))
        self.conv1, self.bn1 = nn.Conv2d(3, 100, 5), nn.BatchNorm2d(100)
        self.conv2, self.bn2 = nn.Conv2d(100, 150, 3), nn.BatchNorm2d(150)
        self.conv3, self.bn3 = nn.Conv2d(150, 250, 3), nn.BatchNorm2d(250)
        self.fc1 = nn.Linear(250 * 2 * 2, 350)
        self.fc2 = nn.Linear(350, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, 32, 32) to log-probabilities (N, num_classes)."""
        features = self._straighten_images(images)
        layers = ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3))
        for convolution, norm in layers:
            features = norm(functional.max_pool2d(functional.leaky_relu(convolution(features)), 2))
        hidden = functional.relu(self.fc1(features.flatten(1)))
        return torch.log_softmax(self.fc2(hidden), dim=1)

    def _straighten_images(self, images: Tensor) -> Tensor:
        theta = self.fc_loc(self.localization(images).flatten(1)).view(-1, 2, 3)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)
