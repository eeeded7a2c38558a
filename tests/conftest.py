"""What all tests share: determinism, the folder of published checkpoints, small data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and published checkpoints beside the checkout, where there is one."""
    folder = Path(os.environ.get("RBL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs the photographs and checkpoints of shared/data, which are not beside this checkout")
    return folder
