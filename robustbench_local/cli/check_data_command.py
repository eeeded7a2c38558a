"""``rbl check-data``: check labelled images before anything is trained or measured on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.shared_options import AllowCodeOption, DeviceOption


def command(
    data: Annotated[str, typer.Argument(help="Images, as in a grid file: folder:DIR, npz:FILE.")],
    splits: Annotated[
        list[str] | None,
        typer.Option("--split", help="Split to check; may be repeated. By default all that there are."),
    ] = None,
    val: Annotated[
        str | None, typer.Option(envvar="RBL_VAL", help="Validation images from another source.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(envvar="RBL_TEST", help="Test images from another source.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, envvar="RBL_LIMIT", help="Images of each split, stratified by class."),
    ] = None,
    data_option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of the data, such as alpha=white or groups_key=track; may be repeated."),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_GROUP_PATTERN",
            help="Regular expression: what it matches in an image's id names the object that it shows.",
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(envvar="RBL_EXCLUDE", help="CSV of images to leave out, such as edited findings."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_FEATURES",
            help="Model source whose last features the label check uses; by default gradients and colors.",
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(envvar="RBL_WEIGHTS", help="Its weights: a file, or DEFAULT.")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Check labels, which takes most of the time.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(envvar="RBL_OUT", help="Folder for findings.csv and findings.json.")
    ] = None,
    fail_on: Annotated[
        str, typer.Option("--fail-on", help="error or warning: the severity that gives exit code 1.")
    ] = "error",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, envvar="RBL_SEED", help="Seed of the cross-validation.")] = 0,
    device: DeviceOption = "auto",
    allow_code: AllowCodeOption = False,
) -> int:
    """Check images and labels: copies across splits, likely wrong labels, classes, damaged files.

    Exit code 0 if nothing is found that makes figures wrong, else 1. No image is changed or deleted.
    """
    from robustbench_local.cli.data_check_run import DataCheckArguments, check_and_report

    return check_and_report(
        DataCheckArguments(
            data=data,
            splits=tuple(splits or ()),
            val=val,
            test=test,
            limit=limit,
            data_option=tuple(data_option or ()),
            group_pattern=group_pattern,
            exclude=exclude,
            features=features,
            weights=weights,
            are_labels_checked=labels,
            out=out,
            fail_on=fail_on,
            as_json=as_json,
            seed=seed,
            device=device,
            allow_code=allow_code,
        )
    )
