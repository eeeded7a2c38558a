"""The trust panel: every diagnostic of every model, and the checklist for evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.checklist import SOURCE, ChecklistLine, build_checklist
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.trust import select_diagnostics
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import MISSING_TEXT, format_percent
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import (
    STATUS_ORDER,
    DiagnosticResult,
    DiagnosticsRecord,
)

_CALM_STATUSES = frozenset({"ok", "not run"})


@dataclass(frozen=True, kw_only=True)
class ModelTrust:
    """The diagnostics of one model."""

    subject: EvaluatedModel
    """The model and its defense."""
    results: tuple[DiagnosticResult, ...]
    """All of them, the most serious first."""

    @property
    def notable_results(self) -> list[DiagnosticResult]:
        """Those that found something."""
        return [result for result in self.results if result.status not in _CALM_STATUSES]

    @property
    def calm_results(self) -> list[DiagnosticResult]:
        """Those that found nothing, or were not run."""
        return [result for result in self.results if result.status in _CALM_STATUSES]

    @property
    def counts_text(self) -> str:
        """How many have each status, such as ``1 fail, 17 ok``."""
        counts = {status: sum(one.status == status for one in self.results) for status in STATUS_ORDER}
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


@dataclass(frozen=True, kw_only=True)
class TrustContent:
    """The content of the trust panel."""

    models: tuple[ModelTrust, ...]
    """Each model with its diagnostics."""
    cost_sentence: str
    """What the questions to the models cost; empty in older runs."""
    checklist: tuple[ChecklistLine, ...]
    """The lines of the checklist."""


class TrustSection(Section[TrustContent]):
    """What speaks for and against the numbers."""

    anchor = "trust"
    title = "Can these numbers be trusted?"
    link_text = "Trust"
    template = "trust.html.j2"
    is_folded = True
    explanation = (
        "Robust accuracy is only as good as the attacks. Diagnostics ask each model before the attacks, and "
        "compare the attacks afterwards. Block: there is no robustness number. Fail: the number is not "
        "trustworthy, and no gate on it passes. Warn and info: to keep in mind."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> TrustContent:
        """Build the panel."""
        return TrustContent(
            models=tuple(_build_model_trust(evidence, subject) for subject in evidence.subjects),
            cost_sentence=format_diagnostics_cost(evidence.diagnostics),
            checklist=build_checklist(evidence),
        )

    def is_shown(self, content: TrustContent) -> bool:
        """Return whether the run has a model."""
        return bool(content.models)

    def to_markdown(self, content: TrustContent, evidence: Evidence) -> Iterable[str]:
        """Render the diagnostics that found something, and the checklist."""
        yield from [f"## {self.title}", "", self.explanation, ""]
        if content.cost_sentence:
            yield from [content.cost_sentence, ""]
        head = ["model", "diagnostic", "status", "figure", "limit", "n", "finding", "what to do"]
        rows = [
            [escape_markdown(str(trust.subject)), *map(escape_markdown, format_result_cells(result))]
            for trust in content.models
            for result in trust.notable_results
        ]
        yield from [*render_table(head, rows), ""] if rows else []
        yield from (
            f"- {escape_markdown(str(trust.subject))}: {trust.counts_text}" for trust in content.models
        )
        yield from ["", f"Checklist ({SOURCE}, in our words):", ""]
        yield from (
            f"- {line.status}: {escape_markdown(line.text)} {escape_markdown(line.note)}"
            for line in content.checklist
        )
        yield ""

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``diagnostics`` and ``checklist``."""
        record = evidence.diagnostics
        results = [one for subject in evidence.subjects for one in select_diagnostics(evidence, subject)]
        return {
            "diagnostics": {
                "passes": record.passes,
                "planned_passes": record.planned_passes,
                "passes_share": record.passes_share,
                "results": [_encode_result(result) for result in results],
            },
            "checklist": [
                {"text": line.text, "status": line.status, "note": line.note}
                for line in build_checklist(evidence)
            ],
        }


TRUST = TrustSection()


def format_diagnostics_cost(record: DiagnosticsRecord) -> str:
    """Format what the diagnostics cost; empty without any."""
    if not record.results:
        return ""
    return (
        f"The questions to the models took {format_count(record.passes, 'pass')}, "
        f"{format_percent(record.passes_share)} "
        f"of the {record.planned_passes:,} that the attacks may take (limit 10%)."
    )


def format_result_cells(result: DiagnosticResult) -> list[str]:
    """Format a result as table cells: diagnostic, status, figure, limit, n, finding, what to do."""
    name = f"{result.id} {result.name}" + (f" ({result.threat})" if result.threat else "")
    figures = [MISSING_TEXT if number is None else f"{number:.4g}" for number in (result.value, result.limit)]
    count = f"{result.n:,}" if result.n else MISSING_TEXT
    return [name, result.status, *figures, count, result.sentence, result.action]


def _build_model_trust(evidence: Evidence, subject: EvaluatedModel) -> ModelTrust:
    results = select_diagnostics(evidence, subject)
    ranked = sorted(results, key=lambda result: STATUS_ORDER.index(result.status))
    return ModelTrust(subject=subject, results=tuple(ranked))


def _encode_result(result: DiagnosticResult) -> JsonDict:
    values = result.to_json()
    del values["images"]
    return {**values, "passes": list(result.passes)}
