"""What becomes of a diagnostic once it is known which attacks ran: a more serious status, or other advice."""

from __future__ import annotations

from dataclasses import replace

from robustbench_local.store.diagnostic_records import DiagnosticResult

SCALE_DIAGNOSTICS = frozenset({"D5", "D18"})
"""Diagnostics of outputs that are probabilities, or on an extreme scale."""
_AROUND_ADVICE = (
    "The attack adaptive ran already: what it broke counts, and what it left may still fall to an attack "
    "made by hand."
)
_ADVICE_AFTER_ADAPTIVE = {
    "D6b": _AROUND_ADVICE,
    "D7": _AROUND_ADVICE,
    "D8": "State the lower number, over all attacks: what is left may still fall to an attack made by hand.",
    "D9": "State the lower number, over all attacks: what is left may still fall to an attack made by hand.",
    "D10": "Run more restarts: the attack adaptive, which ran already, misses what a random draw finds.",
    "D11": _AROUND_ADVICE,
    "D26": "The attack adaptive ran already, through a smooth approximation of it (BPDA).",
    "D28": "The attack adaptive ran already, on the networks inside as well.",
    "D30": _AROUND_ADVICE,
}
"""What is left to do about a finding that would otherwise be a reason to run adaptive."""


def fail_cross_entropy(result: DiagnosticResult) -> DiagnosticResult:
    """Let D5 and D18 fail: every attack follows the cross-entropy, which such outputs weaken.

    Attacks on the margin or DLR loss, ensembles with them, and attacks without gradients do not depend on the
    scale of the outputs.
    """
    if result.id not in SCALE_DIAGNOSTICS or result.status != "warn":
        return result
    return replace(
        result,
        status="fail",
        sentence=f"{result.sentence.rstrip('.')}, and every attack of the run follows the cross-entropy, "
        "which that weakens.",
        action="Add an attack on the margin loss, such as autoattack or adaptive.",
    )


def fail_without_adaptive(result: DiagnosticResult) -> DiagnosticResult:
    """Let D28 fail: an ensemble chooses among networks inside, and no attack went for these networks.

    Such an ensemble fell from 77.8 % to 2.2 % (Zhang et al. 2024, arXiv:2411.14834) under transfer from them.
    """
    if result.id != "D28" or result.status != "warn":
        return result
    return replace(result, status="fail")


def advise_after_adaptive(result: DiagnosticResult) -> DiagnosticResult:
    """Return a result whose advice is not to run adaptive, since it has run."""
    advice = _ADVICE_AFTER_ADAPTIVE.get(result.id)
    return replace(result, action=advice) if advice and result.action else result
