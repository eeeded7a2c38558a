"""The work of ``rbl check-data``: list the splits, check them, print and write the findings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from robustbench_local.cli.json_output import claim_stdout
from robustbench_local.cli.terminal_output import print_json, print_line
from robustbench_local.cli.training_run import parse_settings
from robustbench_local.config.strict_yaml import validate
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.data.checks.check_dataset import DataCheck, check_dataset
from robustbench_local.data.checks.data_finding import CHECKS, SEVERITIES, DataFinding
from robustbench_local.data.checks.findings_file import describe_check, write_findings
from robustbench_local.data.collect import Listing
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.exclusion import UNSPLIT
from robustbench_local.data.groups import GroupOptions
from robustbench_local.data.npz import NpzKeys
from robustbench_local.data.source_splits import list_splits
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.data_entries import DataEntry
from robustbench_local.evaluation.training.frozen_features import load_embedding

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_EXAMPLES = 3
_PROGRESS_SECONDS = 10.0

Parts = dict[str, Listing | Dataset]
"""Split -> its images."""


@dataclass(frozen=True, kw_only=True)
class DataCheckArguments:
    """The arguments of ``rbl check-data``; see the options of the command."""

    data: str
    splits: tuple[str, ...]
    val: str | None
    test: str | None
    limit: int | None
    data_option: tuple[str, ...]
    group_pattern: str | None
    exclude: str | None
    features: str | None
    weights: str | None
    are_labels_checked: bool
    out: Path | None
    fail_on: str
    as_json: bool
    seed: int
    device: str
    allow_code: bool


def check_and_report(arguments: DataCheckArguments) -> int:
    """Check the data; return 1 if there is a finding of the severity that fails, else 0.

    Raises:
        ConfigError: If an argument is wrong.
        DataError: If the data cannot be listed, or no image can be read.
    """
    if arguments.fail_on not in SEVERITIES[:2]:
        raise ConfigError(
            f"unknown severity {arguments.fail_on!r}",
            where="--fail-on",
            remedy=did_you_mean(arguments.fail_on, SEVERITIES[:2]),
        )
    console = Console(soft_wrap=True, file=claim_stdout() if arguments.as_json else None)
    parts, own = _list_parts(arguments)
    embed = None
    if arguments.features is not None and arguments.are_labels_checked:
        embed = load_embedding(
            arguments.features,
            weights=arguments.weights,
            device=arguments.device,
            allow_code=arguments.allow_code,
        )
    check = check_dataset(
        parts,
        seed=arguments.seed,
        embed=embed,
        features=arguments.features or "",
        splits_of_groups=own,
        are_labels_checked=arguments.are_labels_checked,
        progress=_make_progress(Console(stderr=True, soft_wrap=True)),
    )
    table = None if arguments.out is None else write_findings(check, arguments.out, source=arguments.data)
    failing = SEVERITIES[: SEVERITIES.index("warning") + 1 if arguments.fail_on == "warning" else 1]
    has_failed = any(check.count_checks(severity) for severity in failing)
    if arguments.as_json:
        print_json(console, {**describe_check(check, source=arguments.data), "passed": not has_failed})
    else:
        _print_check(console, check, arguments.data, table, has_failed=has_failed)
    return 1 if has_failed else 0


def _list_parts(arguments: DataCheckArguments) -> tuple[Parts, list[str]]:
    """List the splits of the data, and of the other sources; return the names of the data's own too."""
    settings = parse_settings(arguments.data_option, "--data-option")
    fields = {
        "source": arguments.data,
        "limit": arguments.limit,
        "group_pattern": arguments.group_pattern,
        "exclude": arguments.exclude,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    entry = validate(DataEntry, {**given, **settings}, where="--data-option", error=ConfigError)

    def list_parts(
        source: str, splits: tuple[str, ...], groups: GroupOptions
    ) -> dict[str, Listing | Dataset]:
        return list_splits(
            source,
            splits=splits,
            limit=entry.limit,
            seed=arguments.seed if entry.seed is None else entry.seed,
            exclude=entry.exclude,
            groups=groups,
            base_folder=Path.cwd(),
            alpha=entry.alpha,
            keys=NpzKeys(
                images=entry.images_key,
                labels=entry.labels_key,
                masks=entry.masks_key,
                boxes=entry.boxes_key,
                groups=entry.groups_key,
            ),
            scale=entry.scale,
            root=entry.root,
            download=entry.download,
            allow_code=arguments.allow_code,
        )

    declared = GroupOptions(groups=entry.groups, pattern=entry.group_pattern, base_folder=Path.cwd())
    parts = list_parts(entry.source, arguments.splits, declared)
    others = {"val": arguments.val, "test": arguments.test}
    if UNSPLIT in parts and any(others.values()):
        parts = {"train": parts[UNSPLIT]}
    own = list(parts)
    for split, source in others.items():
        if source is not None:
            parts |= list_parts(source, (split,), GroupOptions())
            own = [name for name in own if name != split]
    return parts, own


def _make_progress(console: Console) -> Callable[[str, int, int], None]:
    last = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            print_line(console, f"{what}: {done:,} of {format_count(total, 'image')}")

    return show


def _print_check(
    console: Console, check: DataCheck, source: str, table: Path | None, *, has_failed: bool
) -> None:
    parts = ", ".join(f"{split} {count:,}" for split, count in check.images.items())
    images = format_count(sum(check.images.values()), "image")
    print_line(console, f"{source}: {images} in {format_count(check.classes, 'class')} ({parts})")
    if check.label_accuracy is not None:
        share = check.label_accuracy
        interval = f"95% interval {share.low:.1%} to {share.high:.1%}, n = {share.n:,}"
        print_line(console, f"labels predicted out of sample: {share.value:.1%} ({interval})")
    for name, count in check.count_checks().items():
        severity, *nouns = CHECKS[name]
        print_line(console, f"{severity}: {format_count(count, *nouns)}", style=_STYLES[severity])
        found = [finding for finding in check.findings if finding.check == name]
        for finding in found[:_EXAMPLES]:
            print_line(console, f"  {_format_finding(finding)}")
        if len(found) > _EXAMPLES:
            print_line(console, f"  and {len(found) - _EXAMPLES:,} more")
    if table is not None:
        print_line(console, f"wrote {table}: look at it, change yes and no, and give it to --exclude")
    elif any(finding.image for finding in check.findings):
        print_line(console, "--out DIR writes all findings, as a table that --exclude takes")
    print_line(console, _format_verdict(check, has_failed=has_failed))


def _format_finding(finding: DataFinding) -> str:
    place = "/".join(part for part in (finding.split, finding.image or finding.label) if part)
    other = "/".join(part for part in (finding.other_split, finding.other_image) if part)
    against = f" and {other}" if finding.other_image else ""
    return f"{place}{against}: {finding.detail}" if place else finding.detail


def _format_verdict(check: DataCheck, *, has_failed: bool) -> str:
    errors, warnings = (sum(check.count_checks(severity).values()) for severity in SEVERITIES[:2])
    counts = f"{format_count(errors, 'error')}, {format_count(warnings, 'warning')}"
    if errors:
        reason = choose_form(errors, "the error makes", "the errors make")
        return f"failed: {counts}; {reason} figures on these data wrong, or the data unusable"
    return f"{'failed' if has_failed else 'passed'}: {counts}"
