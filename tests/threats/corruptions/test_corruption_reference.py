"""Our corruptions beside those of imagecorruptions-imaug, on real photographs.

The fork knows the strengths of ImageNet-C only, so both run with those. Random numbers differ, so what is
compared is the size of the change: mean absolute difference and PSNR to the original.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_local.randomness import RandomStream
from robustbench_local.threats.corruptions import corrupt_images
from robustbench_local.threats.threat_model import CORRUPTIONS

pytestmark = pytest.mark.slow

TOLERANCES = {"frost": (0.25, 1.5), "snow": (0.12, 1.0), "fog": (0.15, 1.5), "motion_blur": (0.15, 1.0),
              "glass_blur": (0.12, 2.2)}  # fmt: skip
"""Relative difference of the mean change, and decibels. The fork draws other angles and clouds, overlays
photographs where our ice is drawn, and its glass copies pixels where ours trades them."""
ELSEWHERE = {"elastic_transform"}
"""The fork has replaced the paper's formula by another one."""


@pytest.fixture(scope="module")
def fork() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("imagecorruptions", reason="needs the extra .[corruptions]")


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> Tensor:
    """Ten photographs of stop signs, 224 pixels."""
    with np.load(shared_data / "rp2_stop_signs.npz", allow_pickle=False) as arrays:
        chosen = arrays["x256"][::4, 16:240, 16:240]
    return torch.from_numpy(chosen.copy()).permute(0, 3, 1, 2).float() / 255


def size_of(change: Tensor) -> tuple[float, float]:
    """Mean absolute change in levels, and mean PSNR in decibels."""
    mean_square = change.square().flatten(1).mean(dim=1)
    return float(change.abs().mean()) * 255, float(-10 * mean_square.log10().mean())


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in ELSEWHERE])
def test_the_change_is_as_large_as_the_forks(fork: ModuleType, photographs: Tensor, name: str, severity: int):
    stream = RandomStream(0, tuple(map(str, range(len(photographs)))), "")
    ours = size_of(corrupt_images(photographs, name, severity, stream) - photographs)
    np.random.seed(0)  # the fork draws from the global generator
    levels = (photographs * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = np.stack([fork.corrupt(each, corruption_name=name, severity=severity) for each in levels])
    theirs = size_of(torch.from_numpy(found).permute(0, 3, 1, 2).float() / 255 - photographs)
    share, decibels = TOLERANCES.get(name, (0.06, 0.5))
    assert ours[0] == pytest.approx(theirs[0], rel=share)
    assert ours[1] == pytest.approx(theirs[1], abs=decibels)
