"""An attack: the corner of the Linf ball that the gradient points to, tried in several lengths."""

from dataclasses import dataclass

import torch

import robustbench_local as rbl


@dataclass(frozen=True, kw_only=True)
class Corners(rbl.Attack):
    """One gradient, and candidates at several lengths along its sign.

    Args:
        lengths: How many lengths are tried, the longest being eps.
    """

    norms = frozenset({"Linf"})
    goals = frozenset({"untargeted"})

    lengths: int = 3

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        """The shortest candidate that changes the class, or the longest one."""
        _, _, gradient = classifier.compute_gradient(
            images, lambda logits: torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        )
        found = images.clone()
        is_open = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for number in range(1, self.lengths + 1):
            step = threat.eps * number / self.lengths
            candidates = (images + step * gradient.sign()).clamp(0, 1)
            found[is_open] = candidates[is_open]
            with torch.no_grad():
                is_open &= classifier(found).argmax(dim=1) == labels
        return found

    def estimate_cost(self, threat):
        """Forward and backward passes an image."""
        return (self.lengths + 1, 1) if threat.eps else (0, 0)
