"""``rbl view`` as a user runs it: what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from robustbench_local.cli import viewing_run
from robustbench_local.cli.main import run_command

ROOT = Path(__file__).resolve().parents[2]


def test_a_missing_library_is_one_line(monkeypatch, capfd):
    monkeypatch.setattr(viewing_run, "find_spec", lambda name: None)
    assert run_command(["view"]) == 2
    assert capfd.readouterr().err == (
        "rbl: error: rbl view needs starlette and uvicorn. Install them: pip install '.[web]' in the clone\n"
    )


@pytest.mark.extra
def test_what_cannot_be_shown_is_one_line(tmp_path, capfd):
    pytest.importorskip("uvicorn", reason="needs the extra web")
    (tmp_path / "file").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, text in [
            ([tmp_path, "--port", port], f"cannot listen on 127.0.0.1, port {port}: address already in use"),
            ([tmp_path, "--host", "0.0.0.0"], "--host: '0.0.0.0' can be reached from other machines"),
            ([tmp_path, "--host", "example.org"], "can be reached from other machines"),
            ([tmp_path / "nothing"], "cannot be read: no such file or directory. Name a folder with runs"),
            ([tmp_path / "file"], "cannot be read: not a directory"),
            ([tmp_path, "--port", "65536"], "--port"),
        ]:
            assert run_command(["view", *map(str, arguments)]) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert text in line


@pytest.mark.extra
@pytest.mark.slow
def test_it_says_where_it_is_and_ctrl_c_ends_it_quietly(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra web")
    command = [sys.executable, "-m", "robustbench_local.cli", "view", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        url = re.search(r"http://127\.0\.0\.1:[0-9]+/", process.stdout.readline())[0]
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert "There is no run in this folder" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
