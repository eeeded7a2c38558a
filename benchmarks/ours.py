"""The same methods of ours, by the names of ``rows``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.job import BenchmarkJob
from robustbench_local import Classifier
from robustbench_local.attacks import ATTACKS, make_attack
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import Norm, ThreatModel

_OUR_METHODS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "fgsm": ("fgsm", {}, None),
    "pgd": ("pgd", {"early_stop": False}, "steps"),
    "pgd, early stop": ("pgd", {}, "steps"),
    "apgd": ("apgd", {"early_stop": False}, "steps"),
    "apgd, early stop": ("apgd", {}, "steps"),
    "apgd-t": ("apgd-t", {}, "steps"),
    "fab-t": ("fab-t", {}, "steps"),
    "square": ("square", {}, "queries"),
    "autoattack": ("autoattack", {}, None),
    "ddn": ("ddn", {}, "steps"),
    "fmn": ("fmn", {}, "steps"),
    "cw": ("cw", {}, "steps"),
    "deepfool": ("deepfool", {}, "steps"),
    "curve": ("curve", {}, None),
}
"""Our method: name in the registry, hyper-parameters, and which of them the job's steps are."""


def has_method(method: str) -> bool:
    """Whether this version has the method."""
    return _OUR_METHODS[method][0] in ATTACKS


def run_method(method: str, classifier: Classifier, job: BenchmarkJob, norm: Norm) -> Tensor:
    """Run a method of ours.

    Args:
        method: A key of the table above.
        classifier: Inside ``classifier.evaluation_mode()``.
        job: Images and hyper-parameters; its module is not used.
        norm: Norm of the ball.

    Returns:
        Candidates, shaped like the images.
    """
    name, parameters, steps = _OUR_METHODS[method]
    given = parameters if steps is None else {**parameters, steps: job.steps}
    attack = make_attack(name, given)
    threat = ThreatModel(norm=norm, eps=job.eps)
    stream = RandomStream(job.seed, tuple(map(str, range(len(job.images)))), repr(attack))
    with classifier.count_passes(len(job.images)):
        return attack.perturb(classifier, job.images, job.labels, threat, stream)
