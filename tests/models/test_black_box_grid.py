"""Grids on black boxes: what can run keeps to its queries, what cannot says why, outages are no verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from http_samples import SampleService
from onnx_samples import build_matrix, write_linear_model

from robustbench_local.errors import UnreachableError
from robustbench_local.evaluation.options import Options
from robustbench_local.run import run_grid

GRID = """\
schema: 1
name: boxes
data: {source: "npz:images.npz"}
models:
  - {id: box, SOURCE}
attacks:
  - {card: pgd50-linf-8, limit: 4}
  - {card: hopskipjump-linf-8, queries: 150, limit: 4}
  - {card: boundary-l2-0.5, queries: 120, limit: 4}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images with the labels of the linear network, and of the service's channel means."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(60, 190, size=(12, 3, 4, 4)).astype(np.uint8)
    write_linear_model(tmp_path / "net.onnx", weights=build_matrix() - build_matrix().mean(axis=0))
    scores = (images / 255).reshape(12, -1) @ (build_matrix() - build_matrix().mean(axis=0))
    last = images.transpose(0, 2, 3, 1)
    np.savez("images.npz", x=last, y=scores.argmax(axis=1))
    np.savez("means.npz", x=last, y=images.mean(axis=(2, 3)).argmax(axis=1))
    return tmp_path


def test_an_onnx_model_runs_black_box_cards_and_skips_white_box_ones(folder: Path):
    (folder / "grid.yaml").write_text(GRID.replace("SOURCE", 'source: "onnx:net.onnx", access: scores'))
    run = run_grid("grid.yaml", out="out", options=Options(device="cpu"))
    cells = {cell["attack"].partition("[")[0]: cell for cell in run.results["cells"]}
    skipped = cells["pgd50-linf-8"]
    assert skipped["status"] == "skipped"
    assert "PGD needs gradients, the model 'box' gives scores only. Use an attack that" in skipped["error"]
    for name, queries in (("hopskipjump-linf-8", 150), ("boundary-l2-0.5", 120)):
        cell = cells[name]
        assert (cell["status"], cell["n"], cell["knowledge"], cell["measure"]) == (
            "done",
            4,
            "labels",
            "distance",
        )
        # the attack's queries, and the harness's: one untouched, one candidate, perhaps one in 8 bits
        assert queries - 25 < cell["forward_passes"] / 4 <= queries + 3
        assert cell["counts"]["clean_correct"] == 4
    assert run.is_complete


@pytest.mark.slow
def test_a_service_that_goes_away_ends_the_cell_and_the_same_command_goes_on(
    folder: Path, service: SampleService
):
    options = "endpoint: {retries: 1, rate: 5000}"
    source = f'source: "{service.url.replace("http://", "http://me:hush@")}", {options}'
    text = GRID.replace("SOURCE", source).replace("images.npz", "means.npz")
    (folder / "grid.yaml").write_text(text)
    asked = 0

    def answer(scores: np.ndarray) -> object:
        nonlocal asked
        asked += 1
        if asked == 20:
            service.planned_answers = [(503, b"", {})] * 100
        return {"scores": scores.tolist()}

    service.answer = answer
    run = run_grid("grid.yaml", out="out", options=Options(device="cpu"))
    statuses = [cell["status"] for cell in run.results["cells"]]
    assert statuses == ["skipped", "error", "error"]
    assert not run.is_complete
    problem = run.results["cells"][1]["error"]
    assert problem.startswith(f"{service.url}: the service does not answer, in 2 tries: it answers 503")
    assert len(run.outcomes) == 0  # an outage says nothing about any image
    with pytest.raises(UnreachableError):
        run_grid("grid.yaml", out="out", options=Options(device="cpu"))
    service.planned_answers = []
    (folder / "grid.yaml").write_text(text.replace("retries: 1", "retries: 2"))  # patience decides no verdict
    again = run_grid("grid.yaml", out="out", options=Options(device="cpu"))
    assert again.is_complete
    assert len(again.outcomes) == 8
    written = b"".join(path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file())
    assert b"hush" not in written
