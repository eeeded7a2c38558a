"""One writer a directory: live owners are respected, dead ones replaced, and races have one winner."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from forker import CommandForker
from store_samples import IDENTITY, RESOLVED

from robustbench_local.errors import ConfigError, LockedError
from robustbench_local.store import RunStore
from robustbench_local.store import lock as lock_module
from robustbench_local.store.lock import DirectoryLock, LockOwner


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.lock"


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """A live process that has nothing to do with the lock."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def record(owner: LockOwner | None) -> str:
    assert owner is not None
    return json.dumps(asdict(owner))


def test_a_live_owner_is_named(path: Path, forker: CommandForker) -> None:
    pid = forker.start("hold", str(path))
    assert forker.read_line() == "holding"
    try:
        with pytest.raises(LockedError, match=f"process {pid} is writing to this run") as caught:
            DirectoryLock(path)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
    finally:
        forker.kill_command(pid)


def test_a_killed_owner_is_replaced_with_a_warning(directory: Path, forker: CommandForker) -> None:
    directory.mkdir()
    pid = forker.start("hold", str(directory / "run.lock"))
    assert forker.read_line() == "holding"
    forker.kill_command(pid)
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        (event,) = store.read_events()
    assert event.level == "warning"
    assert event.time.endswith("+00:00")
    assert f"took over the lock of process {pid}," in event.message


def test_the_next_owner_after_a_proper_end_hears_nothing(path: Path) -> None:
    for _ in range(2):
        lock = DirectoryLock(path)
        assert lock.takeover_message is None
        assert json.loads(path.read_text())["pid"] == os.getpid()
        lock.release_lock()
        assert not path.exists()


@pytest.mark.parametrize("change", [{"boot": "another boot"}, {"started": "1"}])
def test_a_recycled_process_number_does_not_hold_it(
    path: Path, neighbour: subprocess.Popen[bytes], change: dict[str, str]
) -> None:
    owner = LockOwner.from_pid(neighbour.pid)
    assert owner is not None
    path.write_text(record(replace(owner, **change)))
    lock = DirectoryLock(path)
    assert lock.takeover_message is not None
    assert str(neighbour.pid) in lock.takeover_message
    lock.release_lock()


def test_a_live_record_counts_where_the_system_lock_does_not_reach(
    path: Path, neighbour: subprocess.Popen[bytes]
) -> None:
    path.write_text(record(LockOwner.from_pid(neighbour.pid)))
    for _ in range(2):
        with pytest.raises(LockedError, match=f"process {neighbour.pid} "):
            DirectoryLock(path)
    neighbour.kill()
    neighbour.wait()
    DirectoryLock(path).release_lock()


@pytest.mark.skipif(sys.platform == "win32", reason="flock is of POSIX")
def test_without_system_locks_the_record_decides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("robustbench_local.store.lock.fcntl.flock", no_locks)
    lock = DirectoryLock(path)
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        DirectoryLock(path)
    lock.release_lock()
    DirectoryLock(path).release_lock()


@pytest.mark.skipif(sys.platform == "win32", reason="flock is of POSIX")
def test_a_failing_disk_is_no_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, operation: int) -> None:
        raise OSError(errno.EPERM, "operation not permitted")

    monkeypatch.setattr("robustbench_local.store.lock.fcntl.flock", broken)
    with pytest.raises(ConfigError, match="operation not permitted"):
        DirectoryLock(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"pid": "x"}', "\0\0\0"])
def test_a_torn_record_is_replaced(path: Path, content: str) -> None:
    path.write_text(content)
    lock = DirectoryLock(path)
    assert lock.takeover_message is not None
    assert "an unknown process" in lock.takeover_message
    lock.release_lock()


def test_an_owner_that_has_not_signed_yet_is_still_one(path: Path) -> None:
    lock = DirectoryLock(path)
    path.write_text("")
    with pytest.raises(LockedError, match="another process is writing"):
        DirectoryLock(path)
    lock.release_lock()


def test_a_forked_child_does_not_keep_its_dead_parents_lock(path: Path, forker: CommandForker) -> None:
    holder = forker.start("hold_and_fork", str(path))
    child = int(forker.read_line())
    forker.kill_command(holder)
    try:
        os.kill(child, 0)
        lock = DirectoryLock(path)
        assert lock.takeover_message is not None
        lock.release_lock()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_race_has_one_winner_at_a_time(path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []
    wins: list[int] = []
    end = time.monotonic() + 0.8

    def contend(number: int) -> None:
        while time.monotonic() < end:
            try:
                lock = DirectoryLock(path)
            except LockedError:
                continue
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.0005)
            inside.remove(number)
            wins.append(number)
            lock.release_lock()

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(wins) > 3


def test_a_file_that_is_removed_before_it_is_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former owner ends in that very moment: a lock on a file without a name keeps nobody out."""
    system_lock = lock_module._try_lock
    opened: list[int] = []

    def late(descriptor: int) -> bool:
        opened.append(descriptor)
        if len(opened) == 1:
            path.unlink()
        return system_lock(descriptor)

    monkeypatch.setattr(lock_module, "_try_lock", late)
    lock = DirectoryLock(path)
    assert len(opened) == 2
    assert json.loads(path.read_text())["pid"] == os.getpid()
    with pytest.raises(LockedError):
        DirectoryLock(path)
    lock.release_lock()


def test_processes_are_told_apart(neighbour: subprocess.Popen[bytes]) -> None:
    me, other = LockOwner.from_pid(os.getpid()), LockOwner.from_pid(neighbour.pid)
    assert me is not None
    assert other is not None
    assert me == LockOwner.from_pid(os.getpid())
    assert me.started != "" != other.started
    assert replace(me, pid=other.pid) != other


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_zombie_owns_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 20
    while LockOwner.from_pid(process.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert LockOwner.from_pid(process.pid) is None
    os.kill(process.pid, 0)
    process.wait()


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_owners_by_ps_as_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module.sys, "platform", "darwin")
    me = LockOwner.from_pid(os.getpid())
    assert me is not None
    assert me == LockOwner.from_pid(os.getpid())
    assert me.started.count(":") == 2
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert LockOwner.from_pid(gone.pid) is None


def test_no_ps_no_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module.sys, "platform", "sunos5")
    monkeypatch.setenv("PATH", "")
    assert LockOwner.from_pid(os.getpid()) is None
