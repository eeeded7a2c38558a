"""A certificate for linear models: the margin divided by the dual norm of the difference of two rows."""

from dataclasses import dataclass

import torch

import robustbench_local as rbl
from robustbench_local.errors import ModelError

_DUAL_NORMS = {"Linf": 1, "L2": 2}


@dataclass(frozen=True, kw_only=True)
class LinearMargin(rbl.Certificate):
    """Exact radii of a network that is one linear layer.

    Args:
        slack: Share that is taken off each radius, for rounding errors.
    """

    norms = frozenset(_DUAL_NORMS)

    slack: float = 1e-4

    def check_support(self, threat, classifier):
        """Refuse networks that are not one linear layer."""
        super().check_support(threat, classifier)
        _find_linear_layer(classifier)

    def certify(self, classifier, images, labels, threat, stream):
        """The distance to the nearest other class, in the norm of the threat."""
        with torch.no_grad():
            logits = classifier(images).double()
        weight = _find_linear_layer(classifier).weight.detach().double()
        predictions = logits.argmax(dim=1)
        gaps = logits.gather(1, predictions[:, None]) - logits
        differences = (weight[predictions][:, None] - weight[None]).norm(p=_DUAL_NORMS[threat.norm], dim=2)
        radii = (gaps / differences).scatter(1, predictions[:, None], torch.inf).amin(dim=1)
        radii = (radii * (1 - self.slack)).clamp_min(0).cpu()
        is_right = predictions == labels
        return rbl.CertifiedBatch(
            predictions=predictions.cpu(),
            verified=is_right.cpu() & (radii >= threat.eps),
            radius=radii,
            margins=torch.full_like(radii, torch.nan),
        )

    def estimate_cost(self, threat):
        """Forward and backward passes an image."""
        return 1, 0


def _find_linear_layer(classifier):
    if type(classifier) is not rbl.Classifier:  # a defense around it is not linear
        raise ModelError("has a defense around it, about which this proves nothing", where=classifier.name)
    layers = [layer for layer in classifier.module.modules() if not list(layer.children())]
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    others = [layer for layer in layers if not isinstance(layer, torch.nn.Linear | torch.nn.Flatten)]
    if len(linear) != 1 or others or classifier.normalization is not None:
        raise ModelError("is not one linear layer on pixels in [0, 1]", where=classifier.name)
    return linear[0]
