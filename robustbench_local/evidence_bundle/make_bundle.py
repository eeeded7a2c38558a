"""``rbl bundle``: the evidence of a run in one archive."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from robustbench_local.classifier.package_code import digest_code
from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import ConfigError
from robustbench_local.evidence_bundle.archive_writer import hash_file, list_files, write_archive
from robustbench_local.evidence_bundle.attestation import build_statement, format_statement
from robustbench_local.evidence_bundle.bundle_files import (
    BOM_NAME,
    BUNDLE_VERSION,
    CARD_NAME,
    DESCRIPTION_NAME,
    ENVELOPE_NAME,
    GRID_NAME,
    MAP_NAME,
    MAP_PAGE_NAME,
    REPORT_FOLDER,
    RESULTS_NAME,
    SCHEMA_NAME,
    STATEMENT_NAME,
)
from robustbench_local.evidence_bundle.clean_images import CleanImages
from robustbench_local.evidence_bundle.evidence_map import build_evidence_map, format_evidence_map
from robustbench_local.evidence_bundle.example_files import ExampleChoice, write_examples
from robustbench_local.evidence_bundle.ml_bom import build_bom
from robustbench_local.evidence_bundle.proof_images import write_proof_images
from robustbench_local.evidence_bundle.run_records import write_records
from robustbench_local.evidence_bundle.signatures import sign_statement
from robustbench_local.reports import write_report
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.reports.writers.results_json import format_json, load_results
from robustbench_local.store import RunStore
from robustbench_local.store.atomic_files import convert_storage_errors
from robustbench_local.store.run_folder import RESOLVED_GRID_NAME

MAX_CARD_BYTES = 1 << 22
_WRITER_MODULES = ("robustbench_local.reports.writers.results_json", "robustbench_local.evidence_bundle")
"""What computes the files of a bundle; all that it imports counts too."""
_PAGE_FILES = ("report.html", "report.md", "results.csv")
"""Files of the report besides its figures; the outcomes are among the records."""


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What a bundle holds besides results and outcomes."""

    examples: ExampleChoice = field(default_factory=ExampleChoice)
    """Which adversarial examples, and whether any images at all."""
    model_card: Path | None = None
    """A model card to include, Markdown."""
    signing_key: Path | None = None
    """The private key that signs the statement; None: the bundle is not signed."""


@dataclass(frozen=True, kw_only=True)
class WrittenBundle:
    """A bundle that was written."""

    path: Path
    """The archive."""
    sha256: str
    """Its SHA-256, hexadecimal."""
    stored_examples: int
    """Adversarial examples that the run has stored."""
    included_examples: int
    """Those of them that are in the bundle."""
    proof_images: int
    """Clean images of certificates that are in the bundle."""
    certificate_outcomes: int
    """Images that certificates were run on, over all certificates."""
    proof_problem: str
    """Why images of certificates are missing, beyond the limit; empty if none is."""
    broken_images: int
    """Images with an adversarial example, over all attacks."""
    is_signed: bool
    """Whether it is signed."""


def make_bundle(run_dir: Path, out: Path, options: BundleOptions | None = None) -> WrittenBundle:
    """Write the evidence of a run to one archive. The same run and options give the same bytes.

    Args:
        run_dir: The run directory; it is only read.
        out: The archive; an existing file is replaced.
        options: What the bundle holds.

    Raises:
        ConfigError: If there is no run or no result, or the key or card cannot be used.
        DamagedError: If the run or its images are damaged.
        StorageError: If the disk refuses a write.
    """
    chosen = options or BundleOptions()
    if not out.parent.is_dir():
        raise ConfigError("there is no such folder", where=str(out.parent), remedy="create it first")
    card = None if chosen.model_card is None else read_user_file(chosen.model_card, limit=MAX_CARD_BYTES)
    with (
        convert_storage_errors(out),
        tempfile.TemporaryDirectory(prefix="rbl-bundle-") as scratch,
        RunStore.open_readonly(run_dir) as store,
    ):
        folder = Path(scratch, "files")
        folder.mkdir()
        if card is not None:
            (folder / CARD_NAME).write_bytes(card)
        results = load_results(store)
        if not any(cell["n"] for cell in results["cells"]):
            raise ConfigError("the run has no outcome yet", where=str(run_dir), remedy="run its grid first")
        examples, proofs = _write_run_files(store, folder, results, chosen.examples)
        _write_report_files(run_dir, folder, Path(scratch, "report"), chosen.examples)
        _write_documents(folder, results)
        _write_statement(folder, results, chosen.signing_key)
        write_archive(folder, out)
    return WrittenBundle(
        path=out,
        sha256=hash_file(out),
        stored_examples=sum(entry["stored"] for entry in examples),
        included_examples=sum(entry["included"] for entry in examples if entry["file"]),
        proof_images=sum(entry["included"] for entry in proofs),
        certificate_outcomes=sum(entry["outcomes"] for entry in proofs),
        proof_problem=next((entry["problem"] for entry in proofs if entry["problem"]), ""),
        broken_images=sum(cell["counts"]["broken"] for cell in results["cells"]),
        is_signed=chosen.signing_key is not None,
    )


