"""Atomic writes: the old content or the new, and an error in the user's words."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from robustbench_local.errors import ConfigError, RobustbenchError, StorageError
from robustbench_local.store.atomic_files import (
    convert_storage_errors,
    make_directory,
    remove_temporary_files,
    write_atomically,
)


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def test_content_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "限速 🛑.json"
    write_atomically(target, b"\x00\xff")
    write_atomically(target, "é\r\n\udcff")
    assert target.read_bytes() == "é\r\n\\udcff".encode()
    assert names(tmp_path) == {target.name}


@pytest.mark.parametrize("step", ["os.fsync", "Path.replace"])
def test_a_full_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "results.json"
    write_atomically(target, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"robustbench_local.store.atomic_files.{step}", full)
    with pytest.raises(StorageError, match="no space left on device") as caught:
        write_atomically(target, "new")
    assert caught.value.exit_code == 4
    assert target.read_text() == "old"
    assert names(tmp_path) == {"results.json"}


def test_an_interrupt_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "results.json"
    write_atomically(target, "old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_local.store.atomic_files.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == {"results.json"}


def test_content_and_folder_are_flushed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "results.json"
    steps: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        folder = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        steps.append(f"{'folder' if folder else 'content'}, name there: {target.exists()}")
        fsync(descriptor)

    monkeypatch.setattr("robustbench_local.store.atomic_files.os.fsync", noted)
    write_atomically(target, "new")
    assert steps == ["content, name there: False", "folder, name there: True"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageError),
        (errno.EDQUOT, StorageError),
        (errno.EFBIG, StorageError),
        (errno.EIO, StorageError),
        (errno.EACCES, ConfigError),
        (errno.EROFS, ConfigError),
        (errno.ENOTDIR, ConfigError),
        (errno.ENAMETOOLONG, ConfigError),
    ],
)
def test_errors_of_the_system_have_an_exit_code(number: int, kind: type[RobustbenchError]) -> None:
    with pytest.raises(kind, match=r"^runs/today: ") as caught, convert_storage_errors(Path("runs/today")):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert os.strerror(number).lower() in str(caught.value)


def test_other_mistakes_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ours"), convert_storage_errors(tmp_path):
        raise ValueError("ours")


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "runs" / "run"):
        with pytest.raises(ConfigError, match="cannot be used"):
            make_directory(folder)


@pytest.mark.parametrize("name", ["x" * 300, "nul\0"])
def test_a_name_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        make_directory(tmp_path / name)


def test_a_folder_that_may_not_be_written_to(
    tmp_path: Path, frozen: Callable[[Path], Path], unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    (tmp_path / "runs").mkdir()
    folder = frozen(tmp_path / "runs")
    with unprivileged(), pytest.raises(ConfigError, match="permission denied"):
        make_directory(folder / "today")


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adversarial" / "0a1b").mkdir(parents=True)
    kept = [tmp_path / "run.yaml", tmp_path / "adversarial" / "0a1b" / "00000.safetensors"]
    for file in kept:
        # Written by the real code up to the point of the kill.
        with monkeypatch.context() as patch:
            patch.setattr("robustbench_local.store.atomic_files.Path.replace", lambda *_: os.abort_here)
            patch.setattr("robustbench_local.store.atomic_files.Path.unlink", lambda *_, **__: None)
            with pytest.raises(AttributeError):
                write_atomically(file, "new")
        file.write_text("old")
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 4
    remove_temporary_files(tmp_path)
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(kept)
