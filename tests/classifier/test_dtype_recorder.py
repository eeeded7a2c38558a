"""Formats of computations are recorded without loading torch's compiler, and beside it."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from robustbench_local.classifier.dtype_recorder import record_dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_formats_are_recorded_without_loading_the_compiler(dtype, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    model = nn.Linear(3, 2).to(dtype)
    with record_dtypes() as recorder:
        model(torch.ones(1, 3, dtype=dtype))
    assert recorder.dtypes == {dtype}
    assert "torch._dynamo" not in sys.modules


@pytest.mark.slow
def test_the_recording_of_a_compiled_model_is_not_compiled():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    compiled = torch.compile(model, backend="eager")
    images = torch.ones(2, 3)
    expected = compiled(images)
    for _ in range(2):
        with record_dtypes() as recorder:  # with gradients, where a compiled recording warns
            assert torch.equal(compiled(images), expected)
        assert recorder.dtypes == {torch.float32}
