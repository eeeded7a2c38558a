"""Entries for a leaderboard as RobustBench keeps them, one JSON file for each model and threat model.

The keys are those of RobustBench's model_info files (https://github.com/RobustBench/robustbench).
"""

from __future__ import annotations

from typing import Any

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.trust import format_mark, select_distrust
from robustbench_local.reports.exports.file_slugs import make_slugs
from robustbench_local.reports.formatting.text import format_estimate, format_radius, redact_private_data
from robustbench_local.reports.writers.results_json import format_json
from robustbench_local.statistics import Estimate

ROBUSTBENCH_NORMS = ("Linf", "L2")
"""Norms that RobustBench ranks attacks in."""


def write_robustbench_entries(evidence: Evidence) -> dict[str, str]:
    """Write one entry for each model that the standard version of AutoAttack has finished on.

    Values are texts in percent, as RobustBench has them. What a run does not know, such as the authors, is
    null and for the user to fill in. ``footnote`` has n and the intervals, and why a number is unreliable.

    Returns:
        File name -> JSON.
    """
    cells = [cell for cell in evidence.attack_cells if _is_standard_autoattack(cell)]
    names = [f"{cell.record.norm}-{cell.threat.name}-{cell.subject}" for cell in cells]
    return {
        f"robustbench-{slug}.json": format_json(redact_private_data(_encode_entry(evidence, cell)))
        for slug, cell in zip(make_slugs(names), cells, strict=True)
    }


def _is_standard_autoattack(cell: CellResult) -> bool:
    parameters = cell.record.parameters
    return (
        cell.is_done
        and cell.is_in_worst_case
        and not cell.record.sources
        and cell.record.norm in ROBUSTBENCH_NORMS
        and parameters.get("method") == "autoattack"
        and parameters.get("version") == "standard"
    )


def _encode_entry(evidence: Evidence, cell: CellResult) -> dict[str, Any]:
    model = _find_model(evidence, cell)
    lowest = _compute_worst_share(evidence, cell)
    is_lower = lowest.value < cell.robust_accuracy.value
    mark = format_mark(select_distrust(evidence, cell.subject, cell.threat))
    data = evidence.data
    return {
        "link": None,
        "name": str(cell.subject),
        "authors": None,
        "additional_data": None,
        "number_forward_passes": None if (model.get("wrapper") or {}).get("randomness") else 1,
        "dataset": data.get("name"),
        "venue": None,
        "architecture": (model.get("provenance") or {}).get("architecture"),
        "eps": format_radius(cell.record.eps),
        "clean_acc": _format_share(cell.clean_accuracy),
        "reported": None,
        "autoattack_acc": _format_share(cell.robust_accuracy),
        **({"external": _format_share(lowest)} if is_lower else {}),
        "unreliable": bool(mark),
        "footnote": " ".join(
            filter(
                None,
                [
                    f"AutoAttack: {format_estimate(cell.robust_accuracy)}.",
                    f"Clean: {format_estimate(cell.clean_accuracy)}.",
                    f"Worst case over all attacks on the same images: {format_estimate(lowest)}."
                    if is_lower
                    else "",
                    f"{mark}." if mark else "",
                    f"Images: {data.get('digest', 'unknown')}; weights: {model.get('digest', 'unknown')}.",
                ],
            )
        ),
    }


def _compute_worst_share(evidence: Evidence, cell: CellResult) -> Estimate:
    """Compute the worst case over all attacks on the images of this cell, so that only attacks differ."""
    worst = evidence.get_worst_case(cell.subject, cell.threat)
    if worst is None:
        return cell.robust_accuracy
    marks = {image: worst.any_attack_verdicts[image].robust for image in cell.verdicts}
    return estimate_image_share(marks, cell.groups)


def _find_model(evidence: Evidence, cell: CellResult) -> dict[str, Any]:
    return next(
        (
            dict(about)
            for about in evidence.models
            if evidence.get_subject(about["id"], about["defense"]) == cell.subject
        ),
        {},
    )


def _format_share(estimate: Estimate) -> str:
    """Format a share in percent with two digits, as leaderboards do; the footnote has n and interval."""
    return f"{100 * estimate.value:.2f}"
