"""The result of a check of a bundle: it holds, it fails, or it could not be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

CheckStatus = Literal["ok", "failed", "undecided", "not checked"]
"""``failed``: something does not stand; ``undecided``: it was tried and stays open; ``not checked``: nobody
asked for it, or it cannot be checked with what is in the bundle."""
MAX_SHOWN_DETAILS = 10
"""Details of a check that are printed; ``--json`` has all of them."""


class BundleError(Exception):
    """Something in a bundle is not what it has to be; its one argument is the sentence about it."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    name: str
    """What was checked, in a few words."""
    status: CheckStatus
    """What came of it."""
    sentence: str
    """The result in one sentence."""
    details: tuple[str, ...] = ()
    """What exactly does not hold, or is open, one line each."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "name": self.name,
            "status": self.status,
            "sentence": self.sentence,
            "details": list(self.details),
        }


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """All checks of a bundle."""

    checks: tuple[CheckResult, ...]
    """In the order in which they were made."""

    @property
    def exit_code(self) -> int:
        """0 if everything that was checked holds, 1 if something does not stand, 4 if something is open."""
        statuses = {check.status for check in self.checks}
        return 1 if "failed" in statuses else 4 if "undecided" in statuses else 0

    @property
    def verdict(self) -> str:
        """The verdict in words: what was checked stands, does not stand, or could not be decided."""
        return {0: "stands", 1: "does not stand", 4: "could not be decided"}[self.exit_code]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "checks": [check.to_json() for check in self.checks],
        }


def build_check(
    name: str,
    *,
    failures: Sequence[str] = (),
    doubts: Sequence[str] = (),
    good: str,
    bad: str,
    open_: str = "",
) -> CheckResult:
    """Build the result of a check from what was found.

    Args:
        name: What was checked.
        failures: What does not hold, one line each.
        doubts: What stays open, one line each.
        good: The sentence if there is neither.
        bad: The sentence if there are failures.
        open_: The sentence if there are only doubts.
    """
    if failures:
        return CheckResult(name=name, status="failed", sentence=bad, details=(*failures, *doubts))
    if doubts:
        return CheckResult(name=name, status="undecided", sentence=open_, details=tuple(doubts))
    return CheckResult(name=name, status="ok", sentence=good)
