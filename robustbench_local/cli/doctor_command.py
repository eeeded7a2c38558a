"""``rbl doctor``: is everything that a run needs here, and whole?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from robustbench_local.cli.terminal_output import join, plain, say
from robustbench_local.config.cards import Kind, list_cards
from robustbench_local.errors import RobustbenchError, how_to_install
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.zoo import find_zoo, list_zoo

PROBLEM = 3
FREE_GIB = 1.0
"""A run's evidence rarely needs more."""


def command() -> int:
    """Check versions, devices, extras, cards and shipped weights; exit 3 if something is broken."""
    console = Console()
    broken = False
    for name, check in _CHECKS.items():
        try:
            for line in check():
                say(console, join(plain("ok", "green"), f"       {name}: {line}"))
        except (RobustbenchError, RuntimeError, OSError, ImportError) as problem:
            broken = True
            say(console, join(plain("problem", "red"), f"  {name}: {problem}"))
    return PROBLEM if broken else 0


def _versions() -> Iterator[str]:
    names = ("robustbench-local", "torch", "torchvision", "pyautoattack", "pandas", "matplotlib")
    yield ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _torchvision() -> Iterator[str]:
    from torchvision.ops import nms  # noqa: PLC0415 - a torchvision of another torch fails on this import or call

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    yield "fits torch"


def _device() -> Iterator[str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    yield f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {gpu}"


def _extras() -> Iterator[str]:
    for name in ("torchattacks", "timm"):
        missing = f"not installed ({how_to_install(name)})"
        yield f"{name} {metadata.version(name)}" if find_spec(name) else f"{name} {missing}"


_KINDS: tuple[Kind, ...] = ("attack", "certificate", "defense")


def _cards() -> Iterator[str]:
    counts = {kind: len(list_cards(kind)) for kind in _KINDS}
    yield ", ".join(f"{count} {kind}s" for kind, count in counts.items()) + ", all well-formed"


def _zoo() -> Iterator[str]:
    for name in list_zoo():
        load_classifier(f"zoo:{name}")  # compares the file with the hash in its card
        yield f"{name}: {find_zoo(name).sha256[:12]}, as recorded"


def _disk() -> Iterator[str]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < FREE_GIB:
        raise OSError(f"only {free:.1f} GiB free here; a run would stop, resumable, when the disk is full")
    yield f"{free:.0f} GiB free in the working directory"


_CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "versions": _versions,
    "torchvision": _torchvision,
    "device": _device,
    "extras": _extras,
    "cards": _cards,
    "shipped weights": _zoo,
    "disk": _disk,
}
