"""The checks of ``rbl doctor``: everything that a run needs is installed and intact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from robustbench_local.cli.terminal_output import escape_text, join_text, print_line
from robustbench_local.config.cards import CardKind, list_cards
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import RobustbenchError, format_install_command
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.zoo import find_zoo_card, list_zoo

PROBLEM_EXIT_CODE = 3
MIN_FREE_GIB = 1.0
"""Minimum free disk space; a run's evidence rarely needs more."""


def check_installation() -> int:
    """Run all checks and print a line for each.

    Returns:
        The exit code: 3 if something is broken.
    """
    console = Console()
    broken = False
    for name, check in _CHECKS.items():
        try:
            for line in check():
                print_line(console, join_text(escape_text("ok", "green"), f"       {name}: {line}"))
        except (RobustbenchError, RuntimeError, OSError, ImportError) as problem:
            broken = True
            print_line(console, join_text(escape_text("problem", "red"), f"  {name}: {problem}"))
    return PROBLEM_EXIT_CODE if broken else 0


def _check_versions() -> Iterator[str]:
    names = ("robustbench-local", "torch", "torchvision", "pyautoattack", "pandas", "matplotlib")
    yield ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _check_torchvision() -> Iterator[str]:
    from torchvision.ops import nms  # noqa: PLC0415 - a torchvision of another torch fails on this import or call

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    yield "fits torch"


def _check_device() -> Iterator[str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    yield (
        f"{format_count(os.cpu_count() or 1, 'core')}, "
        f"{format_count(torch.get_num_threads(), 'thread')}, {gpu}"
    )


def _check_extras() -> Iterator[str]:
    for name in ("torchattacks", "timm"):
        missing = f"not installed ({format_install_command(name)})"
        yield f"{name} {metadata.version(name)}" if find_spec(name) else f"{name} {missing}"


_CARD_KINDS: tuple[CardKind, ...] = ("attack", "certificate", "defense")


def _check_cards() -> Iterator[str]:
    counts = {kind: len(list_cards(kind)) for kind in _CARD_KINDS}
    yield ", ".join(f"{count} {kind}s" for kind, count in counts.items()) + ", all well-formed"


def _check_zoo() -> Iterator[str]:
    for name in list_zoo():
        load_classifier(f"zoo:{name}")  # compares the file with the hash in its card
        yield f"{name}: {find_zoo_card(name).sha256[:12]}, as recorded"


def _check_disk() -> Iterator[str]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < MIN_FREE_GIB:
        raise OSError(f"only {free:.1f} GiB free here; a run would stop, resumable, when the disk is full")
    yield f"{free:.0f} GiB free in the working directory"


_CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "versions": _check_versions,
    "torchvision": _check_torchvision,
    "device": _check_device,
    "extras": _check_extras,
    "cards": _check_cards,
    "shipped weights": _check_zoo,
    "disk": _check_disk,
}
