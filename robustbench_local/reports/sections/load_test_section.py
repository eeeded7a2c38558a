"""Load tests of the served models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.load_figures import (
    LOAD_NAMES,
    describe_process,
    describe_setup,
    describe_trend,
    format_accuracy,
    format_errors,
    format_figure,
    format_load,
)
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from robustbench_local.store.load_test_records import LoadResult, LoadTestRecord

LOAD_COLUMNS = ("load", "what", "images/s", "p50 ms", "p95 ms", "p99 ms", "n", "errors")
ACCURACY_COLUMNS = ("images", "accuracy before", "accuracy after", "changed answers")


class LoadTestSection(Section[tuple["LoadTestRecord", ...]]):
    """Tables of loads and accuracies for each model; shown if ``rbl load-test`` wrote into the run."""

    anchor = "load-tests"
    title = "Under load"
    link_text = "Under load"
    template = "load_test.html.j2"
    is_folded = True
    explanation = (
        "Throughput and latency of the served models, with 95% intervals: batch means for throughput, order "
        "statistics for latencies. In a closed loop (c) each client waits for its answer; in an open loop "
        "(r) requests arrive at random times, and latency counts from the time that a request was meant to "
        "be sent. A failed request counts as slower than any other. The figures are those of one machine."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[LoadTestRecord, ...]:
        """Select the load tests."""
        return tuple(evidence.load_tests)

    load_columns, accuracy_columns = LOAD_COLUMNS, ACCURACY_COLUMNS

    @staticmethod
    def name_record(record: LoadTestRecord) -> str:
        """Return the name of a tested model with its defense, and where it was served."""
        defense = "" if record.defense == "none" else f" + {record.defense}"
        return f"{record.model}{defense} ({record.service})"

    @staticmethod
    def list_loads(record: LoadTestRecord) -> list[list[str]]:
        """List the rows of the loads, as in `LOAD_COLUMNS`; names are not escaped."""
        rows = [_format_row(load, load.name) for load in record.loads]
        return [*rows, *([_format_row(record.soak.load, "soak")] if record.soak else ())]

    @staticmethod
    def list_accuracies(record: LoadTestRecord) -> list[list[str]]:
        """List the rows of the accuracies, as in `ACCURACY_COLUMNS`."""
        return [
            [
                row.images,
                format_accuracy(row.before),
                format_accuracy(row.after),
                f"{row.changed:,} of {row.n:,}",
            ]
            for row in record.accuracies
        ]

    @staticmethod
    def list_sentences(record: LoadTestRecord) -> list[str]:
        """List what the tables do not show: trends, memory, setup and findings."""
        trends = [describe_trend(trend) for trend in (record.soak.trends if record.soak else ())]
        findings = [f"{finding.level}: {finding.text}" for finding in record.findings]
        return [one for one in (*findings, *trends, describe_process(record), describe_setup(record)) if one]

    def to_markdown(self, content: tuple[LoadTestRecord, ...], evidence: Evidence) -> Iterable[str]:
        """Render two tables for each model."""
        yield from (f"## {self.title}", "", f"{self.explanation} Names of loads: {LOAD_NAMES}.", "")
        for record in content:
            yield from (f"### {escape_markdown(self.name_record(record))}", "")
            yield from (*render_table(LOAD_COLUMNS, _escape_rows(self.list_loads(record))), "")
            accuracies = _escape_rows(self.list_accuracies(record))
            if accuracies:
                yield from (*render_table(ACCURACY_COLUMNS, accuracies), "")
            yield from (f"- {escape_markdown(line)}" for line in self.list_sentences(record))
            yield ""

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``load_tests``."""
        return {"load_tests": [record.model_dump(mode="json") for record in evidence.load_tests]}


LOAD_TESTS = LoadTestSection()


def _format_row(load: LoadResult, name: str) -> list[str]:
    figures = (load.throughput, load.p50_ms, load.p95_ms, load.p99_ms)
    return [
        name,
        format_load(load),
        *(format_figure(one) for one in figures),
        f"{load.requests:,}",
        format_errors(load),
    ]


def _escape_rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[escape_markdown(text) for text in row] for row in rows]
