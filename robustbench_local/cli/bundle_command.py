"""``rbl bundle``: the evidence of a run in one archive that a third party can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths
from robustbench_local.errors import ConfigError

BUNDLE_SUFFIX = ".bundle.zip"


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.", autocompletion=complete_paths)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            help=f"Archive to write; by default the run's name with {BUNDLE_SUFFIX}.",
        ),
    ] = None,
    examples: Annotated[
        str,
        typer.Option(
            metavar="all|N",
            help="Adversarial examples of each attack: all that the run has stored (gallery in the grid), or "
            "at most N of them, drawn by --seed; and images of each certificate, 64 or N.",
        ),
    ] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Decides which N examples.")] = 0,
    no_images: Annotated[
        bool,
        typer.Option(
            "--no-images",
            help="Leave out all images and the HTML report, for data that may not be given away: their "
            "hashes are listed.",
        ),
    ] = False,
    model_card: Annotated[
        Path | None, typer.Option(help="Model card to include, Markdown.", autocompletion=complete_paths)
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            "--sign",
            metavar="KEY",
            envvar="RBL_SIGNING_KEY",
            help="Private key to sign with, PEM: Ed25519 or ECDSA on P-256. Needs the extra evidence.",
            autocompletion=complete_paths,
        ),
    ] = None,
) -> int:
    """Write the evidence of a run to one archive, which rbl verify checks on any machine.

    It holds results with their JSON Schema, every outcome, adversarial examples with their clean images, the
    report, a CycloneDX bill of materials, a map of what was tested for public standards, and an in-toto
    statement with the SHA-256 of every file.
    """
    from robustbench_local.cli.terminal_output import echo_line
    from robustbench_local.counted_nouns import format_count
    from robustbench_local.evidence_bundle.example_files import ExampleChoice
    from robustbench_local.evidence_bundle.make_bundle import BundleOptions, make_bundle

    choice = ExampleChoice(count=_parse_count(examples), seed=seed, has_images=not no_images)
    options = BundleOptions(examples=choice, model_card=model_card, signing_key=sign)
    target = out or Path(f"{run.resolve().name}{BUNDLE_SUFFIX}")
    written = make_bundle(run, target, options)
    echo_line(f"bundle: {written.path}")
    echo_line(f"sha256: {written.sha256}")
    stored = f"{written.stored_examples:,} that the run has stored"
    broken = format_count(written.broken_images, "success", "successes")
    echo_line(
        f"adversarial examples: {written.included_examples:,} of the {stored}, of {broken} in all"
        + (
            "; more are kept with gallery in the grid"
            if written.stored_examples < written.broken_images
            else ""
        )
    )
    if written.certificate_outcomes:
        of = format_count(written.certificate_outcomes, "proof")
        why = f"; {written.proof_problem}" if written.proof_problem else ""
        echo_line(f"images to prove again: {written.proof_images:,} of {of}{why}")
    echo_line("signed" if written.is_signed else "not signed: hashes alone show no one who rewrites them all")
    return 0


def _parse_count(text: str) -> int | None:
    """Parse ``all`` or a number.

    Raises:
        ConfigError: If it is neither.
    """
    if text == "all":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{text!r} is neither all nor a number", where="--examples")
    return int(text)
