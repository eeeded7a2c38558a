"""The pages about runs: list, run, report, trends and comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from robustbench_local.errors import RobustbenchError
from robustbench_local.reports.page import charts
from robustbench_local.view.image_pages import find_run
from robustbench_local.view.page_numbers import PageNumbers
from robustbench_local.view.run_catalog import ListedRun, describe_problem
from robustbench_local.view.run_query import (
    ROWS_PER_RUN,
    RUNS_PER_PAGE,
    SORTS,
    STATES,
    list_choices,
    list_models,
    parse_run_query,
    select_runs,
    select_shown_rows,
)
from robustbench_local.view.trends import (
    build_series,
    build_trend_chart,
    describe_last,
    list_trend_choices,
    order_points,
)
from robustbench_local.view.view_pages import add_navigation, read_page_policy, render_view
from robustbench_local.view.viewer import Viewer

_MAX_RUN_CHOICES = 2_000
"""Runs that a comparison can be chosen from."""


class RunPages:
    """The pages about runs.

    Args:
        viewer: The work behind them.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer

    def show_list(self, request: Request) -> Response:
        """Show the list of runs."""
        query = parse_run_query(request.query_params)
        runs, scan = self._viewer.catalog.list_runs()
        shown = select_runs(runs, query)
        pages = PageNumbers.from_count(len(shown), query.page, RUNS_PER_PAGE)
        page = render_view(
            "run_list.html.j2",
            query=query,
            shown=shown[pages.start : pages.end],
            count=len(shown),
            total=len(runs),
            pages=pages,
            choices=list_choices(runs),
            states_list=STATES,
            sorts=SORTS,
            rows_per_run=ROWS_PER_RUN,
            select_shown_rows=select_shown_rows,
            list_models=list_models,
            pending=sum(run.is_pending for run in runs),
            skipped=scan.skipped,
            state_counts=Counter(state for run in runs for state in run.states),
        )
        return HTMLResponse(page)

    def show_run(self, request: Request) -> Response:
        """Show a run: its verdict, its rates, its cells, and where to go from there."""
        run = find_run(self._viewer, request)
        return HTMLResponse(render_view("run_detail.html.j2", run=run, list_models=list_models))

    def show_report(self, request: Request) -> Response:
        """Show the report of a run, as ``rbl report`` would write it now."""
        run = find_run(self._viewer, request)
        if run.listing is None:
            raise HTTPException(422, run.problem)
        links = {"/": "All runs", f"/runs/{run.found.id}": run.name}
        return _send_page(self._viewer.render_report(run), links)

    def show_trends(self, request: Request) -> Response:
        """Show a rate of a model over runs; without a choice, what can be followed."""
        given = request.query_params
        label, threat = given.get("model", ""), given.get("threat", "")
        quantity = given.get("quantity", "robust accuracy")
        runs, _ = self._viewer.catalog.list_runs()
        series = build_series(runs, label=label, threat=threat, quantity=quantity)
        title = f"{quantity[:1].upper()}{quantity[1:]} of {label} under {threat}"
        page = render_view(
            "run_trends.html.j2",
            choices=list_trend_choices(runs),
            is_chosen=bool(label or threat),
            label=label,
            threat=threat,
            quantity=quantity,
            title=title if series else "Trends",
            series=series,
            points=order_points(series),
            summary=describe_last(series),
            chart=build_trend_chart(series, title) if series else None,
            chart_module=charts,
            pending=sum(run.is_pending for run in runs),
        )
        return HTMLResponse(page)

    def show_comparison(self, request: Request) -> Response:
        """Show the comparison of two runs; without a choice, a form."""
        given = request.query_params
        runs, _ = self._viewer.catalog.list_runs()
        by_id = {run.found.id: run for run in runs if run.listing is not None}
        baseline, run = by_id.get(given.get("baseline", "")), by_id.get(given.get("run", ""))
        allows_other_data = given.get("data", "") == "different"
        problem = ""
        if baseline is not None and run is not None:
            try:
                page = self._viewer.render_comparison(baseline, run, allow_different_data=allows_other_data)
            except RobustbenchError as error:
                problem = describe_problem(error, self._viewer.catalog.root)
            else:
                links = {
                    "/": "All runs",
                    f"/compare?baseline={baseline.found.id}": "Choose other runs",
                    f"/runs/{baseline.found.id}": baseline.name,
                    f"/runs/{run.found.id}": run.name,
                }
                return _send_page(page, links)
        elif given.get("baseline") and given.get("run"):
            problem = "One of the runs is not here any more."
        page = render_view(
            "compare_runs.html.j2",
            runs=_sort_by_time(by_id.values())[:_MAX_RUN_CHOICES],
            baseline=given.get("baseline", ""),
            run=given.get("run", ""),
            allows_other_data=allows_other_data,
            problem=problem,
        )
        return HTMLResponse(page, 422 if problem else 200)


def _send_page(page: str, links: dict[str, str]) -> Response:
    """Send a rendered report or comparison under the policy that it states, and in no frame."""
    policy = read_page_policy(page)
    headers = {} if policy is None else {"content-security-policy": f"{policy}; frame-ancestors 'none'"}
    return HTMLResponse(add_navigation(page, links), headers=headers)


def _sort_by_time(runs: Iterable[ListedRun]) -> list[ListedRun]:
    return sorted(runs, key=lambda run: (run.moment, run.name), reverse=True)
