"""Why a number is not to be trusted, in words that need no knowledge of the diagnostics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.trust import UNTRUSTED_PHRASE, VOID_WORD
from robustbench_local.reports.formatting.text import join_in_sentence
from robustbench_local.store.diagnostic_records import DiagnosticResult

MAX_REASONS = 2
"""Reasons that a sentence names; of more, their number."""

DISTRUST_REASONS: Mapping[str, str] = {
    "D1": "images lie outside the range that attacks assume",
    "D2": "the model does not give finite outputs",
    "D3": "the model is not in evaluation mode",
    "D4": "the model gives different answers to the same image",
    "D5": "the outputs weaken the only loss that attacks used",
    "D6a": "no gradient reaches the pixels",
    "D6b": "the gradient that attacks follow is zero",
    "D6c": "the gradient of the usual loss vanishes",
    "D7": "the gradient that attacks follow is misleading",
    "D8": "attacks without gradients succeed where the others fail",
    "D9": "examples made for another model succeed where attacks fail",
    "D10": "random noise succeeds where attacks fail",
    "D11": "even an attack without any limit fails",
    "D12": "a larger budget succeeds less often",
    "D13": "more steps would still succeed on more images",
    "D14": "success depends on where an attack starts",
    "D15": "more effort succeeds less often",
    "D17": "attacks with another loss succeed far more often",
    "D18": "the outputs weaken the only loss that attacks used",
    "D19": "the model expects pixels on another scale",
    "D20": "the model optimizes while it answers",
    "D21": "no attack averages over the model's random draws",
    "D22": "the clean accuracy is that of guessing, or not as declared",
    "D25": "an attack contradicts a certificate",
    "D26": "operators without a gradient mislead attacks",
    "D27": "the model expects images in another form",
    "D28": "the model chooses among its members, so that gradients see few of them",
    "D29": "answers depend on earlier questions",
    "D30": "the gradient that attacks follow is misleading",
    "D31": "the model has the classes in another order",
}
"""What a diagnostic that fails or blocks has found, by its id."""


def describe_reasons(distrust: Iterable[DiagnosticResult]) -> str:
    """Describe what diagnostics that fail or block have found: ``no gradient reaches the pixels``.

    Args:
        distrust: The diagnostics, the one to name first in front; the same finding is named once.

    Returns:
        Clauses joined as in a sentence; empty without diagnostics.
    """
    reasons = list(
        dict.fromkeys(
            DISTRUST_REASONS.get(result.id, f'it fails the check "{result.name}"') for result in distrust
        )
    )
    left_out = len(reasons) - MAX_REASONS
    more = [f"for {format_count(left_out, 'more reason')}"] if left_out > 0 else []
    return join_in_sentence([*reasons[:MAX_REASONS], *more])


def explain_mark(distrust: Iterable[DiagnosticResult]) -> str:
    """Return the mark of a number with its reasons: ``not trustworthy because no gradient ... (D6a)``.

    Returns:
        The mark; empty if the number needs none.
    """
    results = list(distrust)
    if not results:
        return ""
    blocks = [result for result in results if result.status == "block"]
    named = blocks or results
    ids = ", ".join(dict.fromkeys(result.id for result in results))
    return f"{VOID_WORD if blocks else UNTRUSTED_PHRASE} because {describe_reasons(named)} ({ids})"
