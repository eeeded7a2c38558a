"""From a grid to its gate: a model whose gradients are NaN passes nothing unless something else met it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from robustbench_local.evaluation.options import Options
from robustbench_local.run import run_grid

pytestmark = pytest.mark.usefixtures("blank_figures", "full_batch_size")

MODEL = """\
import torch
from torch import nn

class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope * float("nan")

class Net(nn.Module):
    def __init__(self, opaque):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        self.opaque = opaque

    def forward(self, images):
        return self.layers(Opaque.apply(images) if self.opaque else images)

def plain():
    return Net(False)

def opaque():
    return Net(True)
"""
GRID = """\
schema: 1
name: gradientless
data: {source: "npz:images.npz"}
models:
  - {id: plain, source: "python:net.py:plain", num_classes: 4}
  - {id: opaque, source: "python:net.py:opaque", num_classes: 4}
attacks: [fgsm-linf-8MORE]
gates:
  - {metric: robust_accuracy, threat: linf-8, model: opaque, min: 0.5, on: estimate}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL, "utf-8")
    scope: dict = {}
    exec(MODEL, scope)
    pixels = torch.randint(0, 256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    with torch.no_grad():
        labels = scope["plain"]()(pixels / 255).argmax(dim=1)
    np.savez("images.npz", x=pixels.permute(0, 2, 3, 1).numpy(), y=labels.numpy())
    return tmp_path


def ruled(folder, more=""):
    (folder / "grid.yaml").write_text(GRID.replace("MORE", more), "utf-8")
    run = run_grid(
        "grid.yaml", out=f"out{len(more)}", options=Options(device="cpu", batch_size=8, allow_code=True)
    )
    run.report()
    results = json.loads((folder / f"out{len(more)}" / "results.json").read_text("utf-8"))
    robust = {
        cell["model"]: cell["robust_accuracy"]["value"]
        for cell in results["cells"]
        if cell["attack"].startswith("fgsm")
    }
    return run.evaluate_gates(), robust, (folder / f"out{len(more)}" / "report.md").read_text("utf-8")


@pytest.mark.slow
def test_without_a_black_box_nothing_is_decided_and_the_report_says_why(folder):
    gate, robust, report = ruled(folder)
    assert robust["plain"] < 0.5 <= robust["opaque"]
    assert gate.exit_code == 4
    assert "add a black-box attack such as square" in report
    assert "not finite" in report


@pytest.mark.slow
def test_a_black_box_decides(folder):
    gate, robust, _ = ruled(folder, ", {card: square-linf-8, queries: 300}")
    assert robust["opaque"] >= 0.5
    assert gate.exit_code == 1
