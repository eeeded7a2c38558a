"""The checklist of Carlini et al. 2019, line by line: done automatically, declared by the user, or not done.

Source: Carlini et al. 2019, arXiv:1902.06705, the checklist for evaluations; the lines are in our own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.distances import measures_distance
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.trust import list_diagnostics
from robustbench_local.reports.formatting.text import format_count, isolate_direction, join_in_sentence

ChecklistStatus = Literal["done automatically", "declared by the user", "not done"]
MIN_CURVE_POINTS = 3
"""Budgets of one norm from which on there is a curve."""
SOURCE = "Carlini et al. 2019, arXiv:1902.06705"


@dataclass(frozen=True, kw_only=True)
class ChecklistLine:
    """One line of the checklist, with what the run did about it."""

    text: str
    """What an evaluation should do."""
    status: ChecklistStatus
    """Who did it, if anyone."""
    note: str
    """What was done, or what to do."""


@dataclass(frozen=True, kw_only=True)
class _Item:
    text: str
    find: Callable[[Evidence], str]
    """What the run did; empty if nothing."""
    advice: str
    """What to do if neither the run nor the user did it."""
    key: str = ""
    """Key under ``declared:`` in the grid file; empty if only a run can do it."""


@collect_once
def build_checklist(evidence: Evidence) -> Iterator[ChecklistLine]:
    """Build every line of the checklist, in the order of the paper."""
    declared = evidence.grid.get("declared") or {}
    for item in _ITEMS:
        found, stated = item.find(evidence), str(declared.get(item.key) or "") if item.key else ""
        status: ChecklistStatus = (
            "done automatically" if found else "declared by the user" if stated else "not done"
        )
        hint = f" Or state it under declared: {item.key}." if item.key else ""
        yield ChecklistLine(text=item.text, status=status, note=found or stated or f"{item.advice}{hint}")


def _list_attacks(evidence: Evidence) -> list[CellResult]:
    return [cell for cell in evidence.attack_cells if cell.is_done and not cell.is_corruption]


def _name_attacks(cells: list[CellResult]) -> str:
    labels = list(dict.fromkeys(isolate_direction(cell.label) for cell in cells))
    return join_in_sentence(labels) if len(labels) <= 4 else f"{join_in_sentence(labels[:3])} and others"


def _find_knowledge(*kinds: str) -> Callable[[Evidence], str]:
    """Return a search for attacks with one of these kinds of knowledge, stages of ensembles included."""

    def find(evidence: Evidence) -> str:
        cells = [
            cell
            for cell in _list_attacks(evidence)
            if cell.record.knowledge in kinds
            or ("scores" in kinds and str(cell.record.parameters.get("method")).endswith("autoattack"))
        ]
        return f"{_name_attacks(cells)}." if cells else ""

    return find


def _find_diagnostics(*identifiers: str) -> Callable[[Evidence], str]:
    """Return a search for diagnostics that were run, whatever they found."""

    def find(evidence: Evidence) -> str:
        ran = {
            result.id
            for result in list_diagnostics(evidence)
            if result.id in identifiers and result.status != "not run"
        }
        return f"Diagnostic{'s' if len(ran) > 1 else ''} {join_in_sentence(sorted(ran))}." if ran else ""

    return find


def _find_adaptive(evidence: Evidence) -> str:
    cells = [cell for cell in _list_attacks(evidence) if cell.record.parameters.get("method") == "adaptive"]
    return f"{_name_attacks(cells)}, which inspects each model first." if cells else ""


def _find_clean_accuracy(evidence: Evidence) -> str:
    known = any(evidence.compute_clean_accuracy(subject).is_known for subject in evidence.subjects)
    return "Stated for each model, with its interval." if known else ""


def _find_curve(evidence: Evidence) -> str:
    if any(measures_distance(cell) for cell in _list_attacks(evidence)):
        return "A distance attack gives the whole curve."
    sizes: dict[str, set[float]] = {}
    for threat in evidence.threats:
        sizes.setdefault(threat.norm, set()).add(threat.eps)
    most = max((len(found) for found in sizes.values()), default=0)
    return f"{most} budgets of one norm." if most >= MIN_CURVE_POINTS else ""


def _find_worst_case(evidence: Evidence) -> str:
    most = max((len(worst.attacks) for worst in evidence.worst_cases), default=0)
    return f"Worst case of each image over {format_count(most, 'attack')}." if most else ""


def _find_parameters(evidence: Evidence) -> str:
    return "Every hyperparameter is in results.json and under Method." if evidence.cells else ""


def _find_restarts(evidence: Evidence) -> str:
    cells = [
        cell
        for cell in _list_attacks(evidence)
        if isinstance(many := cell.record.parameters.get("restarts"), int) and many > 1
    ]
    return f"{_name_attacks(cells)}." if cells else ""


def _find_goals(evidence: Evidence) -> str:
    kinds = {cell.targeted for cell in _list_attacks(evidence)}
    return "Both kinds ran." if len(kinds) == 2 else ""


def _find_certificates(evidence: Evidence) -> str:
    done = [cell for cell in evidence.certificate_cells if cell.is_done]
    return f"{_name_attacks(done)}." if done else ""


def _find_threats(evidence: Evidence) -> str:
    kinds = list(dict.fromkeys(cell.record.norm for cell in evidence.cells if cell.is_done))
    return f"{join_in_sentence(kinds)}." if len(kinds) > 1 else ""


def _find_ablation(evidence: Evidence) -> str:
    defended = {subject.model for subject in evidence.subjects if subject.defense != "none"}
    bare = {subject.model for subject in evidence.subjects if subject.defense == "none"}
    return "The models ran with and without their defense." if defended & bare else ""


def _find_files(evidence: Evidence) -> str:  # noqa: ARG001 - no run can know
    return ""


_ITEMS: tuple[_Item, ...] = (
    _Item(
        text="Say who the attacker is: goal, knowledge and budget, and why the budget fits.",
        find=_find_files,
        key="threat_model",
        advice="The report states goal, knowledge and budget; say why they fit.",
    ),
    _Item(
        text="Attack with full knowledge of the defense, by an attack made for it.",
        find=_find_adaptive,
        key="adaptive_attack",
        advice="Run adaptive.",
    ),
    _Item(
        text="Publish code and weights, so that others can attack the model.",
        find=_find_files,
        key="source_code",
        advice="Publish them.",
    ),
    _Item(
        text="State the accuracy without any attack.",
        find=_find_clean_accuracy,
        advice="Let an attack finish.",
    ),
    _Item(
        text="Check that many steps beat one, larger budgets beat smaller ones, and no budget at all is "
        "withstood.",
        find=_find_diagnostics("D11", "D12", "D15"),
        advice="Run an attack with several steps and budgets.",
    ),
    _Item(
        text="Draw success over the budget.",
        find=_find_curve,
        advice="Give eps a list of three or more, or run curve-linf.",
    ),
    _Item(
        text="Count for each image the best attack, not the average of attacks.",
        find=_find_worst_case,
        advice="Let an attack finish.",
    ),
    _Item(
        text="List the attacks with all their hyperparameters.",
        find=_find_parameters,
        advice="Let an attack finish.",
    ),
    _Item(
        text="Attack without gradients as well, by scores.",
        find=_find_knowledge("scores"),
        advice="Run square-linf-8 or autoattack-linf-8.",
    ),
    _Item(
        text="Attack by the predicted label alone.",
        find=_find_knowledge("labels"),
        advice="Run hopskipjump-linf-8.",
    ),
    _Item(
        text="Transfer adversarial examples from similar models.",
        find=_find_knowledge("transfer", "naive"),
        advice="Give an attack transfer_from: another model.",
    ),
    _Item(
        text="Replace parts without a gradient by smooth ones (BPDA), and average over random ones (EOT).",
        find=_find_diagnostics("D4", "D21", "D26"),
        advice="Run adaptive.",
    ),
    _Item(
        text="Show that attacks have converged.",
        find=_find_diagnostics("D13"),
        key="convergence",
        advice="Run the attack with twice the steps as well.",
    ),
    _Item(
        text="Start attacks several times.",
        find=_find_restarts,
        advice="Give an attack restarts: 5.",
    ),
    _Item(
        text="Compare with earlier work, and explain differences.",
        find=_find_files,
        key="prior_work",
        advice="Compare with published numbers.",
    ),
    _Item(
        text="Test other budgets and other kinds of change as well.",
        find=_find_threats,
        advice="Add a second norm or corruptions.",
    ),
    _Item(
        text="Ask whether robustness can be proven.",
        find=_find_certificates,
        key="certificate",
        advice="Run a certificate such as certify-crown-linf-2.",
    ),
    _Item(
        text="Try random noise of the same size.",
        find=_find_diagnostics("D10"),
        advice="Runs of some size do so by themselves.",
    ),
    _Item(
        text="Attack with and without a target class.",
        find=_find_goals,
        advice="Add a targeted attack such as stop-to-speed-limit.",
    ),
    _Item(
        text="Take the defense apart: test the model without each of its parts.",
        find=_find_ablation,
        key="ablation",
        advice="List the defense none beside the others.",
    ),
    _Item(
        text="Test new attacks on other defenses first.",
        find=_find_files,
        key="attack_validation",
        advice="Those of this package are compared with other libraries in its tests.",
    ),
)
