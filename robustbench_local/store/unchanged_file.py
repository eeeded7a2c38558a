"""A record that ``run.db`` is still, byte for byte, what its writer left.

Checking every row of a large run takes longer than reading it. A writer that has checked the run when it
opened it, and has been the only one since, records the digest of the whole file when it closes it. A reader
that finds the same file need not check the rows; any other file is checked row by row.

What it protects against is damage: a failing disk, a copy that was cut off, a program or a person that
changed rows behind the back of this package. Each of these changes the file, so that the record no longer
fits, the digest of every cell is compared, and resume, report, gate, compare and merge name the damaged cell.
Whoever changes a row on purpose and writes a fitting record is not noticed; the same person could write
fitting digests of the rows, which are no signatures either (see ``digests``). So the record gives nothing
away, and a report of 1.5 million rows is spared a minute. The file is read back for it, so that what the
system failed to write is not what is recorded. Without a record, or with a wrong one, the rows are checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from robustbench_local.errors import RobustbenchError
from robustbench_local.store.atomic_files import write_atomically

DIGEST_NAME = "run.db.sha256"
"""Name of the record in the run directory."""
MIN_RECORDED_BYTES = 4 << 20
"""Smallest file with such a record; the rows of smaller ones are checked within a second."""


def record_file_digest(path: Path) -> None:
    """Record the digest of a closed database, unless it is small; without it, readers check every row.

    Args:
        path: ``run.db``, without a log.
    """
    with contextlib.suppress(OSError, RobustbenchError):
        if path.stat().st_size >= MIN_RECORDED_BYTES and not _has_log(path):
            write_atomically(path.with_name(DIGEST_NAME), json.dumps({"sha256": _hash_file(path)}) + "\n")


def remove_file_digest(path: Path) -> None:
    """Remove the record before the database is written to."""
    with contextlib.suppress(OSError):
        path.with_name(DIGEST_NAME).unlink(missing_ok=True)


def is_unchanged(path: Path) -> bool:
    """Return whether a database is what its writer left; False if that is unknown.

    Args:
        path: ``run.db``; the caller has begun to read it, so that no log can be merged into it meanwhile.
    """
    try:
        record = path.with_name(DIGEST_NAME)
        if record.is_symlink() or not record.is_file() or record.stat().st_size > 1000 or _has_log(path):
            return False
        known = json.loads(record.read_text("utf-8"))
        return isinstance(known, dict) and known.get("sha256") == _hash_file(path)
    except (OSError, ValueError, RecursionError):
        return False


def _has_log(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
