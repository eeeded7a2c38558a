"""One attack on one model: the verified distance of each image, and what it cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustbench_local.attack_score.contenders import AttackRequest, Contender
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.classifier.memory_limit import halve_size, release_memory
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.verify import VerificationResult, predict, verify
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

_GROUP_SIZE = 100
"""Images that an attack gets at once, in the order of the data; some libraries draw for a whole batch."""
_ROUNDING = 1e-6
"""Excursion from [0, 1] that counts as rounding and is clipped."""
_EXTENSION_SHARE = 1e-3
"""Relative extension of a candidate that fails in another batch, because it lies on the boundary itself."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What an attack found on a model."""

    library: str
    attack: str
    distances: tuple[float, ...]
    """Verified distance of each image: 0 if misclassified without an attack, infinite without success."""
    forward: float
    """Mean number of forward passes per attacked image."""
    backward: float
    """The same for backward passes."""
    violations: tuple[tuple[str, str], ...]
    """Image and reason of each candidate that breaks a rule; it counts as no success."""
    failure: str = ""
    """The error that ended the attack; empty if it ran."""

    @property
    def calls(self) -> float:
        """Mean number of forward and backward passes per attacked image, all together."""
        return self.forward + self.backward

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values; an infinite distance is null."""
        return {
            "library": self.library,
            "attack": self.attack,
            "distances": [value if math.isfinite(value) else None for value in self.distances],
            "forward": self.forward,
            "backward": self.backward,
            "violations": [list(violation) for violation in self.violations],
            "failure": self.failure,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Measurement:
        """Return the measurement that ``to_json`` described."""
        return cls(
            library=content["library"],
            attack=content["attack"],
            distances=tuple(math.inf if value is None else float(value) for value in content["distances"]),
            forward=content["forward"],
            backward=content["backward"],
            violations=tuple((image, reason) for image, reason in content["violations"]),
            failure=content["failure"],
        )


def measure_contender(
    contender: Contender, classifier: Classifier, data: Dataset, threat: ThreatModel, seed: int
) -> Measurement:
    """Run an attack on the correctly classified images, and verify every candidate.

    Args:
        contender: The attack.
        classifier: The model.
        data: Images and labels.
        threat: The norm, and the largest distance that is searched for.
        seed: Seed of every draw.

    Returns:
        The measurement; an attack that raises is recorded as a failure. One for which memory runs out gets
        half as many images at once.
    """
    images, labels = data.images.to(classifier.device), data.labels.to(classifier.device)
    distances = torch.zeros(len(data), dtype=torch.float64)
    violations: list[tuple[str, str]] = []
    forward = backward = 0.0
    with classifier.evaluation_mode():
        with classifier.open_fresh_copy() as judge:
            attacked = predict(judge, images, labels).correct.nonzero().flatten()
        waiting = list(torch.split(attacked, _GROUP_SIZE))
        while waiting:
            rows = waiting.pop(0)
            request = AttackRequest(
                classifier=classifier,
                images=images[rows],
                labels=labels[rows],
                ids=tuple(data.ids[row] for row in rows.tolist()),
                threat=threat,
                seed=seed,
            )
            try:
                group = _measure_group(contender, request)
            except Exception as error:  # noqa: BLE001 - another library may raise anything: it is listed
                if is_out_of_memory(error) and len(rows) > 1:
                    waiting[:0] = torch.split(rows, halve_size(len(rows)))
                else:
                    return _build_failure(contender, error)
            else:
                forward += group.forward * len(rows)
                backward += group.backward * len(rows)
                distances[rows] = group.distances
                violations += group.violations
                continue
            release_memory()  # outside of the handler: its traceback holds the tensors of the attempt
    count = max(1, len(attacked))
    return Measurement(
        library=contender.library,
        attack=contender.name,
        distances=tuple(distances.tolist()),
        forward=forward / count,
        backward=backward / count,
        violations=tuple(violations),
    )


class _GroupMeasurement(NamedTuple):
    """What an attack found on the images that it got at once, and its mean passes per image."""

    distances: Tensor
    violations: list[tuple[str, str]]
    forward: float
    backward: float


def _measure_group(contender: Contender, request: AttackRequest) -> _GroupMeasurement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries warn of much
        candidates, forward, backward = contender.run(request)
    found, reasons = _verify_candidates(request.classifier, request, candidates)
    violations = [(image, reason) for image, reason in zip(request.ids, reasons, strict=True) if reason]
    return _GroupMeasurement(found, violations, forward, backward)


def _build_failure(contender: Contender, error: Exception) -> Measurement:
    return Measurement(
        library=contender.library,
        attack=contender.name,
        distances=(),
        forward=0.0,
        backward=0.0,
        violations=(),
        failure=f"{type(error).__name__}: {extract_first_line(error, 100)}",
    )


def _verify_candidates(
    classifier: Classifier, request: AttackRequest, candidates: Tensor
) -> tuple[Tensor, Sequence[str | None]]:
    """Return the verified distance of each image, infinite without success, and broken rules."""
    whole_box = ThreatModel(norm=request.threat.norm, eps=_compute_box_radius(request))
    candidates = _clip_rounding(candidates)
    first = _verify(classifier, request, candidates, whole_box)
    distance = _select_distances(request, first)
    longer = request.images + (1 + _EXTENSION_SHARE) * (first.candidates.to(request.images) - request.images)
    second = _verify(classifier, request, longer.clamp(0, 1), whole_box)
    return torch.minimum(distance, _select_distances(request, second)), first.rejection_reasons


def _verify(
    classifier: Classifier, request: AttackRequest, candidates: Tensor, threat: ThreatModel
) -> VerificationResult:
    stream = RandomStream(request.seed, request.ids, "attack-score")
    with classifier.open_fresh_copy() as judge:
        return verify(judge, request.images, request.labels, candidates, threat, stream=stream)


def _select_distances(request: AttackRequest, verified: VerificationResult) -> Tensor:
    change = verified.candidates.double() - request.images.cpu().double()
    return torch.where(verified.broken, compute_norms(change, request.threat.norm), torch.inf)


def _clip_rounding(candidates: Tensor) -> Tensor:
    """Return the candidates with excursions from [0, 1] by rounding clipped."""
    flat = candidates.flatten(1)
    nearly_inside = (flat.amin(dim=1) >= -_ROUNDING) & (flat.amax(dim=1) <= 1 + _ROUNDING)
    return torch.where(nearly_inside.view(-1, 1, 1, 1), candidates.clamp(0, 1), candidates)


def _compute_box_radius(request: AttackRequest) -> float:
    """Return the largest distance inside [0, 1] of any image."""
    return float(compute_norms(torch.ones_like(request.images[:1]), request.threat.norm).max())
