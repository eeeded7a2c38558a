"""The work of ``rbl view``: check the arguments, listen, say where."""

from __future__ import annotations

import socket
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from robustbench_local.cli.terminal_output import echo_line
from robustbench_local.errors import ConfigError, format_install_command
from robustbench_local.web.host_names import is_loopback_address

_LIBRARIES = ("starlette", "uvicorn")
_KEEP_ALIVE_SECONDS = 5
_SHUTDOWN_SECONDS = 2


def view_runs(folder: Path, *, host: str, port: int, opens_browser: bool) -> int:
    """Serve the pages until the command is stopped; return exit code 0.

    Args:
        folder: The folder of runs.
        host: A loopback address, or ``localhost``.
        port: 0 for any free one.
        opens_browser: Whether the list is opened in a browser.

    Raises:
        ConfigError: If a library is missing, the folder cannot be read, the address is not of this machine
            alone, or the port is taken.
    """
    _check_libraries()
    if not is_loopback_address(host):
        raise ConfigError(
            f"{host!r} can be reached from other machines, and nobody has to log in",
            where="--host",
            remedy="use 127.0.0.1, ::1 or localhost",
        )
    from robustbench_local.view.run_folders import check_root
    from robustbench_local.web.listening_socket import open_socket

    root = check_root(folder)
    opened = open_socket(host, port)
    try:
        _run_server(root, opened, host=host, opens_browser=opens_browser)
    finally:
        opened.close()
    return 0


def _run_server(root: Path, opened: socket.socket, *, host: str, opens_browser: bool) -> None:
    import asyncio

    import uvicorn

    from robustbench_local.view.view_app import create_view
    from robustbench_local.web.graceful_server import GracefulServer

    config = uvicorn.Config(
        create_view(root, _report_error),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{opened.getsockname()[1]}/"
    echo_line(f"showing the runs in {root} at {url} (stop: Ctrl-C)")
    sys.stdout.flush()
    if opens_browser:
        import webbrowser

        threading.Timer(0.5, webbrowser.open, [url]).start()
    with asyncio.Runner() as runner:
        runner.run(GracefulServer(config).serve(sockets=[opened]))


def _report_error(error: Exception) -> None:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    echo_line(f"rbl view: internal error: {line}", error=True)


def _check_libraries() -> None:
    """Refuse to start without the libraries of the extra.

    Raises:
        ConfigError: Naming the command that installs them.
    """
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"rbl view needs {' and '.join(missing)}", remedy=f"install them: {format_install_command('web')}"
        )
