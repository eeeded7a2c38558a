"""One writer per run directory, ensured by the operating system's lock and a record of the owner."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path

from robustbench_local.errors import LockedError
from robustbench_local.store.atomic_files import convert_storage_errors, refuse_link

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_UNSUPPORTED_CODES = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_held_locks: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


@dataclass(frozen=True)
class LockOwner:
    """A process, distinguishable from a later one with the same number."""

    pid: int
    boot: str
    """Id of this boot of the machine; empty if the system has none."""
    started: str
    """Start time of the process, in the system's format; empty if unknown."""

    @classmethod
    def from_pid(cls, pid: int) -> LockOwner | None:
        """Describe a running process; None if there is none with this number."""
        if sys.platform == "linux":
            return _find_linux_owner(pid)
        return _find_portable_owner(pid)


class DirectoryLock:
    """The right to write to a run directory, held until ``release_lock`` or the end of the process.

    Args:
        path: The lock file; its folder must exist.

    Attributes:
        takeover_message: Message for the user if a dead process had left its lock; else None.

    Raises:
        LockedError: A live process holds it.
        ConfigError: The lock file cannot be created here.
        RefusedError: A symbolic link is in its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        refuse_link(path)
        with convert_storage_errors(path.parent):
            self._descriptor = self._open_and_lock()
            try:
                self.takeover_message = self._check_previous_owner()
                self._write_owner()
            except BaseException:
                os.close(self._descriptor)
                raise
        _held_locks.add(self)

    def release_lock(self) -> None:
        """Release the directory and remove the lock file."""
        _held_locks.discard(self)
        if sys.platform == "win32":
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            return
        # Remove the file before unlocking it: a waiting process finds that the name is gone and starts
        # over with a new file, so two processes never hold two files of one name.
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def close_in_child(self) -> None:
        """Close a forked child's copy, which would keep the lock alive after its parent."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _open_and_lock(self) -> int:
        while True:
            descriptor = os.open(self._path, _OPEN_FLAGS, 0o644)
            locked = _try_lock(descriptor)
            if locked and _is_same_file(descriptor, self._path):
                return descriptor
            os.close(descriptor)
            if not locked:
                raise self._build_locked_error()

    def _check_previous_owner(self) -> str | None:
        """Check the last owner's record: it is empty after a proper end, but not after a crash."""
        content = os.pread(self._descriptor, 4096, 0) if hasattr(os, "pread") else self._path.read_bytes()
        if not content:
            return None
        previous = _parse_owner(content)
        if previous is not None and LockOwner.from_pid(previous.pid) == previous:
            raise self._build_locked_error()
        pid = "an unknown process" if previous is None else f"process {previous.pid}"
        return f"took over the lock of {pid}, which ended without closing the run"

    def _write_owner(self) -> None:
        pid = os.getpid()
        content = json.dumps(asdict(LockOwner.from_pid(pid) or LockOwner(pid, "", ""))).encode()
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, content)
        os.fsync(self._descriptor)

    def _build_locked_error(self) -> LockedError:
        owner = self._read_owner()
        who = f"process {owner.pid}" if owner else "another process"
        what = f"{who} is writing to this run"
        return LockedError(what, where=str(self._path.parent), remedy="wait for it or use another --out")

    def _read_owner(self) -> LockOwner | None:
        """Return the owner's record, which is written within milliseconds of the lock."""
        for _ in range(10):
            with contextlib.suppress(OSError):
                owner = _parse_owner(self._path.read_bytes())
                if owner is not None:
                    return owner
            time.sleep(0.02)
        return None


def is_being_written(path: Path) -> bool:
    """Return whether a live process of this machine says in a lock file that it writes to the run.

    Args:
        path: The lock file; it is only read, and a link is not followed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        owner = _parse_owner(os.read(descriptor, 4096))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return owner is not None and LockOwner.from_pid(owner.pid) == owner


def _try_lock(descriptor: int) -> bool:
    """Take the operating system's lock without waiting; it ends with the process, however that ends.

    Return True also on file systems without locks, where the owner's record alone decides.
    """
    try:
        if sys.platform == "win32":
            # Far behind the content, because Windows locks prevent others from reading the locked bytes.
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED_CODES:
            return True
        if error.errno in {errno.EAGAIN, errno.EACCES, errno.EDEADLK}:
            return False
        raise
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Return True if the name still refers to the locked file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _parse_owner(content: bytes) -> LockOwner | None:
    try:
        fields = json.loads(content)
        return LockOwner(int(fields["pid"]), str(fields["boot"]), str(fields["started"]))
    except (ValueError, KeyError, TypeError):
        return None


def _find_linux_owner(pid: int) -> LockOwner | None:
    try:
        # The command's name is in parentheses and may contain anything; the fields start after it.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else LockOwner(pid, boot, started)


def _find_portable_owner(pid: int) -> LockOwner | None:
    """Query ``ps``, which macOS and the BSDs have; elsewhere the operating system's lock is enough."""
    try:
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return LockOwner(pid, "", " ".join(answer.stdout.split()))


def _close_locks_in_child() -> None:
    for lock in list(_held_locks):
        lock.close_in_child()
    _held_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks_in_child)
