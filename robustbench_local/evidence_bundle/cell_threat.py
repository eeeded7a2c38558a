"""The threat model of a cell in a bundle, read from its identity, and the names of its examples."""

from __future__ import annotations

import ast

from robustbench_local.errors import ThreatError
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.store import CellRecord, OutcomeRecord
from robustbench_local.threats.threat_model import ThreatModel


def parse_threat(cell: CellRecord) -> ThreatModel:
    """Read the threat model of a cell from its identity, and hold it against the cell's other fields.

    Raises:
        BundleError: If they disagree, or it cannot be read.
    """
    try:
        call = ast.parse(cell.identity["threat"], mode="eval").body
        is_call = isinstance(call, ast.Call) and ast.unparse(call.func) == ThreatModel.__name__
        words = call.keywords if isinstance(call, ast.Call) and is_call else []
        values = {word.arg: ast.literal_eval(word.value) for word in words if word.arg}
        threat = ThreatModel(**values)
    except (KeyError, ValueError, TypeError, SyntaxError, ThreatError, RecursionError, MemoryError) as error:
        raise BundleError(f"the threat model of {cell.attack} cannot be read ({error})") from error
    if (threat.norm, threat.eps, threat.targets) != (cell.norm, cell.eps, cell.targets):
        raise BundleError(f"{cell.attack} states two threat models: {threat!r}, and {cell.norm} {cell.eps:g}")
    return threat


def name_example(cell: CellRecord, outcome: OutcomeRecord) -> str:
    """Name an example in a message."""
    model = cell.model if cell.defense == "none" else f"{cell.model} + {cell.defense}"
    return f"{outcome.image} under {cell.attack} on {model}"
