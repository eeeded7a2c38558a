"""``rbl verify``: check a bundle of evidence, with and without the model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_local.cli.completion import complete_paths
from robustbench_local.cli.shared_options import AllowCodeOption, DeviceOption
from robustbench_local.errors import ConfigError

if TYPE_CHECKING:
    from robustbench_local.evidence_bundle.check_results import VerificationReport
    from robustbench_local.evidence_bundle.verified_models import ModelSource

_NAME_AND_SOURCE = re.compile(r"([^=\[]*(?:\[[^\]]*\])?)(=)(.*)", re.DOTALL)


def command(
    bundle: Annotated[Path, typer.Argument(help="Archive of rbl bundle.", autocompletion=complete_paths)],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[ID=]SOURCE",
            help="Model that reads the examples again, a source as in a grid; other settings are those of "
            "the run. ID is its id there, with ' + DEFENSE' for one that was trained; repeatable.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", metavar="[ID=]FILE", help="Weights file of a --model, where its source has none."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            help="Public key of the signer, PEM. Needs the extra evidence.",
            autocompletion=complete_paths,
        ),
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that are predicted together.")] = 64,
    proofs: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Prove at most N images of each certificate again. [default: all there]"
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="RBL_JSON", help="Print the checks as one JSON object.")
    ] = False,
) -> int:
    """Check a bundle: its files, its signature, its rates and examples, and with a model its verdicts.

    With --model every adversarial example and photograph of a sign is read again, and certificates are proved
    again.

    Exit code 0 if all that was checked stands, 1 if something does not or was changed, 4 if something could
    not be decided, such as the verdicts of another model.
    """
    from robustbench_local.cli.json_output import claim_stdout
    from robustbench_local.cli.terminal_output import write_text
    from robustbench_local.evidence_bundle.verify_bundle import VerificationOptions, verify_bundle

    stdout = claim_stdout()  # a model's own output goes elsewhere
    options = VerificationOptions(
        models=_parse_models(models or [], weights or []),
        key=key,
        device=device,
        batch_size=batch_size,
        proofs=proofs,
        allow_code=allow_code,
    )
    report = verify_bundle(bundle, options)
    write_text((_format_json(report) if as_json else _format_text(report, bundle)) + "\n", stdout)
    return report.exit_code


def _parse_models(entries: list[str], weights: list[str]) -> list[ModelSource]:
    """Parse ``[ID=]SOURCE`` entries and the weights that belong to them.

    Raises:
        ConfigError: If one has no source, or weights belong to no model.
    """
    from robustbench_local.evidence_bundle.verified_models import ModelSource

    files = dict(_split_entry(entry, "--weights") for entry in weights)
    named = [_split_entry(entry, "--model") for entry in entries]
    if unknown := [name or "the model" for name in files if name not in dict(named)]:
        raise ConfigError(f"there is no --model for {unknown[0]}", where="--weights")
    if len(dict(named)) < len(named):
        raise ConfigError("a model is named twice", where="--model")
    return [ModelSource(name=name, source=source, weights=files.get(name)) for name, source in named]


def _split_entry(entry: str, option: str) -> tuple[str | None, str]:
    """Split ``ID=SOURCE``; without an ID the whole entry is the source.

    The name of a trained defense may have settings, as in ``ID + DEFENSE[epochs=2]``.
    """
    match = _NAME_AND_SOURCE.fullmatch(entry)
    name, sign, source = match.groups() if match else (entry, "", "")
    if not sign or ":" in name or "/" in name:  # a source, such as an address with a query
        name, source = "", entry
    if not source:
        raise ConfigError(f"{entry!r} names no source", where=option, remedy="write ID=SOURCE")
    return name or None, source


def _format_json(report: VerificationReport) -> str:
    import json

    return json.dumps(report.to_json(), indent=1)


def _format_text(report: VerificationReport, bundle: Path) -> str:
    from robustbench_local.errors import escape_unprintable
    from robustbench_local.evidence_bundle.check_results import MAX_SHOWN_DETAILS

    lines = []
    width = max(len(check.status) for check in report.checks)
    for check in report.checks:
        lines.append(f"{check.status:<{width}}  {check.name}: {check.sentence}")
        lines += [f"{'':<{width}}    {line}" for line in check.details[:MAX_SHOWN_DETAILS]]
        if (more := len(check.details) - MAX_SHOWN_DETAILS) > 0:
            lines.append(f"{'':<{width}}    and {more:,} more, all with --json")
    lines.append(f"{bundle}: {report.verdict}")
    return "\n".join(map(escape_unprintable, lines))
