"""A model served for the time of a load test, by ``rbl serve`` in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

from robustbench_local.errors import ConfigError, ModelError, RefusedError, RobustbenchError, UnreachableError

_URL = re.compile(r" at (http://\S+)")
_ERROR_PREFIX = "rbl: error: "
_STOP_SECONDS = 35.0
"""A little longer than the server takes for its last requests."""
_ERRORS: dict[int, type[RobustbenchError]] = {2: ConfigError, 5: RefusedError}
_OWN_OPTIONS = frozenset({"--host", "--port", "--rate", "--max-images", "--attacks", "--no-attacks"})


@dataclass(frozen=True)
class LocalService:
    """A server of this machine."""

    url: str
    """Its address."""
    pid: int
    """Its process."""


def build_serve_command(model: str, options: Sequence[str], *, max_images: int) -> list[str]:
    """Build the command that serves a model without limits on the rate, and without attacks.

    Args:
        model: As for ``rbl serve``.
        options: Further options of ``rbl serve``.
        max_images: Most images in a request.

    Raises:
        ConfigError: If an option is one that the load test sets.
    """
    for option in options:
        name = option.partition("=")[0]
        if name in _OWN_OPTIONS:
            raise ConfigError(
                f"the load test sets {name} itself",
                remedy="leave it out, or start rbl serve and name its URL",
            )
    limits = ["--host", "127.0.0.1", "--port", "0", "--rate", "0", "--no-attacks"]
    limits += ["--max-images", str(max_images)]
    return [sys.executable, "-m", "robustbench_local.cli", "serve", model, *limits, *options]


@asynccontextmanager
async def serve_locally(command: Sequence[str], *, start_seconds: float) -> AsyncIterator[LocalService]:
    """Run a server until the context ends.

    Args:
        command: The command.
        start_seconds: Longest time until it listens.

    Raises:
        RobustbenchError: The server's own error, if it does not start.
    """
    with tempfile.TemporaryFile("w+b") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            yield LocalService(await _read_url(process, log, start_seconds), process.pid)
        finally:
            await _stop_process(process)


async def _read_url(process: asyncio.subprocess.Process, log: IO[bytes], seconds: float) -> str:
    assert process.stdout is not None  # noqa: S101 - a pipe
    try:
        async with asyncio.timeout(seconds):
            while line := (await process.stdout.readline()).decode("utf-8", "replace"):
                match = _URL.search(line)
                if match is not None:
                    return match[1]
            code = await process.wait()
    except TimeoutError:
        raise UnreachableError(
            f"the model is not served within {seconds:g} s", remedy="raise --start-timeout"
        ) from None
    log.seek(0)
    raise read_server_error(log.read().decode("utf-8", "replace"), code)


def read_server_error(text: str, code: int) -> RobustbenchError:
    """Read the error of a server that did not start from its last lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = next((line for line in reversed(lines) if line.startswith(_ERROR_PREFIX)), None)
    kind = _ERRORS.get(code, ModelError)
    if found is not None:
        return kind(found.removeprefix(_ERROR_PREFIX).rstrip("."))
    last = lines[-1][:200] if lines else "without a message"
    return kind(f"the server ended with code {code}: {last}")


async def _stop_process(process: asyncio.subprocess.Process) -> None:
    """Stop a server gracefully, or else at once."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
