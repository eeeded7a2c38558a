"""The adversary of adversarial training: PGD on one batch, as short and as cheap as possible.

Evaluation uses ``attacks/``, with restarts, best points and verdicts. Here only the gradient matters, at
every training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from robustbench_local.classifier.gradient_repair import compute_ascent_gradient
from robustbench_local.classifier.image_borders import BorderProbe, move_inside

_PROBE_BY_MODULE: WeakKeyDictionary[nn.Module, BorderProbe] = WeakKeyDictionary()
"""Cached properties of networks in training, which depend on their layers, not on their weights."""


@contextmanager
def frozen_evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode without parameter gradients, and restore both afterwards.

    The adversary uses frozen batch-norm statistics: its examples then attack the network that will be used,
    an image's example does not depend on its batch, and the statistics are learned from the finished examples
    only.
    """
    modes = {child: child.training for child in module.modules()}
    required_gradients = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in required_gradients.items():
            parameter.requires_grad_(flag)
        for child, mode in modes.items():
            child.training = mode


def build_linf_examples(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Run PGD; return the last iterate.

    Args:
        module: Images in [0, 1] to logits.
        images: (N, C, H, W) in [0, 1]; not changed.
        labels: (N,).
        eps: Radius in pixel units of [0, 1].
        steps: Gradient steps.
        step_size: Length of a step in pixel units of [0, 1].
        generator: Random generator of a uniform start, on the CPU; None starts at ``start``.
        start: Starting points, as ``images``; None means the images.
        loss: Logits (N, K) and labels to the scalar to maximize; the summed cross-entropy by default.

    Returns:
        Examples of the same shape, in the ball and in [0, 1].

    Source: Madry et al. 2018, arXiv:1706.06083, sec. 2.1.
    """
    ascended = loss or _compute_cross_entropy
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    examples = (images if start is None else start).clone()
    if generator is not None:
        examples += eps * (2 * torch.rand(images.shape, generator=generator) - 1).to(images.device)
    if generator is not None or start is not None:
        examples = torch.clamp(examples, low, high)
    on_cpu, repairing = images.device.type == "cpu", False

    def loss_at(points: Tensor) -> Tensor:
        return ascended(module(move_off_borders(module, points)), labels)

    with frozen_evaluation_mode(module):
        for step in range(steps):
            # on a GPU each check waits for the device: one check per batch is enough to characterize the
            # network
            check = on_cpu or repairing or step == 0
            gradient, repaired = compute_ascent_gradient(loss_at, examples, check=check)
            repairing |= repaired
            examples = torch.clamp(examples + step_size * gradient.sign(), low, high)
    return examples


def move_off_borders(module: nn.Module, images: Tensor) -> Tensor:
    """Return the images, moved just inside [0, 1] for a network without gradients at pixels of 0 and 1.

    Args:
        module: Images to logits (N, K).
        images: (N, C, H, W).
    """
    probe = _PROBE_BY_MODULE.setdefault(module, BorderProbe())
    if not probe.is_decided:
        with frozen_evaluation_mode(module):
            probe.detect_masking(module, images)
    return move_inside(images, probe.inset) if probe.masked else images


def add_small_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a start next to the images, where a divergence from the clean output has a gradient.

    Source: Zhang et al. 2019, arXiv:1901.08573, algorithm 1: 0.001 times a standard normal.
    """
    return images + 1e-3 * torch.randn(images.shape, generator=generator).to(images.device)


def compute_kl_divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Compute the KL divergence of the adversarial probabilities from the clean ones, (N,).

    Args:
        clean: Logits (N, K).
        adversarial: Logits (N, K).
    """
    expected, observed = clean.log_softmax(dim=1), adversarial.log_softmax(dim=1)
    return nn.functional.kl_div(observed, expected, reduction="none", log_target=True).sum(dim=1)


def _compute_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="sum")
