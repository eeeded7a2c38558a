"""SmoothAdv: adversarial training of the smoothed classifier instead of the base classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_local.classifier.gradient_repair import compute_ascent_gradient
from robustbench_local.defenses.recipes.base import check_condition
from robustbench_local.defenses.recipes.noise_base import (
    NoisyObjective,
    NoisyRecipe,
    compute_smoothed_likelihood,
)
from robustbench_local.defenses.recipes.training_objective import (
    TrainingBatch,
    TrainingContext,
    TrainingObjective,
)
from robustbench_local.defenses.recipes.training_pgd import frozen_evaluation_mode
from robustbench_local.defenses.training.schedule import compute_warmup_share
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(NoisyRecipe):
    """Cross-entropy under noise, on adversarial examples of the smoothed classifier.

    Attributes:
        threat: Norm L2 and the full radius.
        steps: Gradient steps of the adversary on each batch; each is 2 / steps of the radius long.
        draws: Noise samples per image, the same for the adversary and for the training.
        eps_warmup_epochs: Epochs over which the radius grows from 0 to its full size.

    Source: Salman et al. 2019, "Provably robust deep learning via adversarially trained smoothed
    classifiers", arXiv:1906.04584, eq. 8 and sec. 3.1.
    """

    method = "smoothadv"

    threat: ThreatModel
    steps: int
    draws: int
    eps_warmup_epochs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.threat.norm == "L2", f"trains against L2 only, not {self.threat.norm}")
        check_condition(self.steps >= 1 and self.draws >= 1, "steps and draws must be at least 1")
        check_condition(0 <= self.eps_warmup_epochs <= self.epochs, "eps_warmup_epochs must be 0 to epochs")

    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build cross-entropy on noisy adversarial images."""
        return _SmoothAdvObjective(context, self)


def build_l2_examples(images: Tensor, loss: Callable[[Tensor], Tensor], *, eps: float, steps: int) -> Tensor:
    """Run PGD in an L2 ball from the images themselves; return the last iterate.

    Args:
        images: (N, C, H, W) in [0, 1]; not changed.
        loss: Maps images to one value per image, (N,), to be maximized.
        eps: Radius in pixel units of [0, 1].
        steps: Gradient steps, each 2 eps / steps long.

    Returns:
        Examples of the same shape, in the ball and in [0, 1].
    """
    examples, repairing = images.clone(), False
    on_cpu = images.device.type == "cpu"
    for step in range(steps):
        gradient, repairing = compute_ascent_gradient(
            lambda points: loss(points).sum(), examples, check=on_cpu or repairing or step == 0
        )
        direction = nn.functional.normalize(gradient.flatten(1)).view_as(images)
        away = examples + 2 * eps / steps * direction - images
        length = away.flatten(1).norm(dim=1).clamp_min(eps).view(-1, 1, 1, 1)
        # The images are in [0, 1], so clipping afterwards only shortens the perturbation.
        examples = (images + away * (eps / length)).clamp(0, 1)
    return examples


class _SmoothAdvObjective(NoisyObjective[SmoothAdv]):
    def compute_loss(self, batch: TrainingBatch) -> Tensor:
        recipe, module = self.recipe, self.context.module
        draws = recipe.draws
        shape = (len(batch.images) * draws, *batch.images.shape[1:])
        noise = recipe.sigma * torch.randn(shape, generator=batch.generator).to(batch.images.device)
        eps = recipe.threat.eps * compute_warmup_share(batch.progress, recipe.eps_warmup_epochs)

        def compute_loss_per_image(images: Tensor) -> Tensor:
            logits = module(images.repeat_interleave(draws, dim=0) + noise)
            return -compute_smoothed_likelihood(logits, batch.labels, draws)

        with frozen_evaluation_mode(module):
            examples = build_l2_examples(batch.images, compute_loss_per_image, eps=eps, steps=recipe.steps)
        logits = module(examples.repeat_interleave(draws, dim=0) + noise)
        labels = batch.labels.repeat_interleave(draws)
        return nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
