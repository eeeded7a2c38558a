"""The search through a twin of an int8 file: no loop by hand finds an image that it misses."""

from __future__ import annotations

import pytest
import torch

import robustbench_local as rbl
from benchmarks.twins import run_loop_by_hand, search, write_int8_file

EPS = 2 / 255


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # of the exporter and the quantizer
def test_no_loop_by_hand_finds_more_on_an_int8_file(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra .[onnx]")
    pytest.importorskip("onnx", reason="onnx writes the file")
    twin = rbl.load_classifier("zoo:signs-plain")
    signs = rbl.load_dataset("signs", limit=44)
    data = signs.images[:24], signs.labels[:24]
    path = write_int8_file(twin, signs.images[24:], tmp_path)
    artefact = rbl.load_classifier(f"onnx:{path}", num_classes=43, access="scores")
    lost = run_loop_by_hand(artefact, twin, data, EPS, restarts=2, steps=20)
    rows = search(artefact, twin, data, "pgd", EPS)
    ours = torch.tensor((rows["broken"] | ~rows["clean_correct"]).tolist())
    assert 0 < int(lost.sum()) <= int(ours.sum()) < 24
    assert not bool((lost & ~ours).any())
    assert all(rows["clean_prediction"] == rows["twin_clean_prediction"])
    assert 0 < rows["clean_difference"].max() < 2
    black_box = search(artefact, twin, data, "square", EPS)
    assert black_box["broken"].sum() <= rows["broken"].sum()
