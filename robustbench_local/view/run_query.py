"""Search, filters, order and page of the list of runs, as they stand in an address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

from robustbench_local.errors import did_you_mean
from robustbench_local.store.run_summary import SummaryRow
from robustbench_local.view.run_catalog import ListedRun

RUNS_PER_PAGE = 50
ROWS_PER_RUN = 4
"""Rates of a run that the list shows; the run's own page shows all."""
STATES = ("pass", "fail", "inconclusive", "invalid", "no verdict", "unfinished", "running", "unreadable")
SORTS = {
    "date": "Date",
    "name": "Run",
    "model": "Model",
    "data": "Images",
    "verdict": "Verdict",
    "clean": "Clean accuracy",
    "rate": "Robust accuracy",
}
"""Keys to sort by, with their names."""
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_MAX_TEXT = 300


class ShownRun(NamedTuple):
    """A run of the list with the rates that match the filters."""

    run: ListedRun
    """The run."""
    rows: tuple[SummaryRow, ...]
    """Its matching rates."""


@dataclass(frozen=True, kw_only=True)
class RunQuery:
    """What the list shows."""

    text: str = ""
    """Words that have to occur in name, question, data, models or threat models."""
    model: str = ""
    """Label of a model; empty for all."""
    data: str = ""
    """Name and split of the images; empty for all."""
    threat: str = ""
    """Name of a threat model; empty for all."""
    verdict: str = ""
    """A verdict or state of `STATES`; empty for all."""
    since: str = ""
    """First day; empty for any."""
    until: str = ""
    """Last day; empty for any."""
    sort: str = "date"
    """A key of `SORTS`."""
    order: str = "desc"
    """``asc`` or ``desc``."""
    page: int = 1
    """From 1."""
    problems: tuple[str, ...] = ()
    """What could not be read, in sentences."""

    def format_query(self, **changes: str | int) -> str:
        """Return the query of an address with this search, changed; what is as by default is left out."""
        names = {"text": "q", "since": "from", "until": "to"}
        values = {
            key: changes.get(key, getattr(self, key))
            for key in (
                "text",
                "model",
                "data",
                "threat",
                "verdict",
                "since",
                "until",
                "sort",
                "order",
                "page",
            )
        }
        return urlencode(
            {names.get(key, key): value for key, value in values.items() if value != getattr(RunQuery, key)}
        )

    @property
    def is_filtered(self) -> bool:
        """Whether it may leave runs out."""
        return any((self.text, self.model, self.data, self.threat, self.verdict, self.since, self.until))


def parse_run_query(given: Mapping[str, str]) -> RunQuery:
    """Parse the query of an address; what cannot be read is left out, and named."""
    problems: list[str] = []

    def choose(key: str, choices: Iterable[str], default: str) -> str:
        value = given.get(key, "") or default
        if value in choices or value == default:
            return value
        problems.append(f"There is no {key} {value[:60]!r}; {did_you_mean(value[:60], choices)}")
        return default

    def read_day(key: str) -> str:
        value = given.get(key, "").strip()
        if value and not _DAY.fullmatch(value):
            problems.append(f"{value[:60]!r} is no day; write it as 2026-01-31.")
            return ""
        return value

    page = given.get("page", "1")
    return RunQuery(
        text=given.get("q", "").strip()[:_MAX_TEXT],
        model=given.get("model", "")[:_MAX_TEXT],
        data=given.get("data", "")[:_MAX_TEXT],
        threat=given.get("threat", "")[:_MAX_TEXT],
        verdict=choose("verdict", STATES, ""),
        since=read_day("from"),
        until=read_day("to"),
        sort=choose("sort", SORTS, "date"),
        order=choose("order", ("asc", "desc"), "desc"),
        page=parse_page(page),
        problems=tuple(problems),
    )


def parse_page(text: str) -> int:
    """Parse the number of a page; the first one for anything else."""
    return max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) < 9 else 1


