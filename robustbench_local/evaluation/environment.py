"""Where a run happened: versions, machine and a digest of the code that decides verdicts."""

from __future__ import annotations

import hashlib
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

DECIDING = (
    "attacks",
    "certification",
    "classifier",
    "corruptions",
    "defenses/base.py",
    "defenses/bit_depth.py",
    "defenses/defended.py",
    "defenses/jpeg.py",
    "defenses/median.py",
    "defenses/noise.py",
    "defenses/resize_pad.py",
    "defenses/smoothing.py",
    "evaluation/batches.py",
    "evaluation/cell.py",
    "evaluation/crew.py",
    "evaluation/harness",
    "evaluation/looking.py",
    "evaluation/outcome.py",
    "evaluation/proof.py",
    "evaluation/sparing.py",
    "evaluation/verify.py",
    "evaluation/viewing.py",
    "geometry.py",
    "losses.py",
    "physical",
    "randomness.py",
    "straight_through.py",
    "threat.py",
    "threats",
    "transformation.py",
    "warp.py",
)
"""Files and folders of the package whose change may change a verdict."""
REPORTED = (
    "numpy",
    "pandas",
    "pillow",
    "pyautoattack",
    "robustbench-local",
    "safetensors",
    "timm",
    "torch",
    "torchattacks",
    "torchvision",
)
"""Distributions whose versions a reviewer wants to know."""


def code_version() -> str:
    """The package's version and a digest of the code that decides verdicts, e.g. ``0.1.0+3f9c21d07a4e``."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for entry in DECIDING:
        path = package / entry
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{_version('robustbench-local')}+{digest.hexdigest()[:12]}"


def describe_environment(device: str, workers: int) -> dict[str, Any]:
    """What the report says about the machine; no environment variable, no user or host name.

    Args:
        device: Where the classifiers compute.
        workers: Processes that may share a cell's images.
    """
    versions = {name: _version(name) for name in REPORTED}
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "robustbench_local": versions["robustbench-local"],
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": versions["torchvision"],
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device if gpu is None else f"{device} ({gpu})",
        "threads": torch.get_num_threads(),
        "workers": workers,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version for name, version in versions.items() if version},
    }


def _version(distribution: str) -> str | None:
    """Version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
