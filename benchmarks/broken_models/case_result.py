"""What a finished run says about a case: numbers, words, diagnostics and the verdict of a gate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.broken_models.case import ModelCase
from benchmarks.broken_models.case_run import find_case_folder
from robustbench_local.reports.analysis.doubt_finders import find_doubts
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_store
from robustbench_local.reports.analysis.trust import list_diagnostics
from robustbench_local.reports.sections.report_data import ReportData, read_report_data
from robustbench_local.store.run_store import RunStore

MAX_EXCESS_POINTS = 5.0
"""Points by which a headline may lie above the honest robust accuracy."""
_SAMPLE_SIZE_ID = "D23"
"""The diagnostic that warns of any run of so few images."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The result of a case.

    Args:
        case: The case.
        n: Images.
        clean: Correctly classified clean images; None if no attack finished.
        robust: By attack, images on which it failed; only attacks that finished.
        problems: By attack, why it did not finish.
        headline: Robust images in the worst case; None if the report states no number.
        is_marked: Whether the report says that the number is not to be trusted.
        words: Findings and doubts about the model, one sentence each.
        diagnostics: Status and sentence of each diagnostic that found something.
        gate: Ruling of a gate that asks for more than the honest accuracy; empty if that is unknown.
        seconds: CPU time.
    """

    case: ModelCase
    n: int
    clean: int | None
    robust: dict[str, int]
    problems: dict[str, str]
    headline: int | None
    is_marked: bool
    words: tuple[str, ...]
    diagnostics: tuple[tuple[str, str, str], ...]
    gate: str
    seconds: int

    @property
    def honest(self) -> int | None:
        """Robust images under the strongest attack made by hand."""
        share = self.case.compute_honest_share(self.n)
        return None if share is None else round(share * self.n)

    @property
    def failed_diagnostics(self) -> tuple[str, ...]:
        """Ids of those that block or fail."""
        return tuple(ident for ident, status, _ in self.diagnostics if status in {"block", "fail"})

    @property
    def is_silent(self) -> bool:
        """Whether nothing at all is said about the model."""
        return not (self.words or self.diagnostics or self.problems)

    @property
    def excess_points(self) -> float | None:
        """Points by which the stated headline lies above the honest robust accuracy."""
        if self.headline is None or self.honest is None:
            return None
        return 100 * (self.headline - self.honest) / self.n

    @property
    def is_too_high(self) -> bool:
        """Whether a number without a mark lies clearly above the honest one."""
        return not self.is_marked and (self.excess_points or 0.0) > MAX_EXCESS_POINTS


def read_result(case: ModelCase, folder: Path) -> CaseResult | None:
    """Read the result of a case; None if it was not run."""
    place = find_case_folder(case, folder)
    if not (place / "state.txt").exists():
        return None
    seconds = int((place / "seconds.txt").read_text(encoding="utf-8"))
    if (place / "refused.txt").exists() and not (place / "run" / "run.db").exists():
        refusal = (place / "refused.txt").read_text(encoding="utf-8")
        return _build_refused(case, refusal, seconds)
    with RunStore.open_readonly(place / "run") as store:
        data = read_report_data(store)
        n = max((cell.record.images for cell in data.evidence.cells), default=0)
        gate = _judge_gate(store, case, n)
    return _build_result(case, data, n, gate, seconds)


def _build_refused(case: ModelCase, refusal: str, seconds: int) -> CaseResult:
    return CaseResult(
        case=case,
        n=case.images,
        clean=None,
        robust={},
        problems={"run": refusal},
        headline=None,
        is_marked=True,
        words=(),
        diagnostics=(),
        gate="inconclusive",
        seconds=seconds,
    )


def _build_result(case: ModelCase, data: ReportData, n: int, gate: str, seconds: int) -> CaseResult:
    evidence = data.evidence
    cells = {cell.record.card: cell for cell in evidence.cells}
    done = {card: cell for card, cell in cells.items() if cell.is_done}
    worst = evidence.worst_cases[0] if evidence.worst_cases else None
    is_known = worst is not None and worst.robust_accuracy.is_known
    diagnostics = _list_diagnostics(evidence)
    words = [finding.text for finding in data.findings if _is_about_model(finding.level, finding.text)]
    words += [doubt.reason for doubt in find_doubts(evidence)]
    failed = any(status in {"block", "fail"} for _, status, _ in diagnostics)
    return CaseResult(
        case=case,
        n=n,
        clean=next((cell.tally.clean_correct for cell in done.values()), None),
        robust={card: cell.tally.robust for card, cell in done.items()},
        problems={card: cell.problem or "" for card, cell in cells.items() if card not in done},
        headline=round(worst.robust_accuracy.value * n) if is_known and worst is not None else None,
        is_marked=failed or not is_known,
        words=tuple(dict.fromkeys(words)),
        diagnostics=diagnostics,
        gate=gate,
        seconds=seconds,
    )


def _is_about_model(level: str, text: str) -> bool:
    """Whether a finding is about the model, repeats no diagnostic, and is not about floating-point noise."""
    return level != "note" and not re.match(r"D\d+[a-z]?, |Verdicts within floating-point noise", text)


def _judge_gate(store: RunStore, case: ModelCase, n: int) -> str:
    """Ask for more than the honest accuracy and the points that are allowed beyond it."""
    share = case.compute_honest_share(n)
    if share is None:
        return ""
    limit = min(1.0, share + MAX_EXCESS_POINTS / 100)
    attacked = [record for record in store.read_cells() if record.images]
    if not attacked:
        return "inconclusive"
    entry: dict[str, Any] = {"metric": "robust_accuracy", "threat": attacked[0].threat, "min": limit}
    report = judge_store(store, [{**entry, "on": "estimate"}])
    return report.verdicts[0].ruling


def _list_diagnostics(evidence: Evidence) -> tuple[tuple[str, str, str], ...]:
    """Id, status and sentence of each diagnostic that found something."""
    return tuple(
        (result.id, result.status, result.sentence)
        for result in list_diagnostics(evidence)
        if result.status in {"block", "fail", "warn"} and result.id != _SAMPLE_SIZE_ID
    )
