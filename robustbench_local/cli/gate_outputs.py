"""The work of ``rbl gate``: judge a run, and write the verdicts in every wanted form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import get_args

from robustbench_local.cli.terminal_output import write_text
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, did_you_mean, escape_unprintable
from robustbench_local.reports.analysis.gate_report import (
    DEFAULT_FAIL_ON,
    EXIT_BLOCKED,
    FailOn,
    GateReport,
)
from robustbench_local.reports.analysis.gates import judge_run_dir
from robustbench_local.reports.writers.gate_document import GateDocument
from robustbench_local.store.atomic_files import make_directory, write_atomically
from robustbench_local.store.run_folder import DATABASE_NAME, LOAD_TEST_NAME, LOCK_NAME, RESOLVED_GRID_NAME
from robustbench_local.store.unchanged_file import DIGEST_NAME

_WRITERS: Mapping[str, str] = {
    "json": "format_gate_json",
    "junit": "format_gate_junit",
    "sarif": "format_gate_sarif",
    "github": "format_gate_github",
    "markdown": "format_gate_markdown",
}
FORMS = ("text", *_WRITERS)
"""Forms of the verdicts."""
_FORMS_WITH_LOCATIONS = frozenset({"json", "sarif", "github"})
_RUN_FILES = frozenset({DATABASE_NAME, DIGEST_NAME, LOAD_TEST_NAME, LOCK_NAME, RESOLVED_GRID_NAME})


@dataclass(frozen=True, kw_only=True)
class GateOutput:
    """One form of the verdicts and where it goes."""

    form: str
    """``text``, ``json``, ``junit``, ``sarif``, ``github`` or ``markdown``."""
    path: Path | None
    """The file; None: standard output."""


def pair_outputs(formats: Sequence[str], outputs: Sequence[Path]) -> list[GateOutput]:
    """Pair formats with files, in the order in which they were given.

    Args:
        formats: The formats; none: text.
        outputs: Files, ``-`` for standard output. A format without a file goes to standard output.

    Raises:
        ConfigError: If a format does not exist, there are more files than formats, or several forms for one
            place.
    """
    wanted = list(formats or ("text",))
    for form in wanted:
        _check_choice(form, FORMS, "--format")
    if len(outputs) > len(wanted):
        raise ConfigError(
            f"{format_count(len(outputs), 'output')} for {format_count(len(wanted), 'format')}",
            where="--output",
            remedy="repeat --format",
        )
    places = [*outputs, *([Path("-")] * (len(wanted) - len(outputs)))]
    for place in places:
        if places.count(place) > 1:
            name = "standard output" if place == Path("-") else str(place)
            raise ConfigError(
                f"several formats for {name}", where="--format", remedy="give each its own --output"
            )
    return [
        GateOutput(form=form, path=None if place == Path("-") else place)
        for form, place in zip(wanted, places, strict=True)
    ]


def parse_fail_on(words: Sequence[str]) -> frozenset[FailOn]:
    """Parse what gives an exit code other than 0; no words: the default.

    Raises:
        ConfigError: If a word is not one of the choices.
    """
    choices = get_args(FailOn)
    for word in words:
        _check_choice(word, choices, "--fail-on")
    return frozenset(choice for choice in choices if choice in words) or DEFAULT_FAIL_ON


def has_locations(outputs: Sequence[GateOutput]) -> bool:
    """Return whether any of these forms says where a gate stands."""
    return any(output.form in _FORMS_WITH_LOCATIONS for output in outputs)


def judge_run(
    run: Path,
    policy: str | None,
    baseline: Path | None,
    *,
    fail_on: frozenset[FailOn],
    exit_zero: bool,
    with_lines: bool = True,
) -> GateDocument:
    """Judge a run by its own gates or by a policy.

    Args:
        run: The run directory.
        policy: A policy file or the name of a ready-made policy; None: the run's own gates.
        baseline: Run directory of the baseline, for policies.
        fail_on: As in ``GateReport.compute_exit_code``.
        exit_zero: Whether the exit code is 0 unless a certificate is contradicted.
        with_lines: Whether to look up the lines that the run's own gates stand in.

    Raises:
        ConfigError: If a run or the policy cannot be read, or a baseline is given without a policy.
    """
    from importlib import metadata  # noqa: PLC0415 - it takes longer than the judgement of a small run

    today = datetime.now(UTC).date()
    if policy is None:
        if baseline is not None:
            what = "a baseline needs a policy: the gates of a grid file limit no drop"
            raise ConfigError(what, where="--baseline", remedy="add --policy release, or your own policy")
        report, source = judge_run_dir(run), run / RESOLVED_GRID_NAME
        lines = _find_grid_lines(source, report) if with_lines else {}
    else:
        from robustbench_local.config.gate_policy import load_policy  # noqa: PLC0415 - pydantic
        from robustbench_local.reports.analysis.policy_gates import judge_run_by_policy  # noqa: PLC0415

        loaded = load_policy(policy)
        report = judge_run_by_policy(run, loaded.policy, baseline, today)
        source = loaded.path or run / RESOLVED_GRID_NAME
        lines = dict(zip(report.gate_ids, loaded.gate_lines, strict=True)) if loaded.path else {}
    code = report.compute_exit_code(fail_on)
    return GateDocument(
        report=report,
        run=run.resolve().name,
        baseline=baseline.resolve().name if baseline else None,
        version=metadata.version("robustbench-local"),
        judged_on=today,
        exit_code=0 if exit_zero and code != EXIT_BLOCKED else code,
        source=_describe_path(source),
        lines=lines,
    )


def write_outputs(document: GateDocument, outputs: Sequence[GateOutput], run: Path) -> None:
    """Write the verdicts in every wanted form; if none of them goes to standard output, print text there.

    Raises:
        ConfigError: If a file cannot be written, or is one of the run's own.
    """
    for output in outputs:
        if output.path is not None:
            _refuse_run_file(output.path, run)
    for output in outputs:
        if output.path is not None:
            make_directory(output.path.absolute().parent)
            write_atomically(output.path, format_document(document, output.form))
    printed = next((output.form for output in outputs if output.path is None), "text")
    if printed == "text":
        _print_text(document.report)
    else:
        write_text(format_document(document, printed))


def format_document(document: GateDocument, form: str) -> str:
    """Format a document in one of the forms."""
    if form == "text":
        return "".join(f"{escape_unprintable(line)}\n" for line in document.report.summary_lines)
    module = import_module(f"robustbench_local.reports.writers.gate_{form}")
    write: Callable[[GateDocument], str] = getattr(module, _WRITERS[form])
    return write(document)


def _check_choice(word: str, choices: Sequence[str], flag: str) -> None:
    if word not in choices:
        raise ConfigError(f"there is no {word!r}", where=flag, remedy=did_you_mean(word, choices))


def _print_text(report: GateReport) -> None:
    from rich.console import Console  # noqa: PLC0415 - not for other forms

    from robustbench_local.cli.result_tables import print_gates  # noqa: PLC0415

    print_gates(report, Console())


def _find_grid_lines(path: Path, report: GateReport) -> dict[str, int]:
    """Find the lines of the run's own gates in its resolved grid; none if it cannot be read."""
    from robustbench_local.config.strict_yaml import find_item_lines  # noqa: PLC0415 - pydantic

    try:
        lines = find_item_lines(path.read_text(encoding="utf-8"), "gates")
    except (OSError, ValueError):
        return {}
    return dict(zip(report.gate_ids, lines, strict=True)) if len(lines) == len(report.gate_ids) else {}


def _describe_path(path: Path) -> str:
    """Describe a path from the current folder, with forward slashes, so that a CI service finds the file."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return path.name


def _refuse_run_file(path: Path, run: Path) -> None:
    """Refuse to replace a file that the run consists of."""
    if path.name in _RUN_FILES and path.absolute().parent.resolve() == run.resolve():
        raise ConfigError("it is a file of the run itself", where=str(path), remedy="choose another --output")
