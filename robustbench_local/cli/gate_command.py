"""``rbl gate``: check a run against its gates or a policy, and exit with the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths, complete_policies
from robustbench_local.errors import ConfigError


def command(
    run: Annotated[Path | None, typer.Argument(help="Run directory.", autocompletion=complete_paths)] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_POLICY",
            help="Policy file, or a ready-made policy; by default the gates of the run's grid file.",
            autocompletion=complete_policies,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            envvar="RBL_BASELINE",
            help="Run directory that drops are measured against, such as that of the last release.",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="text, json, junit, sarif, github or markdown; several if repeated, each with an --output.",
        ),
    ] = None,
    outputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="File for the verdicts, which are then printed as text too; - is standard output.",
        ),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            help="error, warn or inconclusive: what gives an exit code other than 0, by default error and "
            "inconclusive; may be repeated.",
        ),
    ] = None,
    exit_zero: Annotated[
        bool,
        typer.Option("--exit-zero", help="Exit with 0 unless an attack contradicts a certificate."),
    ] = False,
    list_policies: Annotated[
        bool, typer.Option("--list-policies", help="List the ready-made policies and stop.")
    ] = False,
    show_policy: Annotated[
        str | None,
        typer.Option(
            "--show-policy",
            help="Print a ready-made policy, to be copied and changed, and stop.",
            autocompletion=complete_policies,
        ),
    ] = None,
) -> int:
    """Check a run against its gates or a policy.

    Exit code 0 if all pass, 1 if one fails, 4 if one is inconclusive, and 70 if an attack contradicts a
    certificate.
    """
    if list_policies or show_policy is not None:
        from robustbench_local.cli.policy_listing import print_policies, print_policy

        return print_policies() if show_policy is None else print_policy(show_policy)
    if run is None:
        raise ConfigError("name the run directory", where="rbl gate", remedy="write: rbl gate runs/NAME")
    from robustbench_local.cli.gate_outputs import (
        has_locations,
        judge_run,
        pair_outputs,
        parse_fail_on,
        write_outputs,
    )

    pairs = pair_outputs(formats or (), outputs or ())
    document = judge_run(
        run,
        policy,
        baseline,
        fail_on=parse_fail_on(fail_on or ()),
        exit_zero=exit_zero,
        with_lines=has_locations(pairs),
    )
    write_outputs(document, pairs, run)
    return document.exit_code
