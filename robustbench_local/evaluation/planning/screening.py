"""Cheap attacks that a run which stops early adds in front of expensive ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count

from robustbench_local.attacks.apgd.apgd import APGD
from robustbench_local.attacks.base import Attack
from robustbench_local.certification.base import Certificate
from robustbench_local.evaluation.harness.cell_key import cell_key
from robustbench_local.evaluation.planning.plan import CellSpec

MIN_COST_RATIO = 10
"""An attack that costs this many times APGD's passes is worth APGD in front of it."""
MIN_CHEAP_SHARE = 0.4
"""Unless the grid has an attack in front of it that costs at least this part of APGD's passes: a few steps
leave many images that the expensive attack misclassifies after all, and it would have to see most of them."""
_NAME = "screening"
_NOTE = "added by the rule to stop early: what it misclassifies, the expensive attacks need not try"


def build_screening_cells(cells: Sequence[CellSpec]) -> Iterator[CellSpec]:
    """Build a cell of APGD for each model and threat model whose attacks are all expensive.

    APGD on the cross-entropy is the first stage of AutoAttack. Its successes are verified like any other's.

    Args:
        cells: The cells of the grid.
    """
    attack, position = APGD(), count(max((cell.record.position for cell in cells), default=-1) + 1)
    groups = dict.fromkeys((str(cell.subject), cell.threat) for cell in cells if _is_screenable(cell, attack))
    for group in groups:
        members = [
            cell
            for cell in cells
            if (str(cell.subject), cell.threat) == group and _is_screenable(cell, attack)
        ]
        costs = [_estimate_cost(cell, cell.method) for cell in members]
        dearest = members[costs.index(max(costs))]
        cheap = _estimate_cost(dearest, attack)
        least, most = cheap * MIN_CHEAP_SHARE, max(costs) / MIN_COST_RATIO
        if most >= cheap and not any(least <= cost <= most for cost in costs):
            yield _build_cell(dearest, attack, next(position))


def get_image_cost(cell: CellSpec) -> float:
    """Return the most passes that a cell takes for an image, or as long as which it takes."""
    return sum(cell.work_passes) / max(len(cell.positions), 1)


def _estimate_cost(cell: CellSpec, method: Attack | Certificate) -> int:
    """Return the most passes of an attack itself for an image of a cell."""
    return (
        sum(method.estimate_cost_on(cell.subject.classifier, cell.threat))
        if isinstance(method, Attack)
        else 0
    )


def _is_screenable(cell: CellSpec, attack: APGD) -> bool:
    """Return whether the screening attack can stand in front of this cell, under the same threat model."""
    threat = cell.threat
    return (
        isinstance(cell.method, Attack)
        and cell.problem is None
        and not (cell.skip_reason or cell.surrogate or threat.targets)
        and threat.norm in attack.norms
        and threat.region in attack.regions
        and cell.method.measure != "views"
        and cell.subject.attacked_classifier.access == "gradients"
    )


def _build_cell(dearest: CellSpec, attack: APGD, position: int) -> CellSpec:
    """Build the cell of the screening attack on the images of an expensive one."""
    record = dearest.record
    identity = {**record.identity, "attack": repr(attack)}
    name = f"{_NAME}-{dearest.threat.name}"
    screening = replace(
        record,
        key=cell_key({**identity, "id": record.model, "name": name}),
        position=position,
        attack=name,
        card="apgd",
        parameters={"method": "apgd", **asdict(attack)},
        identity=identity,
        note=_NOTE,
        knowledge=attack.get_knowledge_of(dearest.subject.attacked_classifier),
        measure=attack.measure,
    )
    return replace(dearest, record=screening, method=attack)
