"""Processes to be killed, forked from one that has imported everything once: they start in milliseconds.

Reads a command a line as JSON, e.g. ``["write", "DIRECTORY", 12]``. Its process says ``ready PID``, then what
it has to say; in the end the line is ``ended CODE``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from store_samples import write_run

from robustbench_local.errors import RobustbenchError
from robustbench_local.store.lock import DirectoryLock


class CommandForker:
    """Runs the commands of forker.py, one at a time, each in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, *command: object) -> int:
        """Start a command; gives the number of its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        ready, number = self.read_line().split()
        assert ready == "ready"
        return int(number)

    def read_line(self) -> str:
        """The next thing that the command says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the forker is gone"
        return line

    def wait(self) -> tuple[int, list[str]]:
        """The exit code of the command (minus the signal if it was killed), and what it still said."""
        said = [self.read_line()]
        while not said[-1].startswith("ended "):
            said.append(self.read_line())
        return int(said.pop().split()[1]), said

    def kill_command(self, number: int) -> None:
        os.kill(number, signal.SIGKILL)
        assert self.wait()[0] == -signal.SIGKILL


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def write_store(directory: str, chunks: int, largest_file: int | None = None) -> None:
    """Write a run, with a line for each committed chunk."""
    import resource

    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    write_run(Path(directory), chunks, print_line)


def hold_lock(path: str) -> None:
    """Hold a lock until killed."""
    lock = DirectoryLock(Path(path))
    print_line("holding")
    time.sleep(600)
    lock.release_lock()


def hold_lock_and_fork(path: str) -> None:
    """Hold a lock, with a child that outlives the holder."""
    lock = DirectoryLock(Path(path))
    if os.fork() == 0:
        print_line(str(os.getpid()))
    time.sleep(600)
    lock.release_lock()


COMMANDS: dict[str, Callable[..., None]] = {
    "write": write_store,
    "hold": hold_lock,
    "hold_and_fork": hold_lock_and_fork,
}


def run_command(name: str, *arguments: object) -> int:
    print_line(f"ready {os.getpid()}")
    try:
        COMMANDS[name](*arguments)
    except RobustbenchError as error:
        print_line(f"{type(error).__name__}: {error}")
        return error.exit_code
    return 0


def main() -> None:
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            os._exit(run_command(*json.loads(line)))
        print_line(f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(run_command(*json.loads(sys.argv[1])))
    main()
