"""``rbl verify``: everything that a third party can check in a bundle, with and without the model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.counted_nouns import format_count
from robustbench_local.evidence_bundle.archive_reader import extract_archive
from robustbench_local.evidence_bundle.bundle_files import BUNDLE_VERSION, DESCRIPTION_NAME
from robustbench_local.evidence_bundle.check_results import BundleError, CheckResult, VerificationReport
from robustbench_local.evidence_bundle.completeness_check import check_completeness
from robustbench_local.evidence_bundle.example_checks import check_examples
from robustbench_local.evidence_bundle.model_readings import BATCH_SIZE, check_models
from robustbench_local.evidence_bundle.record_checks import (
    check_documents,
    check_listed_files,
    check_results,
    check_schema,
    check_signature,
)
from robustbench_local.evidence_bundle.run_records import load_json
from robustbench_local.evidence_bundle.sign_checks import check_signs
from robustbench_local.evidence_bundle.verified_models import ModelSource


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """What a bundle is checked with."""

    models: Sequence[ModelSource] = ()
    """Models that read the examples again."""
    key: Path | None = None
    """The public key of the signer."""
    device: str = "auto"
    """Device of the models."""
    batch_size: int = BATCH_SIZE
    """Images that are predicted together."""
    proofs: int | None = None
    """Largest number of images of each certificate that are proved again; None: all in the bundle."""
    allow_code: bool = False
    """Whether code in Python files and exported programs of the models may run."""


def verify_bundle(path: Path, options: VerificationOptions | None = None) -> VerificationReport:
    """Check a bundle.

    Args:
        path: The archive.
        options: What it is checked with.

    Returns:
        All checks, in order. They end at the first one after which nothing else would mean anything.

    Raises:
        ConfigError: If there is no such file, or a key or the name of a model is wrong.
        ModelError: If a model cannot be loaded.
    """
    chosen = options or VerificationOptions()
    with tempfile.TemporaryDirectory(prefix="rbl-verify-") as scratch:
        return VerificationReport(checks=tuple(_run_checks(path, Path(scratch), chosen)))


def _run_checks(path: Path, folder: Path, options: VerificationOptions) -> Iterator[CheckResult]:
    try:
        digests = extract_archive(path, folder)
        yield CheckResult(
            name="archive", status="ok", sentence=f"{format_count(len(digests), 'file')}, nothing hidden"
        )
        version = load_json(folder / DESCRIPTION_NAME).get("bundle_version")
    except (BundleError, AttributeError) as error:
        yield CheckResult(name="archive", status="failed", sentence=str(error))
        return
    if version != BUNDLE_VERSION:
        sentence = f"its form is of version {version!r:.20}, and this is for {BUNDLE_VERSION}"
        yield CheckResult(name="archive", status="undecided", sentence=sentence)
        return
    yield (listed := check_listed_files(folder, digests))
    yield check_signature(folder, options.key)
    if listed.status == "failed":
        return
    yield check_schema(folder)
    yield check_results(folder)
    yield check_completeness(folder)
    yield check_documents(folder)
    if (signs := check_signs(folder)) is not None:
        yield signs
    yield (examples := check_examples(folder))
    if options.models and examples.status != "failed":
        yield from _check_models(folder, options)
    elif not options.models:
        sentence = "no verdict was read again: give the model with --model"
        yield CheckResult(name="verdicts", status="not checked", sentence=sentence)


def _check_models(folder: Path, options: VerificationOptions) -> list[CheckResult]:
    try:
        return check_models(
            folder,
            options.models,
            device=options.device,
            batch_size=options.batch_size,
            proofs=options.proofs,
            allow_code=options.allow_code,
        )
    except BundleError as error:
        return [CheckResult(name="verdicts", status="failed", sentence=str(error))]
