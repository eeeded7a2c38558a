"""Adversarial training against PGD."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_local.defenses.adversarial import AdversarialObjective, AdversarialRecipe
from robustbench_local.defenses.objective import Batch, Context, Objective


@dataclass(frozen=True, kw_only=True)
class PGDTraining(AdversarialRecipe):
    """Adversarial training: each batch is replaced by its own PGD examples.

    Source: Madry et al. 2018, arXiv:1706.06083, sec. 2.1.
    """

    method = "pgd-at"

    def objective(self, context: Context) -> Objective:
        """Cross-entropy on PGD examples."""
        return _PGDObjective(context, self)


class _PGDObjective(AdversarialObjective[PGDTraining]):
    def loss(self, batch: Batch) -> Tensor:
        logits = self.context.module(self.pgd(batch))
        return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
