"""Small networks whose bounds can be checked against every point, or nearly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SHAPE = (1, 4, 4)


class ResidualNetwork(nn.Module):
    """Batch norm, a sum, a strided shortcut, functional and method forms, an average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 0.4))
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.shortcut = nn.Conv2d(3, 4, 1, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        active = functional.relu(self.norm(self.stem((images - self.mean) / 0.5)))
        features = functional.leaky_relu(self.inner(active) + self.shortcut(active), 0.1)
        pooled = functional.adaptive_avg_pool2d(features - 0.1 * features.relu(), 1)
        return self.head(self.drop(pooled.view(pooled.size(0), -1)))


def build_plain_network() -> nn.Module:
    """A sequential convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def build_seeded_network(make: type[nn.Module] | object, seed: int = 0) -> nn.Module:
    """A network with weights, and batch statistics, that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = make()  # type: ignore[operator]
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
        return network.eval()


def draw_images(count: int, shape: tuple[int, ...] = IMAGE_SHAPE, seed: int = 1) -> Tensor:
    """Images in [0, 1] that are always the same."""
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(seed))


def draw_ball_points(centre: Tensor, eps: float, norm: str, count: int, seed: int = 2) -> Tensor:
    """Points of a ball inside [0, 1], half of them on its border or at its corners; (count, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, *centre.shape), generator=generator, dtype=centre.dtype)
    if norm == "Linf":
        noise = torch.where(torch.arange(count).view(-1, 1, 1, 1) % 2 == 0, noise.sign(), noise.clamp(-1, 1))
    else:
        noise = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (centre + eps * noise).clamp(0, 1)