def select_runs(runs: Sequence[ListedRun], query: RunQuery) -> list[ShownRun]:
    """Select the runs of a search with their matching rates, in its order; unknown values come last."""
    shown = []
    for run in runs:
        rows = _select_rows(run, query)
        if _is_selected(run, rows, query):
            shown.append(ShownRun(run, rows))
    shown.sort(key=lambda one: one.run.name)
    known = [one for one in shown if _get_sort_value(one, query.sort) is not None]
    unknown = [one for one in shown if _get_sort_value(one, query.sort) is None]
    known.sort(key=lambda one: _get_sort_value(one, query.sort), reverse=query.order == "desc")  # type: ignore[arg-type, return-value]
    return [*known, *unknown]


def select_shown_rows(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Select the rates that the list shows of a run: one a model, under the first threat model."""
    first = [row for row in rows if (row.threat, row.quantity) == (rows[0].threat, rows[0].quantity)]
    return first[:ROWS_PER_RUN]


def list_choices(runs: Iterable[ListedRun]) -> dict[str, list[str]]:
    """List the models, data and threat models that the runs have, for the filters."""
    models: set[str] = set()
    data: set[str] = set()
    threats: set[str] = set()
    for run in runs:
        if run.listing is not None:
            threats |= {cell.threat for cell in run.listing.cells}
            models |= set(list_models(run))
            data |= {run.data_name} - {""}
    return {"model": sorted(models), "data": sorted(data), "threat": sorted(threats)}


def list_models(run: ListedRun) -> list[str]:
    """List the labels of a run's models, in the order of the grid."""
    if run.summary is not None and run.summary.rows:
        return list(dict.fromkeys(row.label for row in run.summary.rows))
    cells = () if run.listing is None else run.listing.cells
    return list(
        dict.fromkeys(
            cell.model if cell.defense == "none" else f"{cell.model} + {cell.defense}" for cell in cells
        )
    )


def _select_rows(run: ListedRun, query: RunQuery) -> tuple[SummaryRow, ...]:
    rows = () if run.summary is None else run.summary.rows
    return tuple(row for row in rows if query.model in {"", row.label} and query.threat in {"", row.threat})


def _is_selected(run: ListedRun, rows: Sequence[SummaryRow], query: RunQuery) -> bool:
    return (
        (bool(rows) or _has_names(run, query))
        and query.data in {"", run.data_name}
        and (not query.verdict or query.verdict in run.states)
        and (not query.since or run.date >= query.since)
        and (not query.until or run.date <= query.until)
        and (not query.text or _contains_words(run, query.text))
    )


def _has_names(run: ListedRun, query: RunQuery) -> bool:
    """Return whether a run has the model and the threat model of a search in its cells, without a rate."""
    cells = () if run.listing is None else run.listing.cells
    has_model = not query.model or query.model in list_models(run)
    return has_model and (not query.threat or query.threat in {cell.threat for cell in cells})


def _contains_words(run: ListedRun, text: str) -> bool:
    parts = [run.name, run.data_name, run.problem, *run.states, *list_models(run)]
    if run.listing is not None:
        parts += [run.listing.name, run.listing.question]
        parts += {cell.threat for cell in run.listing.cells} | {cell.attack for cell in run.listing.cells}
    content = "\n".join(parts).casefold()
    return all(word in content for word in text.casefold().split())


def _get_sort_value(shown: ShownRun, key: str) -> str | float | None:
    """Return what a run is sorted by; None if it is unknown."""
    run = shown.run
    if key == "name":
        return run.name.casefold()
    if key == "model":
        return next(iter(list_models(run)), "").casefold() or None
    if key == "data":
        return run.data_name.casefold() or None
    if key == "verdict":
        return next((float(STATES.index(state)) for state in reversed(run.states)), None)
    if key in {"clean", "rate"}:
        rows = select_shown_rows(shown.rows)
        estimates = [row.clean if key == "clean" else row.rate for row in rows]
        return max((estimate.value for estimate in estimates if estimate.is_known), default=None)
    return run.moment or None