def build_documents(folder: Path, results: Mapping[str, Any]) -> dict[str, str]:
    """Build the documents of a bundle that follow from its results: bill of materials and evidence map.

    Args:
        folder: The folder of the bundle's files, with results.json.
        results: The content of results.json.

    Returns:
        The text of each by its name.
    """
    digest = hash_file(folder / RESULTS_NAME)
    bom = build_bom(results, digest, has_model_card=(folder / CARD_NAME).is_file())
    evidence_map = build_evidence_map(results)
    return {
        BOM_NAME: format_document(bom),
        MAP_NAME: format_document(evidence_map),
        MAP_PAGE_NAME: format_evidence_map(evidence_map),
    }


def format_document(content: Mapping[str, Any]) -> str:
    """Format a document as JSON text that ends with one newline."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def compute_writer_version() -> str:
    """Return the version of the code that computes results and documents: two of one version agree."""
    return f"{metadata.version('robustbench-local')}+{digest_code(_WRITER_MODULES)[:12]}"


def read_published_schema() -> str:
    """Read the JSON Schema of results.json that this version publishes."""
    return files("robustbench_local.reports").joinpath(SCHEMA_NAME).read_text("utf-8")


def _write_run_files(
    store: RunStore, folder: Path, results: Mapping[str, Any], choice: ExampleChoice
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write results, grid, records, examples, images of certificates, and the description of the bundle."""
    (folder / RESULTS_NAME).write_text(format_json(dict(results)), encoding="utf-8")
    (folder / SCHEMA_NAME).write_text(read_published_schema(), encoding="utf-8")
    grid = (store.directory / RESOLVED_GRID_NAME).read_text(encoding="utf-8")
    (folder / GRID_NAME).write_text("\n".join(map(redact_private_data, grid.split("\n"))), encoding="utf-8")
    write_records(store, folder)
    clean = CleanImages(folder)
    examples = write_examples(store, folder, choice, clean)
    proofs = write_proof_images(store, choice, clean)
    clean.write()
    gallery = results["grid"].get("gallery")
    most = "" if gallery is None else f", at most {gallery} (gallery)"
    description = {
        "bundle_version": BUNDLE_VERSION,
        "made_by": {"name": "robustbench_local", "code": compute_writer_version()},
        "examples": {
            "chosen": _describe_choice(choice),
            "limit": choice.count,
            "stored_by_the_run": f"the first successes of each attack{most}",
            "cells": examples,
        },
        "proofs": proofs,
        "left_out": _list_left_out(choice),
    }
    (folder / DESCRIPTION_NAME).write_text(format_document(description), encoding="utf-8")
    return examples, proofs


def _describe_choice(choice: ExampleChoice) -> str:
    if choice.count is None:
        return "all that the run has stored"
    return f"at most {choice.count} of each attack, by a hash of seed {choice.seed} and the image's id"


def _list_left_out(choice: ExampleChoice) -> list[str]:
    if choice.has_images:
        return ["outcomes.csv of the report: its columns are in records/"]
    return [
        "outcomes.csv of the report: its columns are in records/",
        "clean images and adversarial examples: their SHA-256 are listed under examples",
        "report.html and figures: they show images",
    ]


def _write_report_files(run_dir: Path, folder: Path, scratch: Path, choice: ExampleChoice) -> None:
    write_report(run_dir, scratch)
    (folder / REPORT_FOLDER).mkdir()
    for name in _PAGE_FILES if choice.has_images else _PAGE_FILES[1:]:
        shutil.copyfile(scratch / name, folder / REPORT_FOLDER / name)
    if choice.has_images and (scratch / "figures").is_dir():
        shutil.copytree(scratch / "figures", folder / REPORT_FOLDER / "figures")


def _write_documents(folder: Path, results: Mapping[str, Any]) -> None:
    for name, text in build_documents(folder, results).items():
        (folder / name).write_text(text, encoding="utf-8")


def _write_statement(folder: Path, results: Mapping[str, Any], key: Path | None) -> None:
    digests = {name: hash_file(folder / name) for name in list_files(folder)}
    statement = format_statement(build_statement(digests, results))
    (folder / STATEMENT_NAME).write_bytes(statement)
    if key is not None:
        (folder / ENVELOPE_NAME).write_bytes(sign_statement(statement, key))
