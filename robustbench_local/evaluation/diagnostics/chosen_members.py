"""D28: does an ensemble choose from the answers of its members, so that gradients see few of them?"""

from __future__ import annotations

from robustbench_local.attacks.adaptive.findings import ModelFindings, PartFinding
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    TOO_SMALL_REASON,
    Diagnostic,
    Reading,
    build_unread,
)

MIN_MEMBERS = 2
"""Networks inside from which a model is an ensemble."""
_CHOOSING_OPERATORS = frozenset({"argmax", "rank", "top-k mask", "threshold"})
"""Operators without a gradient by which an ensemble may choose."""


class ChosenMembers(Diagnostic):
    """Ensembles that combine their members by median, rank, vote or the like."""

    id = "D28"
    name = "ensemble that chooses among its members"
    source = "Zhang et al. 2024, arXiv:2411.14834 (CrossMax ensembles broken by transfer from their parts)"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection: networks inside that agree with the whole, and functions that choose."""
        reason = _find_obstacle(model)
        if reason:
            return build_unread(reason)
        found: ModelFindings = model.findings  # type: ignore[assignment]
        members = [part for part in found.parts if part.role == "member"]
        if len(members) < MIN_MEMBERS:
            return Reading(status="ok", sentence="It is not an ensemble of networks.", value=0.0)
        names = _list_choices(found, members)
        agreement = min(member.agreement for member in members)
        if not names:
            return Reading(
                status="ok",
                sentence=f"It combines its {len(members)} networks by functions with a gradient to each.",
                value=0.0,
                n=found.images,
            )
        return Reading(
            status="warn",
            sentence=f"The model is an ensemble that chooses among its {len(members)} networks "
            f"({', '.join(names)}), each of which gives its label on at least {agreement:.0%} of "
            f"{format_count(found.images, 'image')}: gradients see only the chosen one, and "
            "attacks that follow them may be "
            "too weak.",
            value=float(len(names)),
            limit=0.0,
            n=found.images,
            action="Attack the networks inside and transfer, as adaptive does by itself.",
        )


def _list_choices(found: ModelFindings, members: list[PartFinding]) -> list[str]:
    """List the functions by which a module around all members chooses."""
    choosing = [finding for finding in found.operators if finding.operator in _CHOOSING_OPERATORS]
    return list(
        dict.fromkeys(
            finding.operator
            for finding in (*found.selections, *choosing)
            if all(not finding.path or member.path.startswith(f"{finding.path}.") for member in members)
        )
    )


def _find_obstacle(model: DiagnosedModel) -> str:
    """Return why the members are unknown, or an empty text."""
    if not model.gives_gradients:
        return f"the model gives {model.classifier.access} only, and no gradients"
    if model.findings is None:
        return model.missing_findings
    return "" if model.knows_parts or model.is_wholly_inspected else TOO_SMALL_REASON
