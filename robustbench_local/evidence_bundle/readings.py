"""What a model was found to say about examples that are read again, and the check that this makes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from robustbench_local.counted_nouns import format_count
from robustbench_local.evidence_bundle.check_results import CheckResult, CheckStatus


@dataclass
class Readings:
    """What was found for examples of one model."""

    label: str
    """The model, with its defense."""
    is_random: bool = False
    """Whether the model answers at random, so that another answer decides nothing."""
    stands: int = 0
    failures: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Examples that cannot be read again, by the reason."""


def summarize_readings(readings: Readings, what: str, thing: str) -> CheckResult:
    """Summarize what was found.

    Args:
        readings: What was found.
        what: Begins the name of the check, such as ``verdicts``.
        thing: What was read again, a noun such as ``stored verdict``, in the singular.
    """
    total = readings.stands + len(readings.failures) + len(readings.doubts)
    sentence = f"{readings.stands:,} of {format_count(total, thing)} stand"
    if readings.doubts:
        sentence += f", {len(readings.doubts):,} could not be decided"
    sentence += "".join(f"; not read again: {count:,} {why}" for why, count in readings.skipped.items())
    status: CheckStatus = "failed" if readings.failures else "undecided" if readings.doubts else "ok"
    return CheckResult(
        name=f"{what} of {readings.label}",
        status=status if total else "not checked",
        sentence=sentence,
        details=(*readings.failures, *readings.doubts),
    )
