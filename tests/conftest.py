"""What all tests share: determinism, the folder of published checkpoints, small data."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.assertion import rewrite
from safetensors.torch import save_file

# one process a core does more than threads that wait for each other
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", THREADS)))

os.environ.setdefault("RBL_PILOT_SECONDS", "0")  # a dry run measures nothing unless a test asks for it

if hasattr(os, "register_at_fork"):  # the coverage of a fork is lost with it, and so need not be measured
    os.register_at_fork(after_in_child=lambda: sys.settrace(None))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect faster: without a search for garbage, and without coverage of pytest's own work."""
    rewrite_asserts = rewrite.rewrite_asserts

    def rewrite_untraced(*arguments: Any) -> None:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            rewrite_asserts(*arguments)
        finally:
            sys.settrace(trace)

    rewrite.rewrite_asserts = rewrite_untraced
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # the modules stay as long as the process does
        gc.enable()
        rewrite.rewrite_asserts = rewrite_asserts


@pytest.fixture(autouse=True)
def _tracer() -> Iterator[None]:
    """pyautoattack, called directly as a reference, takes away the tracer that measures coverage."""
    trace = sys.gettrace()
    yield
    if sys.gettrace() is not trace:
        sys.settrace(trace)


@pytest.fixture(scope="session")
def full_batch_size() -> Iterator[int]:
    """The largest batch size that a run tries. Tests of runs try fewer: up to 1024 takes a second a model."""
    from robustbench_local.evaluation.execution import batch_size

    full = batch_size.MAX_BATCH_SIZE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_size, "MAX_BATCH_SIZE", 64)
        patch.setattr(batch_size, "REPEATED_ROUNDS", 0)
        patch.setattr(batch_size, "MAX_REPEATS", 1)
        yield full


@pytest.fixture(scope="session", autouse=True)
def _autograd_started() -> None:
    """Start autograd before a test exports a network.

    torch.export pretends that there are GPUs, for which autograd would start threads, and forks of a process
    with these cannot compute gradients.
    """
    if not torch.cuda.is_available():
        torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and published checkpoints beside the checkout, where there is one."""
    folder = Path(os.environ.get("RBL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            "needs the photographs and checkpoints of shared/data, which are not beside this checkout"
        )
    return folder


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """Reports whose figures are blank files: drawing them takes most of a report's time."""
    from robustbench_local.reports.figures import (
        curves_figure,
        examples_figure,
        heatmap_figure,
        share_tables,
        target_matrix,
    )
    from robustbench_local.reports.writers import figures

    with pytest.MonkeyPatch.context() as patch:
        for module in (curves_figure, examples_figure, heatmap_figure, share_tables, target_matrix):
            for name in [name for name in vars(module) if name.startswith("draw_")]:
                patch.setattr(module, name, lambda *_: None)
        patch.setattr(figures, "_encode_png", lambda _: b"blank")
        yield


GRID = """\
schema: 1
name: small
seed: 3
data: {source: "npz:digits.npz"}
models:
  - {id: first, source: "checkpoint:first.safetensors", architecture: mnist_fast}
  - {id: second, source: "checkpoint:second.safetensors", architecture: mnist_fast}
attacks:
  - fgsm-linf-8
  - {card: pgd50-linf-8, eps: ["8/255", "16/255"], steps: 4, restarts: 2}
gates:
  - {metric: robust_accuracy, threat: linf-8, min: 0.01, on: estimate}
"""


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid, forty noisy images and two random networks; the labels are mostly the first one's answers."""
    from robustbench_local.models.networks.network_registry import find_architecture

    folder = tmp_path_factory.mktemp("made")
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (40, 28, 28), generator=generator, dtype=torch.uint8)
    networks = {}
    for seed, name in enumerate(("first", "second")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks[name] = find_architecture("mnist_fast").build_network(10)
    networks["second"].load_state_dict(networks["first"].state_dict())
    with torch.no_grad():
        for parameter in networks["second"].parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        labels = networks["first"](images[:, None].float() / 255).argmax(dim=1)
        labels[::8] = (labels[::8] + 1) % 10
    for name, network in networks.items():
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    np.savez(folder / "digits.npz", x=images.numpy(), y=labels.numpy())
    (folder / "grid.yaml").write_text(GRID, encoding="utf-8")
    return folder


@pytest.fixture
def workplace(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small grid, its two networks and its images."""
    shutil.copytree(_made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
