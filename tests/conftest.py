"""What all tests share: determinism, the folder of published checkpoints, small data."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

# one process a core does more than threads that wait for each other
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", THREADS)))


@pytest.fixture(autouse=True)
def _tracer() -> Iterator[None]:
    """pyautoattack, called directly as a reference, takes away the tracer that measures coverage."""
    trace = sys.gettrace()
    yield
    sys.settrace(trace)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and published checkpoints beside the checkout, where there is one."""
    folder = Path(os.environ.get("RBL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            "needs the photographs and checkpoints of shared/data, which are not beside this checkout"
        )
    return folder


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
    """Forty noisy images and two random networks; the labels are the first one's answers, mostly."""
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
    return folder


@pytest.fixture
def workplace(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small grid, its two networks and its images."""
    shutil.copytree(_made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "grid.yaml").write_text(GRID, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path
