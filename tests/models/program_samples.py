"""Small networks, and TorchScript archives of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def build_network(*, seed: int = 0, classes: int = 4) -> nn.Module:
    """A convolution with batch norm and dropout, for images of 8 x 8, in evaluation mode."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * 6 * 6, classes)).eval()


class Head(nn.Module):
    """A network whose output is what a function makes of logits."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.function = build_network(), function

    def forward(self, images: Tensor) -> Any:
        return self.function(self.network(images))


def save_traced(path: Path, module: nn.Module, images: Tensor = IMAGES[:2]) -> Path:
    """Trace a module with images and save it."""
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated; users have such files
        torch.jit.save(torch.jit.trace(module, images, check_trace=False, strict=False), path)
    return path


def save_scripted(path: Path, module: nn.Module, *, frozen: bool = False) -> Path:
    """Compile a module, freeze it if wanted, and save it."""
    with warnings.catch_warnings(action="ignore"):
        program = torch.jit.script(module)
        torch.jit.save(torch.jit.freeze(program) if frozen else program, path)
    return path
