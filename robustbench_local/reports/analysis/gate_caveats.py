"""Caveats of a verdict: what it rests on, said beside a gate that passes, or keeping it from passing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.gate_types import GateVerdict
from robustbench_local.reports.analysis.trust import UNTRUSTED_PHRASE, format_mark
from robustbench_local.store.diagnostic_records import DiagnosticResult

_NORMS_OF_ADAPTIVE = frozenset({"Linf", "L2", "L1"})
"""Norms of the attack that reads the model first."""


def apply_distrust(verdict: GateVerdict, distrust: Sequence[DiagnosticResult]) -> GateVerdict:
    """Return a verdict that does not pass on a number that diagnostics find not trustworthy.

    Args:
        verdict: The verdict on the measured number.
        distrust: Diagnostics that fail or block; without any the verdict stays.
    """
    if not distrust:
        return verdict
    if verdict.ruling != "pass":
        return replace(verdict, reason=f"{verdict.reason}; {format_mark(distrust)}")
    found = " ".join(f"{result.id}: {result.sentence}" for result in distrust)
    if verdict.gate.trust == "ignore":
        return replace(
            verdict, reason=f"{verdict.reason}; {UNTRUSTED_PHRASE}, which trust: ignore lets pass: {found}"
        )
    return replace(
        verdict,
        ruling="inconclusive",
        reason=f"{verdict.reason} as measured, but {UNTRUSTED_PHRASE}: {found}",
    )


def note_unchecked(verdict: GateVerdict, *, is_unchecked: bool) -> GateVerdict:
    """Return a verdict that says so if it passes on gradients that no diagnostic has looked at."""
    if not is_unchecked or verdict.ruling != "pass" or verdict.gate.metric == "clean_accuracy":
        return verdict
    caveat = "whether the gradients of the model can be trusted was not checked"
    return replace(verdict, reason=f"{verdict.reason}; {caveat}")


def note_gradient_attacks(verdict: GateVerdict, cells: Sequence[CellResult]) -> GateVerdict:
    """Return a verdict that says so if it passes on attacks that all follow gradients.

    Diagnostics ask a model at a few points only, so that one that masks its gradients elsewhere would pass
    without a word. A gate that names its attack is about that attack alone.
    """
    if verdict.ruling != "pass" or verdict.gate.attack or verdict.gate.metric == "clean_accuracy":
        return verdict
    attacks = [cell for cell in cells if cell.is_in_worst_case and cell.record.norm in _NORMS_OF_ADAPTIVE]
    if not attacks or any(cell.searches_without_gradients for cell in attacks):
        return verdict
    caveat = "only attacks that follow gradients ran; adaptive would show whether the model masks them"
    return replace(verdict, reason=f"{verdict.reason}; {caveat}")


def apply_twin_disagreement(
    verdict: GateVerdict, cells: Sequence[CellResult], about: Mapping[str, Any] | None
) -> GateVerdict:
    """Return a verdict that does not pass on attacks that followed a network unlike the model.

    ``trust: ignore`` lets it pass, and it says so.

    Args:
        verdict: The verdict on the measured number.
        cells: The results that it rests on.
        about: What the run says of the model's float twin; None without one.
    """
    if verdict.ruling != "pass" or verdict.gate.metric == "clean_accuracy":
        return verdict
    followed = any(
        cell.record.twin is not None and cell.record.knowledge not in {"scores", "labels"} for cell in cells
    )
    if not followed or about is None or about.get("agrees", True):
        return verdict
    compared = format_count(about["compared"], "clean image")
    caveat = f"attacks followed a twin that gives only {about['same_labels']} of {compared} the same label"
    if verdict.gate.trust == "ignore":
        return replace(verdict, reason=f"{verdict.reason}; {caveat}, which trust: ignore lets pass")
    return replace(
        verdict,
        ruling="inconclusive",
        reason=f"{verdict.reason} as measured, but {caveat}: name the network that the model was made from",
    )
