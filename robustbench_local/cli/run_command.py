"""``rbl run``: run a grid, show the plan, the progress and the results table, check the gates."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_local.classifier.literals import Precision
from robustbench_local.cli.completion import complete_grid_files
from robustbench_local.cli.shared_options import (
    AddressOption,
    AllowCodeOption,
    CardsOption,
    DeviceOption,
    ExecutorOption,
)
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.options import TIMEOUT_SECONDS, Options

if TYPE_CHECKING:
    from robustbench_local.evaluation.execution.hardware.hardware_card import HardwareCard


def command(
    grid: Annotated[
        Path | None,
        typer.Argument(
            help="Grid file; without one, the embedded grid of rendered traffic signs.",
            autocompletion=complete_grid_files,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, envvar="RBL_LIMIT", help="Number of images, stratified by class.")
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[
        str,
        typer.Option(
            envvar="RBL_BATCH_SIZE",
            help="Batch size, or auto to measure it once; no influence on verdicts.",
        ),
    ] = "auto",
    measure_batch_size: Annotated[
        bool,
        typer.Option(
            "--measure-batch-size",
            envvar="RBL_MEASURE_BATCH_SIZE",
            help="Measure batch sizes again that the unfinished run measured, or reduced for lack of memory.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="RBL_WORKERS",
            help="CPU worker processes, by default one per core; no influence on verdicts.",
        ),
    ] = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    gpus_per_task: Annotated[
        float | None,
        typer.Option(
            envvar="RBL_GPUS_PER_TASK",
            help="GPUs of a task of Ray, such as 0.5 or 2; by default 1 where the cluster has some.",
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
    shard: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_SHARD",
            help="Run part 2 of 8 of the images with 2/8, or the part of this SLURM or Kubernetes task with "
            "auto or auto/8; rbl merge makes one run of all.",
        ),
    ] = None,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            envvar="RBL_UNTIL_DECIDED",
            help="Stop once the images left cannot change the verdict of any gate.",
        ),
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_PRECISION",
            help="Stop once robust accuracy is known to this half-width on every model, such as 2%.",
        ),
    ] = None,
    cards: CardsOption = None,
    allow_code: AllowCodeOption = False,
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
    pilot_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="RBL_PILOT_SECONDS",
            help="Seconds in which --dry-run measures a few images of each cell, at most; 0: none.",
        ),
    ] = 30.0,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            envvar="RBL_HARDWARE",
            help="With --dry-run: extrapolate the time to a card, such as h100, or to those of a YAML file; "
            "repeatable.",
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, envvar="RBL_PRICE_PER_HOUR", help="Price of an hour on the --hardware."),
    ] = None,
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
        shard=shard,
        until_decided=until_decided,
        precision=parse_precision_option(precision),
        device=device,
        batch_size=parse_batch_size(batch_size),
        measure_batch_size=measure_batch_size,
        workers=workers,
        executor=executor,
        address=address,
        gpus_per_task=gpus_per_task,
        compile_steps=compile_steps,
        cards=cards or (),
        allow_code=allow_code,
        allow_batch_dependence=allow_batch_dependence,
        cache=cache,
        timeout=timeout,
        cell_timeout=cell_timeout,
        recompute_damaged=recompute_damaged,
    )
    extrapolation = parse_hardware_options(hardware or (), price_per_hour, dry_run=dry_run)
    from robustbench_local.cli.finished_grid import DescribedGrid, show_finished_run

    described = DescribedGrid.from_options(grid, out, options)
    if not (dry_run or recompute_damaged) and described.is_finished():
        return show_finished_run(described.directory, as_json=as_json)

    from robustbench_local.cli.grid_run import run_with_options

    return run_with_options(
        grid,
        out,
        options,
        described,
        dry_run=dry_run,
        as_json=as_json,
        pilot_seconds=pilot_seconds,
        hardware=extrapolation,
    )


def parse_hardware_options(
    entries: Sequence[str], price_per_hour: float | None, *, dry_run: bool
) -> tuple[HardwareCard, ...]:
    """Return the cards that a plan is extrapolated to.

    Raises:
        ConfigError: If a card does not exist, or an option is given without the one it belongs to.
    """
    if price_per_hour is not None and not entries:
        raise ConfigError("it needs --hardware", where="--price-per-hour", remedy="name a card, such as h100")
    if price_per_hour is not None and not isfinite(price_per_hour):
        raise ConfigError(f"a price must be a number, got {price_per_hour}", where="--price-per-hour")
    if not entries:
        return ()
    if not dry_run:
        raise ConfigError("it shows what a plan would cost", where="--hardware", remedy="add --dry-run")
    from robustbench_local.evaluation.execution.hardware.hardware_card import find_hardware

    return find_hardware(entries, price_per_hour)


def parse_precision_option(text: str | None) -> float | None:
    """Parse a half-width such as ``2%``; None stays None.

    Raises:
        ConfigError: If it is no share between 0 and 50%.
    """
    from robustbench_local.evaluation.grid.stop_entry import parse_precision

    try:
        return None if text is None else parse_precision(text)
    except ValueError as error:
        raise ConfigError(str(error), where="--precision") from None


def parse_batch_size(text: str) -> int | None:
    """Parse a number of images, or return None for ``auto``.

    Raises:
        ConfigError: If it is neither.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"batch size must be a positive number or auto, got {text!r}", where="--batch-size")
    return int(text)
