"""The environment of a run: versions, machine, and a digest of the code that decides verdicts."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from robustbench_local.classifier.package_code import digest_code

VERDICT_MODULES = tuple(
    f"robustbench_local.{name}"
    for name in (
        "attacks",
        "certification",
        "defenses.wrappers",
        "evaluation.planning.cells",
        "evaluation.execution.executor",
        "evaluation.harness",
        "models",
    )
)
"""Roots of the code that decides verdicts: folders and modules; all that they import decides too."""
REPORTED_DISTRIBUTIONS = (
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
"""Distributions whose versions are part of the report."""


def compute_code_version() -> str:
    """Return the package version and a digest of the code that decides verdicts: ``0.1.0+3f9c21d07a4e``."""
    return f"{_find_version('robustbench-local')}+{digest_code(VERDICT_MODULES)[:12]}"


def find_library_versions(methods: Iterable[str]) -> dict[str, str]:
    """Return the versions of torch and of the libraries whose attacks a grid runs, by display name.

    Args:
        methods: Names of attacks, as in their cards.
    """
    wanted = {
        "pyautoattack" if method.startswith("reference:") else "torchattacks"
        for method in methods
        if method.startswith(("reference:", "torchattacks:"))
    }
    torch_version = {"version of torch": torch.__version__.partition("+")[0]}
    return torch_version | {f"version of {name}": str(_find_version(name)) for name in sorted(wanted)}


def describe_environment(device: str, workers: int) -> dict[str, Any]:
    """Describe the machine for the report, without environment variables, user or host name.

    Args:
        device: Device of the classifiers.
        workers: Number of processes that may share a cell's images.
    """
    versions = {name: _find_version(name) for name in REPORTED_DISTRIBUTIONS}
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "robustbench_local": versions["robustbench-local"],
        "code": compute_code_version(),
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


def _find_version(distribution: str) -> str | None:
    """Return the version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
