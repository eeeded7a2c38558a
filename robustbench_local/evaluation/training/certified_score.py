"""Certified accuracy of a network that was trained for certification, for the card beside its weights."""

from __future__ import annotations

from typing import Any

from robustbench_local.certification.base import Certificate
from robustbench_local.certification.bound_propagation.crown import CROWN
from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.recipes.certified_base import CertifiedRecipe
from robustbench_local.defenses.recipes.noise_base import NoisyRecipe
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

_BATCH_SIZE = 50
_VOTE_SAMPLES = 1000
"""Number of votes per image: enough for radii up to 2.4 sigma."""
_CertificateSpec = tuple[dict[str, Any], Certificate, ThreatModel]


def list_certificates(recipe: Recipe) -> list[_CertificateSpec]:
    """List the certificates that a recipe trains for, with name and threat model; mostly none."""
    if isinstance(recipe, CertifiedRecipe):
        threat = recipe.threat
        lines = CROWN(intermediate="ibp")
        return [({"certificate": "ibp"}, IBP(), threat), ({"certificate": "crown-ibp"}, lines, threat)]
    if isinstance(recipe, NoisyRecipe):
        vote = Smoothing(sigma=recipe.sigma, n=_VOTE_SAMPLES)
        name = {"certificate": "smoothing", "sigma": recipe.sigma, "alpha": vote.alpha}
        radii = (recipe.sigma, 2 * recipe.sigma)
        return [(name, vote, ThreatModel(norm="L2", eps=radius)) for radius in radii]
    return []


def count_certified(
    classifier: Classifier, data: Dataset, certificate: Certificate, threat: ThreatModel
) -> int:
    """Count the images that are correctly classified and certified in the ball.

    Args:
        classifier: The network.
        data: Images and labels.
        certificate: The method.
        threat: The ball.
    """
    certificate.check_support(threat, classifier)
    base, verified = certificate.get_base_classifier(classifier), 0
    with base.evaluation_mode():
        for first in range(0, len(data), _BATCH_SIZE):
            some = data.select_images(range(first, min(first + _BATCH_SIZE, len(data))))
            images, labels = some.images.to(base.device), some.labels.to(base.device)
            stream = RandomStream(0, some.ids, repr(certificate))
            verified += int(certificate.certify(base, images, labels, threat, stream).verified.sum())
    return verified
