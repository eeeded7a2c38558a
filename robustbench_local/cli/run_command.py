"""``rbl run``: run a grid, show the plan, the progress and the table, judge the gates."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from robustbench_local.classifier import Precision
from robustbench_local.cli.json_output import claim_stdout
from robustbench_local.cli.progress import build_plan_table, choose_display
from robustbench_local.cli.result_tables import build_results_table, print_gates
from robustbench_local.cli.terminal_output import echo_line, print_json, print_line
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.model_speed import try_measure_speed
from robustbench_local.evaluation.options import TIMEOUT_SECONDS, Options
from robustbench_local.evaluation.planning.goal import describe_goals, format_classes
from robustbench_local.evaluation.planning.plan import Plan
from robustbench_local.reports import find_damaged_images
from robustbench_local.reports.formatting.text import format_duration
from robustbench_local.run import Run, execute_run, prepare_run

INCOMPLETE_EXIT_CODE = 4
LOG_WIDTH_CHARACTERS = 120


def command(
    grid: Annotated[
        Path | None,
        typer.Argument(help="Grid file; without one, the embedded grid of rendered traffic signs."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, envvar="RBL_LIMIT", help="Number of images, stratified by class.")
    ] = None,
    device: Annotated[str, typer.Option(envvar="RBL_DEVICE", help="cpu, cuda or auto.")] = "auto",
    batch_size: Annotated[
        str,
        typer.Option(
            envvar="RBL_BATCH_SIZE",
            help="Batch size, or auto to measure it once; no influence on verdicts.",
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="RBL_WORKERS",
            help="CPU worker processes, by default one per core; no influence on verdicts.",
        ),
    ] = None,
    search_precision: Annotated[
        Precision | None,
        typer.Option(
            envvar="RBL_SEARCH_PRECISION",
            help="bf16 is faster and misses some adversarial examples; every success is verified in fp32.",
        ),
    ] = None,
    compile_steps: Annotated[
        bool,
        typer.Option(
            "--compile-steps",
            envvar="RBL_COMPILE_STEPS",
            help="Compile the attack steps, for long runs on a GPU; no influence on verdicts.",
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, envvar="RBL_SEED", help="Overrides the grid's seed.")
    ] = None,
    source_class: Annotated[
        list[str] | None,
        typer.Option(
            envvar="RBL_SOURCE_CLASS",
            help="Attack only images of this class, a name or index; repeatable (a variable takes indices).",
        ),
    ] = None,
    target_class: Annotated[
        list[str] | None,
        typer.Option(
            envvar="RBL_TARGET_CLASS",
            help="Target class of every attack, by name or id; several if repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            envvar="RBL_OUT", help="Run directory, by default runs/NAME; an unfinished run in it is resumed."
        ),
    ] = None,
    cards: Annotated[
        list[Path] | None,
        typer.Option(envvar="RBL_CARDS", help="Folder with your own cards; may be repeated."),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", envvar="RBL_ALLOW_CODE", help="Allow python: models to run their code."),
    ] = False,
    allow_batch_dependence: Annotated[
        bool,
        typer.Option(
            "--allow-batch-dependence",
            envvar="RBL_ALLOW_BATCH_DEPENDENCE",
            help="Run models whose outputs depend on the batch or on earlier images; marks every number.",
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="RBL_CACHE", help="Folder for weights that the grid trains."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="RBL_TIMEOUT",
            help="Seconds without a finished pass before a model counts as hanging; 0: no limit.",
        ),
    ] = TIMEOUT_SECONDS,
    cell_timeout: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="RBL_CELL_TIMEOUT",
            help="Time limit of a cell in seconds; 0, the default: no limit.",
        ),
    ] = 0.0,
    recompute_damaged: Annotated[
        bool,
        typer.Option(
            "--recompute-damaged",
            envvar="RBL_RECOMPUTE_DAMAGED",
            help="Recompute cells whose stored rows or images are damaged; keep all others.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", envvar="RBL_DRY_RUN", help="Show cells, passes and time without running them."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="RBL_JSON", help="Print progress and results as JSON lines.")
    ] = False,
) -> int:
    """Run a grid of models and attacks; the same command resumes it, and a finished run does nothing."""
    options = Options(
        limit=limit,
        seed=seed,
        sources=source_class or (),
        targets=target_class or (),
        search_precision=search_precision,
        device=device,
        batch_size=parse_batch_size(batch_size),
        workers=workers,
        compile_steps=compile_steps,
        cards=cards or (),
        allow_code=allow_code,
        allow_batch_dependence=allow_batch_dependence,
        cache=cache,
        timeout=timeout,
        cell_timeout=cell_timeout,
        recompute_damaged=recompute_damaged,
    )
    return run_with_options(grid, out, options, dry_run=dry_run, as_json=as_json)


def run_with_options(
    grid: Path | None, out: Path | None, options: Options, *, dry_run: bool, as_json: bool
) -> int:
    """Plan a grid, show the plan, run it, report it and judge its gates.

    Args:
        grid: Grid file; None for the embedded grid.
        out: Run directory; None for ``runs/NAME``.
        options: How to run it.
        dry_run: Whether only the plan is shown.
        as_json: Whether progress and results are JSON lines.

    Returns:
        The exit code.
    """
    console = make_console(as_json=as_json)
    if not as_json:
        print_line(console, "loading data and models", style="dim")
    plan, directory = prepare_run(
        grid,
        out,
        options=options,
        is_dry_run=dry_run,
        report=lambda line: _print_training(console, line, as_json=as_json),
    )
    _show_plan(plan, console, as_json=as_json, dry_run=dry_run)
    if dry_run:
        return INCOMPLETE_EXIT_CODE if any(cell.problem for cell in plan.cells) else 0
    with choose_display(console, as_json=as_json) as display:
        run = execute_run(
            plan,
            directory,
            display,
            exit_process=_exit_incomplete,
            recompute_damaged=options.recompute_damaged,
        )
    return _report_run(run, console, as_json=as_json)


def _report_run(run: Run, console: Console, *, as_json: bool) -> int:
    """Write the report, show the results and the gates' verdicts, and return the exit code."""
    page = run.report()
    verdict = run.evaluate_gates()
    if as_json:
        print_json(console, {"event": "results", **run.results})
        print_json(
            console, {"event": "gates", "lines": verdict.summary_lines, "exit_code": verdict.exit_code}
        )
    else:
        console.print(build_results_table(run.results))
        print_gates(verdict, console)
        print_line(console, f"report: {page}")
    code = verdict.exit_code or (0 if run.is_complete else INCOMPLETE_EXIT_CODE)
    if damage := find_damaged_images(run.directory):
        if not code:
            raise damage
        echo_line(f"rbl: {damage}", error=True)
    return code


