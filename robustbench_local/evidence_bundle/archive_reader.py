"""Reading a bundle from anyone: names, sizes and layout of the archive are checked before anything else."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from robustbench_local.config.user_files import read_max_file_bytes
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, escape_unprintable
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.store.atomic_files import convert_storage_errors

MAX_FILES = 100_000
"""Most files in a bundle."""
MAX_NAME_CHARACTERS = 200
MAX_JSON_BYTES = 1 << 30
"""Largest document, which is read as a whole; records and images are read in parts."""
_PART_BYTES = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_END_RECORD = struct.Struct("<4s4H2LH")
_END_SIGNATURE, _LOCAL_SIGNATURE = b"PK\x05\x06", b"PK\x03\x04"
_ZIP64_BYTES = 76
"""Length of the two records of a large archive between its directory and its end."""
_IS_ENCRYPTED, _HAS_DESCRIPTOR = 0x1, 0x8
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def extract_archive(path: Path, folder: Path) -> dict[str, str]:
    """Extract a bundle into an empty folder.

    Args:
        path: The archive.
        folder: The folder, which only this call writes to.

    Returns:
        The SHA-256 of each file by its name.

    Raises:
        ConfigError: If there is no such file.
        BundleError: If it is no archive, or anything in it is not as ``rbl bundle`` writes it: names that
            lead out of the folder, that repeat or that differ in case alone, links, hidden bytes between or
            after the files, more bytes than the limit (``RBL_MAX_FILE_GIB``), or damaged content.
    """
    if not path.is_file():
        raise ConfigError("there is no such bundle", where=str(path), remedy="name the file of rbl bundle")
    try:
        with convert_storage_errors(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            _check_layout(file, entries, archive.start_dir)
            return {entry.filename: _extract_file(archive, entry, folder) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error) as error:
        raise BundleError(f"is no intact archive ({' '.join(str(error).split())})") from error


def _check_entries(entries: Sequence[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES:
        raise BundleError(f"has {format_count(len(entries), 'file')}, more than {MAX_FILES:,}")
    limit, total = read_max_file_bytes(), sum(entry.file_size for entry in entries)
    if total > limit:
        raise BundleError(
            f"unpacks to {total:,} bytes, more than {limit:,}; RBL_MAX_FILE_GIB changes the limit"
        )
    documents = [entry for entry in entries if entry.filename.endswith(".json")]
    if any(entry.file_size > MAX_JSON_BYTES for entry in documents):
        raise BundleError(f"has a document of more than {MAX_JSON_BYTES >> 20} MiB")
    files, folders = set[str](), dict[str, str]()
    for entry in entries:
        name = entry.filename
        shown = escape_unprintable(name[:MAX_NAME_CHARACTERS])
        if (problem := _find_name_problem(entry)) is not None:
            raise BundleError(f"has a file {shown!r} {problem}")
        if name.lower() in files:
            raise BundleError(f"has the file {shown!r} twice, or two names that differ in case alone")
        files.add(name.lower())
        for parent in map(str, PurePosixPath(name).parents):
            if folders.setdefault(parent.lower(), parent) != parent:
                raise BundleError(f"has two folders whose names differ in case alone: {parent!r}")
    if both := sorted(files & folders.keys()):
        raise BundleError(f"has a file and a folder of one name: {both[0]!r}")


def _find_name_problem(entry: zipfile.ZipInfo) -> str | None:
    """Return what is wrong with an entry of the archive, as the end of a sentence; None if nothing is."""
    name = entry.orig_filename
    parts = name.split("/")
    if name != entry.filename or not name.isprintable() or not name.isascii():
        return "with characters that no bundle has"
    if len(name) > MAX_NAME_CHARACTERS:
        return "with too long a name"
    if (
        "\\" in name
        or ":" in name
        or any(part in {"", ".", ".."} or part != part.strip(" .") for part in parts)
    ):
        return "whose name could lead out of the folder"
    mode = entry.external_attr >> 16
    if mode and not stat.S_ISREG(mode):
        return "that is no regular file, such as a link"
    if entry.flag_bits & (_IS_ENCRYPTED | _HAS_DESCRIPTOR) or entry.compress_type not in _METHODS:
        return "that is stored in a form that no bundle has"
    return None


def _check_layout(file: BinaryIO, entries: Sequence[zipfile.ZipInfo], directory_start: int) -> None:
    """Refuse bytes that belong to no file: before, between and after the files, and in comments."""
    position = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset != position:
            raise BundleError(
                f"has hidden bytes before the file {entry.filename!r}, or two files that overlap"
            )
        file.seek(position)
        header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if header[0] != _LOCAL_SIGNATURE:
            raise BundleError(f"has a damaged entry {entry.filename!r}")
        position += _LOCAL_HEADER.size + header[-2] + header[-1] + entry.compress_size
    if position != directory_start:
        raise BundleError("has hidden bytes after its last file")
    size = file.seek(0, 2)
    file.seek(size - _END_RECORD.size)
    signature, *_, directory_bytes, _, comment_length = _END_RECORD.unpack(file.read(_END_RECORD.size))
    gap = size - _END_RECORD.size - directory_start - directory_bytes
    is_large = directory_bytes == 0xFFFFFFFF or gap == _ZIP64_BYTES
    if signature != _END_SIGNATURE or comment_length or (gap and not is_large):
        raise BundleError("has hidden bytes after its directory")
    if any(entry.comment for entry in entries):
        raise BundleError("has comments on files, which no bundle has")


def _extract_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> str:
    """Write one file below the folder, and return its SHA-256."""
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher, size = hashlib.sha256(), 0
    with archive.open(entry) as source, target.open("xb") as output:
        while part := source.read(_PART_BYTES):
            size += len(part)
            hasher.update(part)
            output.write(part)
    if size != entry.file_size:
        raise BundleError(f"has another number of bytes in {entry.filename!r} than it says")
    return hasher.hexdigest()
