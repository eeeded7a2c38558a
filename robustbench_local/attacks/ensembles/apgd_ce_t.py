"""APGD-CE and APGD-T: the two gradient attacks of AutoAttack alone, for a quick estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_local.attacks.apgd.targeted import select_targeted_loss
from robustbench_local.attacks.ensembles.autoattack import build_apgd_stage
from robustbench_local.attacks.ensembles.ensemble import Ensemble, Stage
from robustbench_local.classifier import Classifier
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class APGDCET(Ensemble):
    """The first two stages of the standard AutoAttack; its results are not AutoAttack results.

    On networks without gradient masking it finds nearly all successes of AutoAttack at a tenth of the passes.
    It is no evidence for networks with gradient masking.

    Source: Croce & Hein 2020, arXiv:2003.01690, section 5.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})

    def build_stages(self, threat: ThreatModel, num_classes: int) -> tuple[Stage, ...]:
        """See :meth:`Ensemble.build_stages`."""
        sparse = threat.norm == "L1"
        return (
            build_apgd_stage("apgd-ce", "ce", restarts=5 if sparse else 1),
            build_apgd_stage("apgd-t", select_targeted_loss(num_classes), targets=5 if sparse else 9),
        )

    def describe_caveats(self, classifier: Classifier, threat: ThreatModel) -> str:  # noqa: ARG002
        """Describe the omitted stages."""
        return "apgd-ce+t is not AutoAttack: FAB-T and Square are left out, so masked gradients go unnoticed"
