"""A run directory as an object, and the call that fills one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustbench_local.config.gate_policy import load_policy
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.cluster.cluster_runner import open_cluster_runner
from robustbench_local.evaluation.execution.cluster.cluster_settings import ClusterSettings
from robustbench_local.evaluation.execution.cluster.connection import check_address, import_ray
from robustbench_local.evaluation.execution.executor import (
    execute_plan,
    format_utc_now,
    restore_screening_cells,
)
from robustbench_local.evaluation.execution.job_runner import LOCAL_RUNNER
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.execution.stopping_run import execute_until_stopped
from robustbench_local.evaluation.grid.run_directory import find_run_directory
from robustbench_local.evaluation.grid.schema import Grid, load_grid
from robustbench_local.evaluation.options import DEFAULT_OPTIONS, Options
from robustbench_local.evaluation.planning.model_checks import check_plan_models
from robustbench_local.evaluation.planning.plan import Plan
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis import gates
from robustbench_local.reports.analysis.policy_gates import judge_run_by_policy
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.stop_targets import list_precision_targets
from robustbench_local.reports.summary.run_summary_rows import store_summary
from robustbench_local.reports.writers.outcome_table import load_outcomes_frame
from robustbench_local.reports.writers.results_json import load_results
from robustbench_local.stop_target import StopTarget
from robustbench_local.store.preprocessing_record import PREPROCESSING_CHECK_KEY
from robustbench_local.store.records import EventRecord
from robustbench_local.store.run_labels import LABELS_KEY
from robustbench_local.store.run_store import RunStore

if TYPE_CHECKING:
    import pandas as pd

CHANGEABLE_KEYS = ("grid", "gates", "question", "name", "severity", LABELS_KEY)
"""Keys that a resumed run takes from the current grid file: its texts, gates and severities decide no
verdict."""


class Run:
    """The contents of a run directory, for reading.

    Args:
        directory: A directory that ``run_grid`` or ``rbl run`` wrote.

    Raises:
        ConfigError: If it holds no run.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        RunStore.open_readonly(self.directory).close()

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @property
    def results(self) -> dict[str, Any]:
        """The content of results.json: cells, worst cases, environment."""
        with RunStore.open_readonly(self.directory) as store:
            return load_results(store)

    @property
    def outcomes(self) -> pd.DataFrame:
        """Outcomes with one row per cell and image, as in outcomes.csv."""
        with RunStore.open_readonly(self.directory) as store:
            return load_outcomes_frame(store)

    @property
    def is_complete(self) -> bool:
        """Whether every cell that can run is finished without an error."""
        with RunStore.open_readonly(self.directory) as store:
            return all(cell.status in {"done", "skipped"} for cell in store.read_cells())

    def evaluate_gates(
        self, policy: Path | str | None = None, baseline: Run | Path | str | None = None
    ) -> gates.GateReport:
        """Evaluate gates on the content of the run.

        Args:
            policy: A policy file, or the name of a ready-made policy; None: the gates of the grid.
            baseline: The run that a policy's drops are measured against, or its directory.

        Raises:
            ConfigError: If policy or baseline cannot be read, or a baseline is given without a policy.
        """
        if policy is None:
            if baseline is not None:
                raise ConfigError("a baseline needs a policy: the gates of a grid limit no drop")
            with RunStore.open_readonly(self.directory) as store:
                return gates.judge_store(store)
        directory = baseline.directory if isinstance(baseline, Run) else baseline
        against = None if directory is None else Path(directory)
        return judge_run_by_policy(self.directory, load_policy(str(policy)).policy, against)

    def report(self, out: Path | str | None = None) -> Path:
        """Write the report and all files beside it.

        Args:
            out: The HTML file; by default ``report.html`` in the run directory.

        Returns:
            The HTML file.
        """
        return write_report(self.directory, None if out is None else Path(out))


def run_grid(
    grid: Path | str | dict[str, Any] | Grid | None = None,
    out: Path | str | None = None,
    *,
    options: Options = DEFAULT_OPTIONS,
    listener: ProgressListener | None = None,
) -> Run:
    """Run a grid, or resume one that was interrupted.

    Args:
        grid: A grid file, its content, or None for the embedded grid of rendered traffic signs.
        out: Run directory, by default ``runs/NAME``. The same grid on the same directory resumes, and a
            complete run is left as it is.
        options: Options of the run, some of which override the grid, such as
            ``rbl.Options(limit=100, device="cpu")``.
        listener: Receives progress events.

    Returns:
        The run; a cell that failed is an error in it, not an exception.

    Raises:
        RobustbenchError: If the grid, a model or the data cannot be used at all, or writing fails.
    """
    plan, directory = prepare_run(grid, out, options=options)
    return execute_run(
        plan,
        directory,
        listener or ProgressListener(),
        recompute_damaged=options.recompute_damaged,
        cluster=ClusterSettings.from_options(options),
    )


