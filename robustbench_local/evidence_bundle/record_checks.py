"""Checks of a bundle's files against each other: hashes, signature, schema, and rates computed again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import RobustbenchError, format_install_command
from robustbench_local.evidence_bundle.attestation import (
    build_statement,
    format_statement,
)
from robustbench_local.evidence_bundle.bundle_files import (
    DESCRIPTION_NAME,
    ENVELOPE_NAME,
    RESULTS_NAME,
    SCHEMA_NAME,
    STATEMENT_NAME,
    UNLISTED_NAMES,
)
from robustbench_local.evidence_bundle.check_results import BundleError, CheckResult, build_check
from robustbench_local.evidence_bundle.make_bundle import (
    build_documents,
    compute_writer_version,
    read_published_schema,
)
from robustbench_local.evidence_bundle.run_records import load_json, rebuild_run
from robustbench_local.evidence_bundle.signatures import verify_envelope
from robustbench_local.reports.writers.results_json import format_json, load_results
from robustbench_local.store import RunStore

MAX_DIFFERENCES = 1000
"""Most differing values of results.json that are listed."""
UNSIGNED_SENTENCE = (
    "no signature: whoever can write the file can write its hashes too; a model shows that verdicts hold"
)
DOCUMENTS_SENTENCE = "they follow from results.json; of the pages in report/ the hashes alone were checked"


def check_listed_files(folder: Path, digests: Mapping[str, str]) -> CheckResult:
    """Check that the statement lists every file with its hash, and no other.

    Args:
        folder: The folder of the bundle's files.
        digests: SHA-256 of each file by its name.
    """
    name = "files"
    failures: list[str] = []
    try:
        statement = load_json(folder / STATEMENT_NAME)
        listed = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
        repeated = len(listed) < len(statement["subject"])
    except BundleError as error:
        return CheckResult(name=name, status="failed", sentence=str(error))
    except (KeyError, TypeError):
        return CheckResult(name=name, status="failed", sentence=f"{STATEMENT_NAME} is no in-toto statement")
    present = {key: value for key, value in digests.items() if key not in UNLISTED_NAMES}
    failures += ["a file is listed twice"] if repeated else []
    failures += [f"{key} is listed and missing" for key in sorted(listed.keys() - present.keys())]
    failures += [f"{key} is not listed" for key in sorted(present.keys() - listed.keys())]
    failures += [
        f"{key} was changed" for key in sorted(listed) if present.get(key, listed[key]) != listed[key]
    ]
    files = format_count(len(listed), "file")
    return build_check(
        name,
        failures=failures,
        good=f"{files} as listed, and no other",
        bad=f"{format_count(len(failures), 'file')} not as listed in {STATEMENT_NAME}",
    )


def check_signature(folder: Path, key_file: Path | None) -> CheckResult:
    """Check the signature of the statement, if a key is given.

    Raises:
        ConfigError: If the key cannot be used.
    """
    envelope = folder / ENVELOPE_NAME
    if key_file is None:
        sentence = UNSIGNED_SENTENCE
        if envelope.is_file():
            sentence = "signed, and not checked: give the signer's public key with --key"
        return CheckResult(name="signature", status="not checked", sentence=sentence)
    if not envelope.is_file():
        sentence = "the bundle is not signed, and a key was given"
        return CheckResult(name="signature", status="failed", sentence=sentence)
    try:
        key = verify_envelope(load_json(envelope), (folder / STATEMENT_NAME).read_bytes(), key_file)
    except BundleError as error:
        return CheckResult(name="signature", status="failed", sentence=str(error))
    return CheckResult(name="signature", status="ok", sentence=f"signed by the given key (sha256 {key[:16]})")


def check_schema(folder: Path) -> CheckResult:
    """Check results.json against the published schema."""
    name = "schema of results.json"
    try:
        results = load_json(folder / RESULTS_NAME)
        published = read_published_schema()
        if (folder / SCHEMA_NAME).read_text(encoding="utf-8") != published:
            sentence = "the bundle's schema is not the one that this version publishes"
            return CheckResult(name=name, status="undecided", sentence=sentence)
    except (BundleError, OSError, UnicodeDecodeError) as error:
        return CheckResult(name=name, status="failed", sentence=str(error))
    try:
        problems = list(find_schema_problems(results))
    except ImportError:
        sentence = f"needs the extra evidence: {format_install_command('evidence')}"
        return CheckResult(name=name, status="not checked", sentence=sentence)
    return build_check(
        name,
        failures=problems,
        good="valid",
        bad=f"{format_count(len(problems), 'value')} not as the schema says",
    )


def find_schema_problems(results: Any) -> Iterator[str]:
    """Find what in the content of a results.json breaks the published schema, one line each.

    Args:
        results: The content.

    Raises:
        ImportError: If jsonschema is not installed; the extra ``evidence`` installs it.
    """
    import json  # noqa: PLC0415 - beside its use

    from jsonschema import Draft202012Validator  # noqa: PLC0415 - it needs an extra

    validator = Draft202012Validator(json.loads(read_published_schema()))
    for error in validator.iter_errors(results):
        yield f"{error.json_path}: {error.message[:200]}"


def check_results(folder: Path) -> CheckResult:
    """Compute results.json again from the outcomes in the bundle, and compare every value."""
    name = "rates and intervals"
    try:
        stated = load_json(folder / RESULTS_NAME)
        computed = recompute_results(folder)
    except BundleError as error:
        return CheckResult(name=name, status="failed", sentence=str(error))
    if (folder / RESULTS_NAME).read_text(encoding="utf-8") == format_json(computed):
        cells = format_count(len(computed["cells"]), "cell")
        outcomes = format_count(sum(cell["n"] for cell in computed["cells"]), "outcome")
        sentence = f"all of results.json follows from the {outcomes} of {cells}"
        return CheckResult(name=name, status="ok", sentence=sentence)
    differences = list(find_differences(stated, computed))[:MAX_DIFFERENCES] or ["another spelling"]
    sentence = f"{format_count(len(differences), 'value')} of results.json do not follow from the outcomes"
    return build_version_check(folder, name, sentence, differences)


def build_version_check(folder: Path, name: str, sentence: str, failures: Sequence[str]) -> CheckResult:
    """Build the result of a computation that came out otherwise: another version may be the reason.

    Args:
        folder: The folder of the bundle's files.
        name: What was checked.
        sentence: What came out otherwise.
        failures: The differences, one line each.
    """
    own = compute_writer_version()
    try:
        writer = str(load_json(folder / DESCRIPTION_NAME)["made_by"]["code"])
    except (BundleError, KeyError, TypeError):
        writer = own
    if writer == own:
        return CheckResult(name=name, status="failed", sentence=sentence, details=tuple(failures))
    remedy = f"the bundle says that it was made by {writer}, and this is {own}: verify it with that version"
    return CheckResult(
        name=name, status="undecided", sentence=f"{sentence}; {remedy}", details=tuple(failures)
    )


def recompute_results(folder: Path) -> dict[str, Any]:
    """Compute the content of results.json from the records of a bundle.

    Raises:
        BundleError: If that is not possible.
    """
    with tempfile.TemporaryDirectory(prefix="rbl-verify-") as scratch:
        run_dir = Path(scratch, "run")
        try:
            rebuild_run(folder, run_dir)
            with RunStore.open_readonly(run_dir) as store:
                return load_results(store)
        except BundleError:
            raise
        except RobustbenchError as error:
            raise BundleError(f"no results can be computed from the records ({error})") from error
        except Exception as error:  # records may hold anything
            what = f"no results can be computed from the records ({type(error).__name__}: {error})"
            raise BundleError(what) from error


def check_documents(folder: Path) -> CheckResult:
    """Check that the bill of materials, the evidence map and the statement follow from results.json."""
    name = "bill of materials, evidence map and statement"
    try:
        results = load_json(folder / RESULTS_NAME)
        expected = build_documents(folder, results)
        statement = load_json(folder / STATEMENT_NAME)
        digests = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
        expected[STATEMENT_NAME] = format_statement(build_statement(digests, results)).decode()
        texts = {key: (folder / key).read_text(encoding="utf-8") for key in expected}
    except BundleError as error:
        return CheckResult(name=name, status="failed", sentence=str(error))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError) as error:
        what = f"they cannot be built from results.json ({type(error).__name__}: {error})"
        return CheckResult(name=name, status="failed", sentence=what)
    failures = [f"{key} does not follow from results.json" for key in expected if texts[key] != expected[key]]
    if failures:
        sentence = (
            f"{format_count(len(failures), 'document')} of another content than follows from results.json"
        )
        return build_version_check(folder, name, sentence, failures)
    return CheckResult(name=name, status="ok", sentence=DOCUMENTS_SENTENCE)


def find_differences(stated: Any, computed: Any, pointer: str = "") -> Iterator[str]:
    """Find the values that differ between two JSON documents, each with its pointer."""
    if isinstance(stated, dict) and isinstance(computed, dict):
        for key in dict.fromkeys([*computed, *stated]):
            there, here = stated.get(key, _MISSING), computed.get(key, _MISSING)
            yield from find_differences(there, here, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(stated, list) and isinstance(computed, list) and len(stated) == len(computed):
        for index, (there, here) in enumerate(zip(stated, computed, strict=True)):
            yield from find_differences(there, here, f"{pointer}/{index}")
    elif type(stated) is not type(computed) or stated != computed:
        yield f"{pointer or '/'}: {_shorten_value(stated)} is stated, {_shorten_value(computed)} follows"


_MISSING = object()


def _shorten_value(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
