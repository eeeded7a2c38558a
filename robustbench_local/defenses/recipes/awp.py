"""Adversarial weight perturbation: the loss is minimized at the worst nearby weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustbench_local.classifier.gradient_repair import remove_nonfinite
from robustbench_local.defenses.recipes.base import check_condition

ForwardFunction = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to logits (N, K)."""


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation:
    """Adversarial weight perturbation, as a component of an objective.

    Args:
        gamma: Largest perturbation of a layer's weights, in units of their norm; 0 disables it.
        warmup_epochs: Epochs before it starts.
    """

    gamma: float = 0.0
    warmup_epochs: int = 0

    def check_range(self, epochs: int) -> None:
        """Refuse settings that are invalid for this number of epochs; a card's keys have the prefix ``awp_``.

        Raises:
            CardError: If a number is out of range.
        """
        check_condition(0 <= self.gamma < 1, "awp_gamma must be in [0, 1)")
        check_condition(0 <= self.warmup_epochs <= epochs, "awp_warmup_epochs must be 0 to epochs")

    def compute_loss(
        self, module: nn.Module, loss: Callable[[ForwardFunction], Tensor], *, progress: float
    ) -> Tensor:
        """Return the loss to minimize: at perturbed weights, or unchanged if this is disabled.

        Args:
            module: In training mode.
            loss: Maps the network, as a function of images, to a scalar.
            progress: Completed epochs, fractional.
        """
        if not self.gamma or progress < self.warmup_epochs:
            return loss(module)
        return loss(perturb_weights(module, self.gamma, loss))


def perturb_weights(
    module: nn.Module, gamma: float, loss: Callable[[ForwardFunction], Tensor]
) -> ForwardFunction:
    """Return the network with each layer's weights moved to increase the loss.

    Biases and the scales of batch norm do not move. The module itself is not changed; gradients of the
    result's outputs reach its parameters as if they had been moved.

    Args:
        module: The network, in training mode.
        gamma: Length of the move as a fraction of the norm of the layer's weights.
        loss: Maps a network to a scalar.

    Source: Wu, Xia and Wang 2020, arXiv:2004.05884, eq. 10 to 12 with one step.
    """
    layers = dict(module.named_parameters())
    weights = {name: layer for name, layer in layers.items() if layer.requires_grad and layer.ndim > 1}
    # batch norm updates its statistics from the loss itself, not from the search
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    searched = loss(lambda images: _call_functional(module, {**weights, **buffers}, images))
    slopes = torch.autograd.grad(searched, list(weights.values()))
    gradients = [remove_nonfinite(slope) for slope in slopes]
    moved = {
        name: layer + (gamma * layer.norm() / gradient.norm().clamp(min=1e-12) * gradient).detach()
        for (name, layer), gradient in zip(weights.items(), gradients, strict=True)
    }
    return lambda images: _call_functional(module, moved, images)


def _call_functional(module: nn.Module, tensors: dict[str, Any], images: Tensor) -> Tensor:
    logits: Tensor = functional_call(module, tensors, (images,))
    return logits