def prepare_run(
    grid: Path | str | dict[str, Any] | Grid | None,
    out: Path | str | None = None,
    *,
    options: Options = DEFAULT_OPTIONS,
    is_dry_run: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> tuple[Plan, Path]:
    """Return the plan of a run and its directory; nothing is written yet.

    Defenses that are recipes are trained here unless their weights are in the cache; with ``is_dry_run``
    untrained networks replace them, with a note. ``report`` receives progress lines of trainings. Everything
    else is as in ``run_grid``.
    """
    if options.executor == "ray":
        import_ray()
        if not is_dry_run:
            check_address(options.address)
        options = replace(options, device="cpu")  # what travels to the tasks is on the CPU
    content, base_folder = (grid, Path.cwd()) if isinstance(grid, Grid) else load_grid(grid)
    directory = find_run_directory(content, out, options.shard)
    plan = make_plan(content, options, base_folder=base_folder, is_dry_run=is_dry_run, report=report)
    return check_plan_models(plan, directory), directory


def execute_run(
    plan: Plan,
    directory: Path,
    listener: ProgressListener,
    exit_process: Callable[[], None] | None = None,
    *,
    recompute_damaged: bool = False,
    cluster: ClusterSettings | None = None,
) -> Run:
    """Run a plan in its directory, from the start or from where it was interrupted.

    Args:
        plan: The plan.
        directory: The run directory.
        listener: Receives progress events.
        exit_process: Ends this process when a model hangs in it and cannot be interrupted, or when the head
            of the cluster is lost; None waits for it.
        recompute_damaged: As in ``run_grid``.
        cluster: The cluster that runs the images; None for processes of this machine.

    Raises:
        ConfigError: If the cluster cannot be used.
        DamagedError: If the directory's content is damaged, and ``recompute_damaged`` is not set.
    """
    with ExitStack() as stack:
        job_runner, lines = LOCAL_RUNNER, list[str]()
        if cluster is not None:
            job_runner = stack.enter_context(open_cluster_runner(cluster, plan, lines.append))
        store = stack.enter_context(
            RunStore.create_or_open(
                directory,
                resolved_yaml=plan.resolved_yaml,
                identity=plan.identity,
                recompute_damaged=recompute_damaged,
            )
        )
        plan = restore_screening_cells(plan, store)
        if facts := job_runner.describe_environment():
            environment = plan.description["environment"] | facts
            plan = replace(plan, description=plan.description | {"environment": environment})
        listener.on_plan_ready(plan)
        _write_metadata(plan, store)
        for line in lines:
            _add_event(store, listener, "info", line)
        stack.enter_context(
            job_runner.watch_cluster(partial(_abandon_run, store, listener, exit_process=exit_process))
        )
        if plan.stop is None:
            execute_plan(plan, store, listener, exit_process, job_runner)
        else:
            execute_until_stopped(
                plan, plan.stop, store, listener, find_stop_targets, exit_process, job_runner
            )
        store_summary(store)
    return Run(directory)


def _add_event(
    store: RunStore, listener: ProgressListener, level: Literal["info", "error"], line: str
) -> None:
    event = EventRecord(time=format_utc_now(), level=level, message=line)
    store.add_event(event)
    listener.on_event(event)


def _abandon_run(
    store: RunStore, listener: ProgressListener, why: str, *, exit_process: Callable[[], None] | None
) -> None:
    """Say why a run cannot go on, and exit the process where that is allowed; runs in another thread."""
    _add_event(store, listener, "error", f"{why}; the same command resumes the run")
    if exit_process is not None:
        exit_process()


def find_stop_targets(store: RunStore) -> list[StopTarget]:
    """Find the questions that a run stops for: its gates, and the precision of its worst cases."""
    evidence = read_evidence(store)
    rule = evidence.stop.rule if evidence.stop else None
    targets = gates.list_gate_targets(evidence) if rule and rule.decided else []
    if rule and rule.precision is not None:
        targets += [estimate.state.target for estimate in list_precision_targets(evidence)]
    return targets


def _merge_models(plan: Plan, store: RunStore) -> list[dict[str, Any]]:
    """Merge the model descriptions: the stored ones, except for models that could not be used then."""
    first = {(about["id"], about["defense"]): about for about in store.read_meta("models") or ()}
    merged = []
    for about in plan.description["models"]:
        known = first.get((about["id"], about["defense"]), about)
        look = {key: about[key] for key in (PREPROCESSING_CHECK_KEY,) if key in about}
        merged.append(about if known.get("problem") else {**look, **known})  # an older run has no such look
    return merged


def _write_metadata(plan: Plan, store: RunStore) -> None:
    """Write the metadata for the report; a resumed run keeps its first description."""
    if not store.resumed or store.read_meta("environment") is None:
        store.update_meta(plan.description)
        for line in plan.warnings:
            store.add_event(EventRecord(time=format_utc_now(), level="warning", message=line))
        return
    store.update_meta(
        {key: plan.description[key] for key in CHANGEABLE_KEYS} | {"models": _merge_models(plan, store)}
    )
    before, now = store.read_meta("environment")["versions"], plan.description["environment"]["versions"]
    changed = [
        f"{name} {before.get(name)} -> {now.get(name)}" for name in now if before.get(name) != now[name]
    ]
    if changed:
        line = f"resumed with other versions: {', '.join(changed)}; verdicts may differ in the last digits"
        store.add_event(EventRecord(time=format_utc_now(), level="warning", message=line))
