"""A process that has imported everything and forks for each ``rbl`` command: tests wait for imports once.

``start_command_server`` starts it and gives a script that stands for ``rbl``. The script hands its arguments,
folder, environment and standard streams to the server, and ends with the command's exit code. Whoever kills
the script ends the command as well. Tests about start-up, signals or several processes start ``rbl`` itself.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

PRELOADED = (
    "torchvision",
    "scipy.stats",
    "robustbench_local.attacks",
    "robustbench_local.certification",
    "robustbench_local.cli.grid_run",
    "robustbench_local.cli.run_results",
    "robustbench_local.cli.training_run",
    "robustbench_local.defenses",
    "robustbench_local.evaluation.execution.executor",
    "robustbench_local.reports.report_files",
    "robustbench_local.reports.writers.figures",
)
CLIENT = """#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode("utf-8", "surrogateescape")
    streams = array.array("i", [0, 1, 2])
    link.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    link.sendall(request)
    answer = link.recv(1)
sys.exit(answer[0] if answer else 70)
"""


@contextlib.contextmanager
def start_command_server(folder: Path) -> Iterator[str]:
    """Start a server in this folder; yields the text of a script that stands for ``rbl``."""
    address = str(folder / "commands")
    with subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield CLIENT.format(python=sys.executable, address=address)
        finally:
            server.kill()


def serve_commands(address: str) -> None:
    """Serve until killed; each command in a process of its own."""
    for name in PRELOADED:
        import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked processes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _handle_request(link)
            link.close()


def _handle_request(link: socket.socket) -> None:
    """Run a command in a child, and answer with its exit code; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, ancillary, *_ = link.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i", ancillary[0][2])
    request = b""
    while len(request) < int.from_bytes(head, "big"):
        request += link.recv(1 << 16)
    child = os.fork()
    if child == 0:
        link.close()
        _run_command(streams, *json.loads(request))
    done = os.pidfd_open(child)
    ready, *_ = select.select([link, done], [], [])
    if done not in ready:  # whoever waited for the answer is gone
        os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        link.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run_command(
    streams: array.array[int], arguments: list[str], folder: str, environment: dict[str, str]
) -> None:
    from robustbench_local.cli.main import main

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # What python opened at the start may be of another kind, a file in place of a pipe.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", errors="backslashreplace")  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["rbl", *arguments]
    sys.path[0] = folder  # as python -m has it
    main()


if __name__ == "__main__":
    serve_commands(sys.argv[1])
