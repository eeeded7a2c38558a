"""A server in a process of its own, as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120
ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """``rbl serve`` with arguments, on a free port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / f"server-{time.monotonic_ns()}.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robustbench_local.cli", "serve", *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=folder,
                text=True,
                start_new_session=True,
            )
        self.line = self.process.stdout.readline()  # type: ignore[union-attr]
        match = re.search(r"http://\S+", self.line)
        if match is None:
            self.stop()
            raise AssertionError(self.log.read_text("utf-8"))
        self.url = match[0]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx.get(f"{self.url}ready", timeout=5).raise_for_status()
            except httpx.HTTPError:
                assert time.monotonic() < end, self.log.read_text("utf-8")
                assert self.process.poll() is None, self.log.read_text("utf-8")
                time.sleep(0.1)
            else:
                return

    def read_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]

    def stop(self, kind: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(kind)
        code = self.process.wait(timeout)
        self.process.stdout.close()  # type: ignore[union-attr]
        return code


@contextmanager
def run_serve(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    """A server that has stopped at the end, whatever happens."""
    server = ServerProcess(folder, *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)
