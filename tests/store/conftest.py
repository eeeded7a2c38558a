"""What the store's tests share: a run to write to, and a user whom permissions bind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from forker import CommandForker
from store_samples import IDENTITY, OTHER_KEY, RESOLVED, make_cell

from robustbench_local.store import RunStore


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def store(directory: Path) -> Iterator[RunStore]:
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as opened:
        opened.put_cell(make_cell())
        opened.put_cell(make_cell(OTHER_KEY, position=1))
        yield opened


@pytest.fixture(scope="session")
def forker() -> Iterator[CommandForker]:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    command = [sys.executable, str(Path(__file__).with_name("forker.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield CommandForker(process)


@pytest.fixture
def unprivileged(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """Root may write anywhere: inside this context, be somebody who may not."""
    if os.name == "nt":
        pytest.skip("permissions of POSIX")
    return lambda: _become_nobody(tmp_path)


@contextmanager
def _become_nobody(folder: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Make a folder and all in it read-only, until the test ends."""

    def freeze(directory: Path) -> Path:
        for entry in (*directory.rglob("*"), directory):
            entry.chmod(0o555 if entry.is_dir() else 0o444)
        return directory

    yield freeze
    for folder in [entry for entry in tmp_path.rglob("*") if entry.is_dir()]:
        folder.chmod(0o755)