def _exit_incomplete() -> None:
    """End a process in which a model hangs that nothing can interrupt; everything committed is kept."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INCOMPLETE_EXIT_CODE)


def _print_training(console: Console, line: str, *, as_json: bool) -> None:
    """A line about a training, which comes before the plan."""
    if as_json:
        print_json(console, {"event": "training", "message": line})
        return
    print_line(console, line, style="dim")


def make_console(*, as_json: bool) -> Console:
    """The standard output: as wide as the terminal, or wide enough for the tables in a log.

    With JSON it is ours alone until the command ends.
    """
    if as_json:
        return Console(file=claim_stdout(), soft_wrap=True, width=LOG_WIDTH_CHARACTERS)
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH_CHARACTERS)


def parse_batch_size(text: str) -> int | None:
    """A number of images, or None for ``auto``.

    Raises:
        ConfigError: If it is neither.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"batch size must be a positive number or auto, got {text!r}", where="--batch-size")
    return int(text)


def _estimate_max_seconds(plan: Plan) -> dict[str, float]:
    """The most seconds that each cell can take, by its key; nothing of cells that cannot be foreseen."""
    cells = [cell for cell in plan.cells if cell.problem is None]
    attacked = {str(cell.queried_subject): cell.queried_subject for cell in cells}
    speeds = {name: try_measure_speed(one, plan.timeout) for name, one in attacked.items()}
    known = {name: speed for name, speed in speeds.items() if speed is not None}
    return {
        cell.record.key: known[str(cell.queried_subject)].estimate_seconds(cell.max_passes)
        for cell in cells
        if str(cell.queried_subject) in known
    }


def _round_seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _show_plan(plan: Plan, console: Console, *, as_json: bool, dry_run: bool) -> None:
    """Cells, passes and the most time they can take, before anything runs."""
    seconds = _estimate_max_seconds(plan)
    if as_json:
        cells = [
            {
                "model": cell.record.model,
                "defense": cell.record.defense,
                "attack": cell.record.attack,
                "label": plan.labels.get_attack_label(cell.record.attack),
                "sources": format_classes(cell, cell.record.sources),
                "targets": format_classes(cell, cell.record.targets),
                "images": len(cell.positions),
                "max_passes": sum(cell.max_passes),
                "max_seconds": _round_seconds(seconds.get(cell.record.key)),
                "skip_reason": cell.skip_reason,
                "problem": None if cell.problem is None else str(cell.problem),
            }
            for cell in plan.cells
        ]
        print_json(console, {"event": "plan", "cells": cells, "warnings": plan.warnings})
        return
    console.print(build_plan_table(plan, seconds))
    ending = "; nothing was run" if dry_run else ""
    device = plan.subjects[0].classifier.device
    whole = f"{sum(len(cell.positions) for cell in plan.cells):,} image-attacks on {device}"
    most = format_duration(sum(seconds.values()))
    print_line(
        console,
        f"{whole}, {most} at most; usually far less, since images stop at the first success{ending}",
        wrap=True,
    )
    for goal in describe_goals(plan.cells):
        print_line(console, f"goal: {goal}", wrap=True)
    for line in plan.warnings:
        print_line(console, f"note: {line}", style="yellow", wrap=True)
