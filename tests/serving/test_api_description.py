"""The API does what its own OpenAPI document says: schemathesis tries thousands of requests of its making."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

for library in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(library, reason="needs the extra web")
pytest.importorskip("schemathesis", reason="needs schemathesis: pip install schemathesis")
import httpx
from serving_process import run_serve
from serving_samples import RED

pytestmark = [pytest.mark.extra, pytest.mark.slow]


NETWORK = """
import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
"""


def test_schemathesis_finds_nothing(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "names.txt").write_text("stop\nspeed limit\nyield\n")
    arguments = ["python:net.py:network", "--allow-code", "--num-classes", "3", "--size", "8"]
    arguments += ["--class-names", "names.txt", "--certificate", "certify-ibp-linf-4"]
    with run_serve(tmp_path, *arguments, "--port", "0", "--rate", "0", "--max-attack-steps", "3") as server:
        document = httpx.get(f"{server.url}openapi.json").json()
        paths = {"/predict", "/certify", "/attack", "/model", "/health", "/ready", "/metrics"}
        assert set(document["paths"]) == paths
        # the models are loaded in the process of the attacks before the first one
        sample = {"content": RED, "headers": {"content-type": "image/png"}, "timeout": 120}
        assert httpx.post(f"{server.url}certify", **sample).status_code == 200
        command = [Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}openapi.json"]
        options = ["--no-color", "--max-examples", "10", "--seed", "1", "--phases", "coverage,fuzzing"]
        done = subprocess.run(
            [*command, *options, "--request-timeout", "100"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        assert "No issues found" in done.stdout
