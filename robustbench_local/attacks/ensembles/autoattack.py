"""AutoAttack: the standard ensemble, with the verdicts of the published version, on the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustbench_local.attacks.apgd.search_by_norm import build_apgd_search
from robustbench_local.attacks.apgd.targeted import select_targeted_loss
from robustbench_local.attacks.core.objective import LossName
from robustbench_local.attacks.ensembles.ensemble import Ensemble, Stage
from robustbench_local.attacks.minimum_norm.fab import FABSearch
from robustbench_local.attacks.square.square import SquareSearch
from robustbench_local.classifier import Classifier
from robustbench_local.threats.threat_model import ThreatModel

GRADIENT_STEPS = 100
"""Steps of APGD and FAB."""
SQUARE_STEPS = 5000
"""Steps of Square."""
RAND_EOT_SAMPLES = 20
"""Gradients averaged by version ``rand``."""

Version = Literal["standard", "plus", "rand"]


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """AutoAttack, with its stages implemented from the papers.

    All searches for an image end with its first confirmed success. All target classes of an image are tried
    side by side, and every image draws its own random numbers. Verdicts therefore depend neither on the batch
    size nor on the other images of the evaluation.

    ``standard`` is APGD on the cross-entropy, APGD on the targeted DLR loss, targeted FAB and Square, the
    version commonly reported. ``plus`` adds APGD on the DLR loss and untargeted FAB (here with the boundary
    to the runner-up class), with 5 restarts. ``rand`` is for stochastic classifiers: APGD on both losses,
    each gradient averaged over 20 draws. Where the DLR loss is undefined, with fewer than 3 classes (4 with a
    target), the margin replaces it. With a targeted goal the stages are the same and the targets are the
    goal's classes.

    Args:
        version: ``"standard"``, ``"plus"`` or ``"rand"``.

    Source: Croce & Hein 2020, arXiv:2003.01690, section 5; L1: Croce & Hein 2021, arXiv:2103.01208.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})

    version: Version = "standard"

    @property
    def eot_samples(self) -> int:
        """20 passes for version ``rand``, 1 for the others; see :attr:`Attack.eot_samples`."""
        return RAND_EOT_SAMPLES if self.version == "rand" else 1

    def build_stages(self, threat: ThreatModel, num_classes: int) -> tuple[Stage, ...]:
        """See :meth:`Ensemble.build_stages`."""
        dlr = select_untargeted_loss(threat, num_classes)
        if self.version == "rand":
            return (build_apgd_stage("apgd-ce", "ce"), build_apgd_stage("apgd-dlr", dlr))
        sparse, plus = threat.norm == "L1", self.version == "plus"
        restarts = 5 if sparse or plus else 1
        # only the standard version has fewer target classes under L1
        steered = build_apgd_stage(
            "apgd-t", select_targeted_loss(num_classes), targets=5 if sparse and not plus else 9
        )
        cross_entropy_stage = build_apgd_stage("apgd-ce", "ce", restarts=restarts)
        square = Stage(name="square", build_search=_build_square_search, uses_gradients=False)
        if not plus:
            return (cross_entropy_stage, steered, build_fab_stage("fab-t", targets=9), square)
        both = (cross_entropy_stage, build_apgd_stage("apgd-dlr", dlr, restarts=5))
        return (
            *both,
            build_fab_stage("fab", restarts=5),
            square,
            steered,
            build_fab_stage("fab-t", targets=9),
        )

    def describe_caveats(self, classifier: Classifier, threat: ThreatModel) -> str:
        """Describe differences from the standard version: few classes, or a targeted goal."""
        notes = []
        if classifier.num_classes < 4:
            notes.append(f"with {classifier.num_classes} classes the margin takes the place of the DLR loss")
        if threat.targets:
            notes.append("steered for the goal's own target classes")
        return f"AutoAttack: {'; '.join(notes)}" if notes else ""


def build_apgd_stage(name: str, loss: LossName, *, restarts: int = 1, targets: int = 0) -> Stage:
    """Build a stage of APGD on a loss."""
    return Stage(
        name=name,
        build_search=lambda threat: build_apgd_search(
            threat=threat, steps=GRADIENT_STEPS, loss=loss, name=name
        ),
        restarts=restarts,
        targets=targets,
    )


def build_fab_stage(name: str, *, restarts: int = 1, targets: int = 0) -> Stage:
    """Build a stage of FAB."""
    return Stage(
        name=name,
        build_search=lambda threat: FABSearch(threat=threat, steps=GRADIENT_STEPS, name=name),
        restarts=restarts,
        targets=targets,
    )


def select_untargeted_loss(threat: ThreatModel, num_classes: int) -> LossName:
    """Return the DLR loss where it is defined, otherwise the margin."""
    return "dlr" if num_classes >= 3 and not threat.targets else "margin"


def _build_square_search(threat: ThreatModel) -> SquareSearch:
    return SquareSearch(threat=threat, steps=SQUARE_STEPS, use_lookahead=True, name="square")
