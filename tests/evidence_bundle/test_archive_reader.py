"""What an archive from anyone may hold: nothing but plain files, and no byte besides."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from robustbench_local.evidence_bundle import archive_reader
from robustbench_local.evidence_bundle.archive_reader import extract_archive
from robustbench_local.evidence_bundle.archive_writer import write_archive
from robustbench_local.evidence_bundle.check_results import BundleError


def write_zip(path: Path, *names: str, mode: int = 0o100644, comment: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.comment = comment
            archive.writestr(entry, "content")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """An empty folder to extract to, beside which nothing may appear."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_what_is_written_is_read(tmp_path, folder):
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/a.json").write_bytes(b"{}" * 1000)
    (tmp_path / "in/sub/b.png").write_bytes(bytes(range(256)))
    write_archive(tmp_path / "in", tmp_path / "x.zip")
    digests = extract_archive(tmp_path / "x.zip", folder)
    assert sorted(digests) == ["a.json", "sub/b.png"]
    assert (folder / "sub/b.png").read_bytes() == bytes(range(256))
    assert {len(digest) for digest in digests.values()} == {64}


@pytest.mark.parametrize(
    "names",
    [
        ["../a"],
        ["/etc/a"],
        ["a/../../b"],
        ["a//b"],
        ["./a"],
        ["a\\..\\b"],
        ["C:/a"],
        ["a "],
        ["a."],
        ["a/"],
        ["\u202ea"],
        ["é"],
        ["a\x1b"],
        ["a" * 201],
        ["a", "A"],
        ["d/a", "D/b"],
        ["a", "a/b"],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_could_mislead_are_refused(names, tmp_path, folder):
    with pytest.raises(BundleError, match="has ") as failure:
        extract_archive(write_zip(tmp_path / "x.zip", *names), folder)
    assert "\n" not in str(failure.value)
    assert "\x1b" not in str(failure.value)
    assert not any(folder.iterdir())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_repeated_names_and_comments_are_refused(tmp_path, folder):
    for path, words in (
        (write_zip(tmp_path / "link.zip", "a", mode=0o120777), "a link"),
        (write_zip(tmp_path / "twice.zip", "a", "a"), "twice"),
        (write_zip(tmp_path / "comment.zip", "a", comment=b"hidden"), "comments"),
    ):
        with pytest.raises(BundleError, match=words):
            extract_archive(path, folder)
    assert not any(folder.iterdir())


def insert_bytes(content: bytes, position: int) -> bytes:
    """Insert bytes before the directory, and correct its address."""
    directory = struct.unpack_from("<L", content, len(content) - 6)[0]
    hidden = b"hidden" + content[directory:]
    changed = content[:directory] + hidden if position else b"hidden" + content
    if position:
        changed = changed[:-6] + struct.pack("<L", directory + 6) + changed[-2:]
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"hidden",
        lambda content: b"hidden" + content,
        lambda content: insert_bytes(content, 1),
        lambda content: content[:-2] + b"\x06\x00hidden",
        lambda content: content[:60],
        lambda content: content[:-30],
        lambda content: content[:35] + b"\xff" + content[36:],
        lambda content: b"",
        lambda content: content.replace(b"PK\x03\x04", b"PK\x03\x05", 1),
    ],
)
def test_hidden_and_damaged_bytes_are_refused(change, tmp_path, folder):
    path = write_zip(tmp_path / "x.zip", "name")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleError):
        extract_archive(path, folder)


def test_more_bytes_or_files_than_the_limit_are_refused(tmp_path, folder, monkeypatch):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(3 << 20))
    monkeypatch.setenv("RBL_MAX_FILE_GIB", "0.002")
    with pytest.raises(BundleError, match="unpacks to 3,145,728 bytes"):
        extract_archive(bomb, folder)
    monkeypatch.setattr(archive_reader, "MAX_FILES", 2)
    assert len(extract_archive(write_zip(tmp_path / "two.zip", "a", "b"), folder)) == 2
    with pytest.raises(BundleError, match="has 3 files"):
        extract_archive(write_zip(tmp_path / "three.zip", "a", "b", "c"), folder)


def test_a_size_that_lies_is_found(tmp_path, folder):
    path = write_zip(tmp_path / "x.zip", "name")
    content = bytearray(path.read_bytes())
    directory = struct.unpack_from("<L", content, len(content) - 6)[0]
    struct.pack_into("<L", content, directory + 24, 3)  # the size that the directory states
    path.write_bytes(content)
    with pytest.raises(BundleError):
        extract_archive(path, folder)
