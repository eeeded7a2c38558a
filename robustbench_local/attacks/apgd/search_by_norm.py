"""The APGD search for each norm."""

from __future__ import annotations

from typing import Any

from robustbench_local.attacks.apgd.l1_search import APGDL1Search
from robustbench_local.attacks.apgd.lp_search import APGDSearch
from robustbench_local.attacks.core.objective import LossName
from robustbench_local.attacks.core.search import Search
from robustbench_local.threats.threat_model import ThreatModel


def build_apgd_search(*, threat: ThreatModel, steps: int, loss: LossName, name: str = "apgd") -> Search[Any]:
    """Build APGD's search for the threat model's norm.

    Args:
        threat: Budget, goal and region.
        steps: Steps of a path.
        loss: Loss to maximize; towards the item's target if it has one.
        name: Name of the stage.
    """
    search = APGDL1Search if threat.norm == "L1" else APGDSearch
    return search(threat=threat, steps=steps, loss=loss, name=name)
