"""What the run took, beside what was expected, and the batch sizes that it chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import EN_DASH, format_duration, format_mebibytes
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore
from robustbench_local.store.run_costs import BatchSizeRecord, CallCost, Ends

MAX_SHOWN_CALLS = 3
"""Number of calls that the report shows, the latest ones; results.json has all that are stored."""
COST_COLUMNS = (
    "",
    "actual",
    "expected from earlier runs",
    "expected after the first images",
    "at most, passes alone",
)
SIZE_COLUMNS = ("model", "batch size", "why")


@dataclass(frozen=True, kw_only=True)
class RunCosts:
    """The content of the section."""

    calls: Sequence[CallCost]
    """The costs of each call, in order."""
    batch_sizes: Sequence[BatchSizeRecord]
    """The measured batch sizes."""

    def __bool__(self) -> bool:
        return bool(self.calls or self.batch_sizes)


class RunCostSection(Section[RunCosts]):
    """Tables of costs and batch sizes; shown if the command line ran the grid, or sizes were measured."""

    anchor = "run-cost"
    title = "Time and memory"
    link_text = "Time and memory"
    template = "run_cost.html.j2"
    is_folded = True
    explanation = (
        "What the attacks and certificates took, beside what was expected: from earlier runs for all images, "
        "and after the first images for this call; each range is meant to contain the actual value "
        "in four of five runs. Passes hardly depend on the machine. Times are those of this one, with "
        "whatever else it did, and with work beside the passes, such as starting and measuring."
    )
    size_explanation = "Images in a pass of each worker; they have no influence on verdicts."
    size_columns = SIZE_COLUMNS

    def build_content(self, evidence: Evidence, store: RunStore) -> RunCosts:
        """Select the costs and the batch sizes."""
        return RunCosts(calls=evidence.call_costs, batch_sizes=evidence.batch_sizes)

    @staticmethod
    def list_calls(
        content: RunCosts,
    ) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """Iterate over the latest calls: heading, those of `COST_COLUMNS` that are not empty, and rows."""
        first = max(len(content.calls) - MAX_SHOWN_CALLS, 0)
        for number, call in enumerate(content.calls[first:], start=first + 1):
            many = f"Call {number} of {len(content.calls)}" if len(content.calls) > 1 else "This run"
            rows = _list_rows(call)
            kept = [index for index, column in enumerate(zip(*rows, strict=True)) if any(column)]
            columns = tuple(COST_COLUMNS[index] for index in kept)
            yield many, columns, [tuple(row[index] for index in kept) for row in rows]

    @staticmethod
    def list_batch_sizes(content: RunCosts) -> list[tuple[str, str, str]]:
        """List the rows of the batch sizes, as in `SIZE_COLUMNS`; names are not escaped."""
        return [
            (row.model, str(row.size), "; ".join(filter(None, [row.reason, _format_reduction(row)])))
            for row in content.batch_sizes
        ]

    def to_markdown(self, content: RunCosts, evidence: Evidence) -> Iterable[str]:
        """Render a table for each call, and one of the batch sizes."""
        yield from (f"## {self.title}", "")
        if content.calls:
            yield from (self.explanation, "")
        for heading, columns, rows in self.list_calls(content):
            yield from (f"### {heading}", "", *render_table(columns, rows), "")
        if content.batch_sizes:
            rows = [tuple(map(escape_markdown, row)) for row in self.list_batch_sizes(content)]
            yield from ("### Batch sizes", "", self.size_explanation, "")
            yield from (*render_table(SIZE_COLUMNS, rows), "")

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``run_costs`` and ``batch_sizes``."""
        return {
            "run_costs": [_encode_call(call) for call in evidence.call_costs],
            "batch_sizes": [asdict(row) for row in evidence.batch_sizes],
        }


RUN_COST = RunCostSection()


def _encode_call(call: CallCost) -> JsonDict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(call).items()}


def _list_rows(call: CallCost) -> list[tuple[str, ...]]:
    count = call.images_before_estimate
    after = f", after {format_count(round(count), 'image')}" if count else ""
    return [
        (
            "time",
            _format_seconds(call.seconds),
            "",
            _format_range(call.expected_seconds, after),
            _format_seconds(call.max_seconds),
        ),
        (
            "passes",
            _format_passes(call.passes),
            _format_range(call.planned_passes, kind="passes"),
            _format_range(call.expected_passes, after, kind="passes"),
            _format_passes(call.max_passes),
        ),
        ("CPU time", _format_seconds(call.cpu_seconds), _format_range(call.planned_cpu_seconds), "", ""),
        (
            "memory of the largest process",
            "" if call.peak_bytes is None else format_mebibytes(call.peak_bytes),
            "",
            "" if call.expected_peak_bytes is None else format_mebibytes(call.expected_peak_bytes) + after,
            "",
        ),
    ]


def _format_range(ends: Ends | None, after: str = "", *, kind: str = "seconds") -> str:
    if ends is None:
        return ""
    form = _format_seconds if kind == "seconds" else _format_passes
    return f"{form(ends[0])}{EN_DASH}{form(ends[1])}{after}"


def _format_seconds(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)


def _format_passes(passes: float | None) -> str:
    return "" if passes is None else f"{round(passes):,}"


def _format_reduction(row: BatchSizeRecord) -> str:
    return "" if row.reduced_to is None else f"{row.reduced_to} after memory ran out during the run"
