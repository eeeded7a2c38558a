"""``load_test.json``: the load tests of the models of a run, beside the run's other files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_local.errors import DamagedError
from robustbench_local.store.atomic_files import convert_storage_errors, make_directory, write_atomically
from robustbench_local.store.run_folder import LOAD_TEST_NAME

if TYPE_CHECKING:
    from robustbench_local.store.load_test_records import LoadTestRecord

MAX_FILE_BYTES = 16 << 20
"""Largest file that is read; a load test takes some kilobytes."""
_REMEDY = "remove it, and run rbl load-test again"


def read_load_tests(directory: Path) -> tuple[LoadTestRecord, ...]:
    """Read the load tests in a folder; none if it has no such file.

    Raises:
        DamagedError: If the file is not what ``add_load_test`` wrote.
    """
    path = directory / LOAD_TEST_NAME
    with convert_storage_errors(path):
        if not path.is_file():
            return ()
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    from pydantic import ValidationError  # noqa: PLC0415 - only where there is a load test

    from robustbench_local.store.load_test_records import LoadTestFile  # noqa: PLC0415 - as above

    if len(content) > MAX_FILE_BYTES:
        raise DamagedError(f"is larger than {MAX_FILE_BYTES >> 20} MiB", where=str(path), remedy=_REMEDY)
    try:
        data = json.loads(content)
        read = LoadTestFile.model_validate(data)
    except (ValueError, RecursionError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        place = ".".join(map(str, first["loc"])) if first else ""
        reason = f"{place}: {first['msg']}" if first else "not JSON"
        raise DamagedError(f"is no file of load tests ({reason})", where=str(path), remedy=_REMEDY) from None
    if read.sha256 != _compute_digest(data["tests"]):
        raise DamagedError("differs from what was written", where=str(path), remedy=_REMEDY)
    return read.tests


def add_load_test(directory: Path, record: LoadTestRecord) -> Path:
    """Add a load test to a folder, in place of an earlier one of the same model.

    Returns:
        The file.

    Raises:
        DamagedError: If the folder's file cannot be read.
        StorageError: If the write fails; the old content is unchanged.
    """
    known: Sequence[LoadTestRecord] = read_load_tests(directory)
    kept = [one for one in known if (one.model, one.defense) != (record.model, record.defense)]
    tests = [one.model_dump(mode="json") for one in (*kept, record)]
    make_directory(directory)
    path = directory / LOAD_TEST_NAME
    content = {"schema": 1, "tests": tests, "sha256": _compute_digest(tests)}
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def _compute_digest(tests: Any) -> str:
    text = json.dumps(tests, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
